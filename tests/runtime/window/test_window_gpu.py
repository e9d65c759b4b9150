"""What is only about a GPU: graphs, batches of every size, other streams and graphs, no waiting and no allocation."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError
from devices import operations
from engine_folder import BACKENDS, no_waiting, state
from plain_rollout import PlainEnvironment
from window_case import assert_same, check_frame, everything, load, one_frame, quiet_report, random_robot_case

pytestmark = pytest.mark.gpu

NUM_ENVS, HORIZON = 301, 24
ALL = [*BACKENDS, "fused"]
NAN = float("nan")
every_backend = pytest.mark.parametrize("backend", ALL)
every_horizon = pytest.mark.parametrize("horizon", [1, HORIZON])


def loaded(backend: str = "torch", horizon: int = HORIZON, device: str = "cuda", ramp_s: float = 0.5) -> Engine:
    return load(device, backend, NUM_ENVS, "fp32", horizon=horizon, command_ramp_s=ramp_s)


def drawn(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Motions and commands of all environments, on the host."""
    truth = random_robot_case()[1]
    return truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)


@every_backend
@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 256, 257, NUM_ENVS])
def test_batches_of_every_size(backend: str, count: int, generator: torch.Generator) -> None:
    engine, (_, truth, robot), (motion, command) = loaded(backend), random_robot_case(), drawn(generator)
    engine.reset(motion=motion)
    engine.step()
    before, ids = everything(engine), torch.randperm(NUM_ENVS, generator=generator)[:count]
    engine.reset(ids, motion=motion[ids], command=command[ids], root_pos=[1.0, 2.0, 0.5])
    others = torch.ones(NUM_ENVS, dtype=torch.bool).index_fill_(0, ids, False)
    assert_same(everything(engine), before, others)
    frames = engine.future(range(HORIZON))
    for i in ids[:3].tolist():
        env = PlainEnvironment(truth, robot, ramp_s=0.5)
        env.set_command(command[i].numpy())
        env.reset(motion[i].double().numpy(), np.array([1.0, 2.0, 0.5]), 0.0)
        env.place_again()
        for offset in (0, 1, HORIZON - 1):
            check_frame(robot, env, offset, one_frame(frames, (i, offset)))


def held() -> tuple[int, int, int | None]:
    """Bytes in use, bytes reserved, and how often the device was asked, which older torch does not count."""
    asked = torch.cuda.memory_stats().get("num_device_alloc")
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), asked


@every_horizon
@every_backend
def test_calls_wait_for_nothing_and_reserve_nothing(backend: str, horizon: int, generator: torch.Generator) -> None:
    motion, command = (values.cuda() for values in drawn(generator))
    ids, many = torch.tensor([0, 5, 300], device="cuda"), torch.arange(100, device="cuda")
    mask = torch.zeros(NUM_ENVS, dtype=torch.bool, device="cuda").index_fill_(0, ids, True)
    root_pos, root_rot = torch.zeros(3, 3, device="cuda"), torch.tensor([[1.0, 0.0, 0.0, 0.5]] * 3, device="cuda")
    place: dict[str, Any] = {} if horizon == 1 else {"root_pos": root_pos, "root_rot": root_rot}
    offsets, engine = torch.tensor([0, 7, 99], device="cuda"), loaded(backend, horizon)
    engine.reset()
    torch.cuda.synchronize()
    before = held()[1:]
    with no_waiting():  # stepping alone, from the first step after loading
        engine.step()
        engine.step(mask)
        asked = torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(200):
            engine.step()
            engine.step(mask)
        if backend == "torch":  # which does not even ask the allocator
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == asked
    torch.cuda.synchronize()
    assert held()[1:] == before

    def frame(t: int) -> None:
        engine.step()
        engine.step(mask)
        if horizon > 1:
            engine.future([1, 5, 10, 23])
            engine.frames(ids, offsets)
        if t % 5 == 0:
            engine.set_command(command)
            engine.set_command(command[0], many)
            engine.set_command([0.1, 0.1, 0.1], [1, 2, 3])
            engine.reset(ids, motion=motion[:3], **place)
            engine.reset(mask, command=command)
            engine.reset([4, 7], command=[0.0, 0.0, 0.0])

    for t in range(30):
        frame(t)
    gc.collect()  # of the tests before, whose memory would come back in between
    with no_waiting():
        before = held()
        for t in range(1000):
            frame(t)
        assert held() == before
    assert all(torch.isfinite(value).all() for value in everything(engine).values())


@every_horizon
@every_backend
def test_work_is_ordered_with_the_callers_stream(backend: str, horizon: int, generator: torch.Generator) -> None:
    """Slow work before and a read after, on a stream of the caller's own: nothing may be read early or late."""
    (engine, same), truth = (loaded(backend, horizon, ramp_s=0.0) for _ in range(2)), random_robot_case()[1]
    command = truth.commands(NUM_ENVS, generator)
    for one in (engine, same):
        one.reset(command=command)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(5):
        motion = truth.states(40, generator)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # cycles
            engine.reset(range(40), motion=motion)
            engine.step()
            seen = everything(engine)
        stream.synchronize()
        same.reset(range(40), motion=motion)
        same.step()
        assert_same(seen, everything(same), slice(0, 40))
        assert truth.error(seen["current"][:40], truth.step(motion, command[:40])) < 1e-5


@every_horizon
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_step_can_be_part_of_the_callers_own_graph(backend: str, horizon: int, generator: torch.Generator) -> None:
    """Of all and of some; what the mask says when the graph is replayed is what counts."""
    (engine, same), (motion, command) = (loaded(backend, horizon) for _ in range(2)), drawn(generator)
    for one in (engine, same):
        one.reset(motion=motion, command=command)
    graph, seen = torch.cuda.CUDAGraph(), torch.zeros_like(engine.dof_pos)
    moving = torch.zeros(NUM_ENVS, dtype=torch.bool, device="cuda")
    with torch.cuda.graph(graph):
        engine.step()
        engine.step(moving)
        seen.copy_(engine.dof_pos)
    for _ in range(10):
        moving.copy_(torch.rand(NUM_ENVS, generator=generator) < 0.5)
        graph.replay()
        engine.step()
        same.step()
        same.step(moving)
        assert torch.equal(seen, same.dof_pos)
        same.step()
        assert_same(everything(engine), everything(same))


@every_horizon
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_change_is_a_copy_of_each_argument_and_a_graph(
    backend: str, horizon: int, generator: torch.Generator
) -> None:
    engine, (motion, command) = loaded(backend, horizon), [values.cuda() for values in drawn(generator)]
    engine.reset()
    ids, mask = torch.tensor([7, 0, 299], device="cuda"), torch.zeros(NUM_ENVS, dtype=torch.bool, device="cuda")
    root_pos, root_rot = torch.zeros(3, 3, device="cuda"), torch.ones(3, 4, device="cuda")
    place = {"root_pos": root_pos, "root_rot": root_rot} if horizon > 1 else {}
    for most, change in (
        (3, lambda: engine.set_command(command[:3], ids)),
        (3, lambda: engine.reset(command=command)),
        (4, lambda: engine.reset(mask, command=command)),
        (4, lambda: engine.reset(ids, command=command[0])),
        (4 + len(place), lambda: engine.reset(ids, motion[:3], command[:3], **place)),
    ):
        change()
        assert len(operations(change)) <= most
    if horizon > 1:
        engine.future([1, 5])
        assert operations(lambda: engine.future([1, 5])) == ["aten.new_empty_strided.default"]


@every_horizon
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_of_an_id_that_is_given_twice_the_last_row_counts(
    backend: str, horizon: int, generator: torch.Generator
) -> None:
    (engine, same), (motion, command) = (loaded(backend, horizon) for _ in range(2)), drawn(generator)
    for one in (engine, same):
        one.reset(motion=motion, command=command)
    for count in (40, NUM_ENVS):
        some = torch.randperm(NUM_ENVS, generator=generator)[: count // 2]  # too few for each to come once
        ids = some[torch.randint(len(some), (count,), generator=generator)]
        motion, command = motion.roll(1, 0), 1.5 * command.roll(1, 0)
        last = torch.tensor(sorted({int(column): row for row, column in enumerate(ids)}.values()))
        engine.reset(ids.cuda(), motion[:count], command[:count])
        same.reset(ids[last], motion[last], command[last])
        for one in (engine, same):
            one.step()
        assert torch.equal(engine.command, same.command)
        assert_same(everything(engine), everything(same), atol=1e-4, root_vel=0.1)
    assert quiet_report(engine) == quiet_report(same)
    with pytest.raises(EngineError, match="ids of 301"):
        engine.reset(torch.zeros(NUM_ENVS + 1, dtype=torch.int64, device="cuda"))


@every_horizon
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_change_can_be_part_of_the_callers_own_graph(backend: str, horizon: int, generator: torch.Generator) -> None:
    """What the tensors say when the graph is replayed is what counts; changes beside it are not disturbed by it."""
    (engine, same), (motion, command) = (loaded(backend, horizon) for _ in range(2)), drawn(generator)
    for one in (engine, same):
        one.reset(motion=motion, command=command)
    ids = torch.arange(20, device="cuda")
    motion, command = (values[:20].cuda() for values in drawn(generator))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        engine.reset(ids, motion, command)
    for _ in range(3):
        for kept, new in zip((motion, command), drawn(generator), strict=True):
            kept.copy_(new[:20])
        ids.copy_(torch.randperm(NUM_ENVS, generator=generator)[:20])
        graph.replay()
        same.reset(ids, motion, command)
        for one in (engine, same):
            one.set_command(command.flip(0), ids)
            one.step()
        assert_same(everything(engine), everything(same))


@pytest.mark.parametrize("horizon", [1, 6])
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_rows_that_are_not_finite_are_ignored_and_counted(
    backend: str, horizon: int, generator: torch.Generator
) -> None:
    engine, windowed = loaded(backend, horizon, ramp_s=0.0), horizon > 1
    (motion, command), (bad_motion, _) = ([values.cuda() for values in drawn(generator)] for _ in range(2))
    place: dict[str, Any] = {"root_pos": [1.0, 2.0, 0.0], "root_rot": [1.0, 0.0, 0.0, 1.0]} if windowed else {}
    engine.reset(motion=motion, command=command, **place)
    before, bad_command = everything(engine), command + 10
    bad_command[3, 1] = bad_command[4, 0] = NAN
    bad_motion[6, 2], bad_motion[8, 0] = float("inf"), 1e6
    ignored = [6, 8]
    if windowed:
        root_pos = torch.full((NUM_ENVS, 3), 7.0, device="cuda")
        root_pos[5, 1] = NAN
        ignored, place = [5, 6, 8], {"root_pos": root_pos}
    with no_waiting():
        engine.set_command(bad_command)
        engine.reset(motion=bad_motion, **place)
    others = [i for i in range(NUM_ENVS) if i not in ignored]
    after = everything(engine)
    assert torch.equal(engine.command[3:5], command[3:5])
    assert torch.equal(engine.command[5], engine.command_range[1])
    assert torch.equal(after["current"][others], bad_motion.cpu()[others])
    assert torch.equal(after["current"][ignored], before["current"][ignored])
    assert all(torch.isfinite(value).all() for value in after.values())
    count = len(ignored)
    if windowed:
        for name in set(after) - {"current"}:
            assert torch.equal(after[name][ignored, 0], before[name][ignored, 0]), name
        engine.reset()  # a place that was ignored is not kept
        frames, there = engine.future([0]), torch.full((NUM_ENVS, 2), 7.0)
        there[ignored] = torch.tensor([1.0, 2.0])
        assert torch.equal(frames.root_pos[:, 0, :2].cpu(), there)
        half = frames.root_rot.new_tensor([0.5**0.5, 0.0, 0.0, 0.5**0.5])
        torch.testing.assert_close(frames.root_rot[:, 0], half.expand(NUM_ENVS, 4), rtol=0, atol=1e-6)
        pool, ids = engine.make_pool(2, 20, [0.1, 0.0, 0.1]), torch.arange(NUM_ENVS, device="cuda") % 2
        before = everything(engine)
        with no_waiting():
            engine.start(pool, ids, ids + 1, root_pos=root_pos)
        after = everything(engine)
        assert torch.equal(after["dof_pos"][5], before["dof_pos"][5])
        assert not torch.isclose(after["dof_pos"], before["dof_pos"]).all(dim=2).all(dim=1)[others].any()
        count += 1
    with pytest.warns(RuntimeWarning, match=f"2 commands and {count} motions"):
        report = engine.report()
    assert (report.commands_clamped, report.commands_ignored, report.motions_ignored) == (NUM_ENVS - 2, 2, count)


def test_a_first_reset_that_is_ignored_leaves_a_window_at_rest(generator: torch.Generator) -> None:
    (engine, rest), (motion, command) = (loaded(horizon=6, ramp_s=0.0) for _ in range(2)), drawn(generator)
    rest.reset(motion=random_robot_case()[1].mean.float(), command=command)
    motion[7, 3] = NAN
    engine.reset(motion=motion.cuda(), command=command, root_pos=[3.0, 1.0, 0.5])
    for _ in range(3):
        seen, expected = everything(engine), everything(rest)
        for name in set(seen) - {"current"}:
            first = 1 if name in ("root_vel", "root_ang_vel") else 0  # the frame at rest was made under command 0
            within = 1e-2 if name == "root_vel" else 1e-4
            assert torch.allclose(seen[name][7, first:], expected[name][7, first:], atol=within), name
        for one in (engine, rest):
            one.step()
    assert (engine.future([0]).root_pos[[0, 6, 8], 0, 0] > 2).all()
    with pytest.warns(RuntimeWarning, match="1 motions"):
        engine.report()


def test_tensors_of_a_gpu_are_none_of_an_engine_on_a_cpu() -> None:
    with pytest.raises(EngineError, match="is on cuda:0; expected cpu"):
        load(num_envs=2).set_command(torch.zeros(3, device="cuda"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: `pytest -m gpu` where there are")
@every_horizon
@every_backend
def test_on_the_second_gpu(backend: str, horizon: int, generator: torch.Generator) -> None:
    engine, first = (loaded(backend, horizon, f"cuda:{index}", 0.0) for index in (1, 0))
    (motion, command), truth, pooled = drawn(generator), random_robot_case()[1], []
    for one in (engine, first):
        one.reset(motion=motion, command=command)
        one.step()
        assert truth.error(state(one), truth.step(motion, command)) < 1e-5
        for _ in range(4):
            one.step()
        one.step(torch.arange(NUM_ENVS) % 2 == 0)
        one.reset([1, 2], motion=motion[:2])
        pool = one.make_pool(20, 30, command[:20], motion[:20])
        pooled.append({name: value.cpu() for name, value in pool.frames(range(20), [29] * 20)._asdict().items()})
    assert torch.cuda.current_device() == 0 and engine.dof_pos.device == torch.device("cuda", 1)
    assert_same(everything(engine), everything(first), atol=1e-4, root_vel=0.1)
    assert_same(*pooled, atol=1e-4, root_vel=0.1)


def test_memory_beyond_the_window_is_small() -> None:
    """Of a step and a rebuild; the network here is tiny, so this is the window's own. With the backend that has no
    cuBLAS in it: that takes 32 MiB for each stream that it is used on."""
    load("cuda", "fused", 16, horizon=2).reset()  # what libraries take by themselves
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = load("cuda", "fused", 4096, horizon=96)
    engine.reset()
    engine.step()
    torch.cuda.synchronize()
    frame = -(-4 * (2 * 5 + 13 + 3 * len(engine.key_body_names)) // 16) * 16  # bytes, as the documentation has them
    window = 4096 * 96 * frame / 2**20
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20 - window
    print(f"{extra:.0f} MiB beyond the window's {window:.0f}")
    assert 0 < extra < 64


PENDULUM = """
<mujoco><option timestep="0.005"/><worldbody>
  <body><joint name="a" axis="0 1 0"/><geom size="0.1" pos="0 0 -0.5" contype="0" conaffinity="0"/>
    <body pos="0 0 -1"><joint name="b" axis="0 1 0"/><geom size="0.1" pos="0 0 -0.5" contype="0" conaffinity="0"/>
    </body>
  </body>
</worldbody></mujoco>
"""


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_beside_the_graphs_of_mujoco_warp(backend: str, generator: torch.Generator) -> None:
    """A simulator's steps as its own graph between ours: both go on exactly as they would alone."""
    mujoco = pytest.importorskip("mujoco")
    wp = pytest.importorskip("warp")
    mjw = pytest.importorskip("mujoco_warp")
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    start = mujoco.MjData(model)
    start.qpos[:] = [1.0, -0.5]
    mujoco.mj_forward(model, start)
    with wp.ScopedDevice("cuda:0"):
        on_device = mjw.put_model(model)
        worlds, alone = (mjw.put_data(model, start, nworld=16) for _ in range(2))
        for _ in range(2):  # compiled before it is captured
            mjw.step(on_device, worlds)
            mjw.step(on_device, alone)
        engine, same = loaded(backend), loaded(backend)
        with wp.ScopedCapture() as capture:
            mjw.step(on_device, worlds)
        other = load("cuda", backend, 5, horizon=3)  # captures after the simulator did
        other.reset()
        motion, command = drawn(generator)
        for one in (engine, same):
            one.reset(motion=motion, command=command)
        for _ in range(20):
            wp.capture_launch(capture.graph)
            engine.step()
            engine.reset([3], motion=motion[3], command=command[3])
            other.step()
        for _ in range(20):
            mjw.step(on_device, alone)
            same.step()
            same.reset([3], motion=motion[3], command=command[3])
        torch.cuda.synchronize()
        np.testing.assert_allclose(worlds.qpos.numpy(), alone.qpos.numpy(), atol=1e-5)
        assert abs(worlds.qpos.numpy() - [1.0, -0.5]).max() > 0.05
    assert_same(everything(engine), everything(same))
