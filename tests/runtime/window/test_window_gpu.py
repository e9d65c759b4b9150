"""The window on CUDA: graphs, batches of every size, other streams and graphs, no waiting and no allocation.

That its numbers are right is tested in test_window.py and test_pool.py, whose tests run on both devices.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from cmg_runtime import BackendUnavailable, Engine, load_engine
from cmg_runtime.window.rebuild import batch_sizes
from engine_folder import BACKENDS, TOLERANCE, Truth, no_waiting, state
from plain_rollout import PlainEnvironment
from window_case import check_frame, one_frame, random_robot_case

pytestmark = pytest.mark.gpu

NUM_ENVS, HORIZON = 301, 24


def load(backend: str = "torch", precision: str = "fp32", device: str = "cuda") -> tuple[Engine, Truth]:
    folder, truth, _ = random_robot_case()
    try:
        return load_engine(folder, NUM_ENVS, device, backend, precision, horizon=HORIZON), truth
    except BackendUnavailable as error:
        pytest.skip(str(error))


def window(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in engine.future(range(HORIZON))._asdict().items()}


def test_batch_sizes() -> None:
    assert batch_sizes(4096) == (16, 64, 256, 1024, 4096)
    assert batch_sizes(256) == (16, 64, 256)
    assert batch_sizes(5) == (5,)


@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 256, 257, NUM_ENVS])
def test_batches_of_every_size(backend: str, count: int, generator: torch.Generator) -> None:
    engine, truth = load(backend)
    robot = random_robot_case()[2]
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    engine.reset(motion=motion)
    engine.step()
    before, ids = window(engine), torch.randperm(NUM_ENVS, generator=generator)[:count]
    engine.reset(ids, motion=motion[ids], command=command[ids], root_pos=[1.0, 2.0, 0.5])
    after, others = window(engine), torch.ones(NUM_ENVS, dtype=torch.bool).index_fill_(0, ids, False)
    for name, value in after.items():
        assert torch.equal(value[others], before[name][others]), name
    frames = engine.future(range(HORIZON))
    for i in ids[:3].tolist():
        env = PlainEnvironment(truth, robot, ramp_s=0.5)
        env.set_command(command[i].numpy())
        env.reset(motion[i].double().numpy(), np.array([1.0, 2.0, 0.5]), 0.0)
        for offset in (0, 1, HORIZON - 1):
            check_frame(robot, env, offset, one_frame(frames, (i, offset)))


@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
def test_a_thousand_steps_with_resets_wait_for_nothing_and_reserve_nothing(
    backend: str, generator: torch.Generator
) -> None:
    engine, truth = load(backend)
    engine.reset()
    ids = torch.tensor([0, 5, 300], device="cuda")
    many = torch.arange(100, device="cuda")
    mask = torch.zeros(NUM_ENVS, dtype=torch.bool, device="cuda").index_fill_(0, ids, True)
    motion, command = truth.states(NUM_ENVS, generator).cuda(), truth.commands(NUM_ENVS, generator).cuda()
    root_pos, root_rot = torch.zeros(3, 3, device="cuda"), torch.tensor([[1.0, 0.0, 0.0, 0.5]] * 3, device="cuda")
    offsets = torch.tensor([0, 7, 99], device="cuda")

    def frame(t: int) -> None:
        engine.step()
        engine.future([1, 5, 10, 23])
        engine.frames(ids, offsets)
        if t % 10 == 0:
            engine.set_command(command)
            engine.set_command(command[0], many)
            engine.set_command([0.1, 0.1, 0.1], [1, 2, 3])
            engine.reset(ids, motion=motion[:3], root_pos=root_pos, root_rot=root_rot)
            engine.reset(mask, command=command)
            engine.reset([4, 7], command=[0.0, 0.0, 0.0])

    for t in range(30):
        frame(t)
    gc.collect()  # of the tests before, whose memory would come back in between
    with no_waiting():
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), device_allocations()
        for t in range(1000):
            frame(t)
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), device_allocations()) == before
    assert torch.isfinite(state(engine)).all()
    assert all(torch.isfinite(value).all() for value in window(engine).values())


def device_allocations() -> int | None:
    return torch.cuda.memory_stats().get("num_device_alloc")  # older torch does not count them


@pytest.mark.parametrize("horizon", [1, HORIZON])
def test_steps_do_not_even_ask_the_allocator(horizon: int) -> None:
    engine = load_engine(random_robot_case()[0], NUM_ENVS, "cuda", "torch", horizon=horizon)
    engine.reset()
    engine.step()
    with no_waiting():
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(100):
            engine.step()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
def test_work_is_ordered_with_the_callers_stream(backend: str, generator: torch.Generator) -> None:
    """Slow work before and a read after, on a stream of the caller's own: nothing may be read early or late."""
    (engine, truth), (same, _) = load(backend), load(backend)
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
            seen = engine.future([0, 9])
        stream.synchronize()
        same.reset(range(40), motion=motion)
        same.step()
        expected = same.future([0, 9])
        assert torch.equal(seen.dof_pos[:40], expected.dof_pos[:40])
        assert torch.equal(seen.root_pos[:40], expected.root_pos[:40])


@pytest.mark.parametrize("horizon", [1, HORIZON])
def test_a_step_can_be_part_of_the_callers_own_graph(horizon: int, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engine, same = (load_engine(folder, NUM_ENVS, "cuda", "torch", "fp32", horizon=horizon) for _ in range(2))
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    for one in (engine, same):
        one.reset(motion=motion, command=command)
    graph, seen = torch.cuda.CUDAGraph(), torch.zeros_like(engine.dof_pos)
    with torch.cuda.graph(graph):
        engine.step()
        seen.copy_(engine.dof_pos)
    for _ in range(10):
        graph.replay()
        engine.step()
        same.step()
        assert torch.equal(seen, same.dof_pos)
        same.step()
        assert torch.equal(engine.dof_pos, same.dof_pos)


def test_beside_another_librarys_graphs(generator: torch.Generator) -> None:
    """Warp captures a graph between our steps, and replays it between them."""
    wp = pytest.importorskip("warp")
    wp.init()
    (engine, truth), (same, _) = load(), load()
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    for one in (engine, same):
        one.reset(motion=motion, command=command)
    ones, sums = wp.ones(1000, dtype=float, device="cuda:0"), wp.zeros(1000, dtype=float, device="cuda:0")
    with wp.ScopedCapture(device="cuda:0") as capture:
        wp.copy(sums, ones)
    other = load_engine(random_robot_case()[0], 5, "cuda", "torch", horizon=3)  # captures after Warp did
    other.reset()
    for _ in range(20):
        wp.capture_launch(capture.graph)
        engine.step()
        engine.reset([3], motion=motion[3], command=command[3])
        other.step()
        same.step()
        same.reset([3], motion=motion[3], command=command[3])
    assert (sums.numpy() == 1).all()
    for name, value in window(engine).items():
        assert torch.equal(value, window(same)[name]), name


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
        (engine, truth), (same, _) = load(backend), load(backend)
        with wp.ScopedCapture() as capture:
            mjw.step(on_device, worlds)
        other = load_engine(random_robot_case()[0], 5, "cuda", backend, horizon=3)  # captures after the simulator did
        other.reset()
        motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
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
    for name, value in window(engine).items():
        assert torch.equal(value, window(same)[name]), name


def test_an_engine_survives_the_end_of_another() -> None:
    engine, _ = load()
    other, _ = load()
    for one in (engine, other):
        one.reset()
        one.step()
    expected = window(engine)
    del other
    gc.collect()
    torch.cuda.empty_cache()
    torch.full((1 << 26,), 7.0, device="cuda")  # over what was set free
    for name, value in window(engine).items():
        assert torch.equal(value, expected[name]), name
    motion = state(engine)[:20]
    engine.reset(range(20), motion=motion)
    assert torch.equal(engine.future([0]).dof_pos[:20, 0], motion[:, :5])


def test_kinematics_are_full_precision_with_tf32_switched_on(generator: torch.Generator) -> None:
    folder, truth, robot = random_robot_case()
    torch.set_float32_matmul_precision("high")
    try:
        engine = load_engine(folder, 200, "cuda", "torch", "fp32", horizon=4)
        engine.reset(motion=truth.states(200, generator))
        engine.step()
        window_frames = engine.future([0, 3])
        pool_frames = engine.make_pool(200, 3, [0.3, 0.0, 0.0]).frames(range(200), [2] * 200)
    finally:
        torch.set_float32_matmul_precision("highest")
    for i in range(0, 200, 20):
        for seen in (one_frame(window_frames, (i, 0)), one_frame(window_frames, (i, 1)), one_frame(pool_frames, i)):
            np.testing.assert_allclose(seen["key_body_pos"], robot.bodies(seen["dof_pos"]), atol=1e-5)
            assert seen["root_pos"][2] == pytest.approx(robot.height(seen["dof_pos"]), abs=1e-5)


def test_environments_whose_rows_are_not_finite_keep_their_current_frame(generator: torch.Generator) -> None:
    engine, truth = load()
    motion = truth.states(NUM_ENVS, generator).cuda()
    engine.reset(motion=motion, root_pos=[1.0, 2.0, 0.0])
    before = window(engine)
    bad, root_pos = truth.states(3, generator).cuda(), torch.zeros(3, 3, device="cuda")
    bad[0, 2] = float("nan")
    root_pos[1, 1] = float("inf")
    env_ids = torch.tensor([10, 20, 30], device="cuda")
    with no_waiting():
        engine.reset(env_ids, motion=bad, root_pos=root_pos)
    after = window(engine)
    for name, value in after.items():
        assert torch.equal(value[:, 0][[10, 20]], before[name][:, 0][[10, 20]]), name
        assert torch.isfinite(value).all()
    assert torch.equal(after["root_pos"][30, 0, :2], torch.zeros(2))
    with pytest.warns(RuntimeWarning, match="0 commands and 2 motions"):
        assert engine.report().motions_ignored == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
def test_each_new_frame_is_the_reference_step(backend: str, precision: str, generator: torch.Generator) -> None:
    engine, truth = load(backend, precision)
    engine.reset(motion=truth.states(NUM_ENVS, generator), command=truth.commands(NUM_ENVS, generator))
    for _ in range(3):
        before = newest(engine)
        in_force = engine._state.ramp.at(HORIZON)[:NUM_ENVS].clone()
        engine.step()
        assert truth.error(newest(engine), truth.step(before, in_force)) < TOLERANCE[precision]


def newest(engine: Engine) -> torch.Tensor:
    """The motion states [NUM_ENVS, motion_dim] at the window's far end."""
    frames = engine.future([HORIZON - 1])
    return torch.cat([frames.dof_pos, frames.dof_vel], dim=-1)[:, 0].clone()


def test_a_first_reset_that_is_ignored_leaves_a_window_at_rest(generator: torch.Generator) -> None:
    (engine, truth), (rest, _) = load(), load()
    motion = truth.states(NUM_ENVS, generator).cuda()
    motion[7, 3] = float("nan")
    rest.reset(motion=torch.tensor(rest.manifest.stats.motion_mean))
    with pytest.warns(RuntimeWarning, match="1 motions"):
        engine.reset(motion=motion)
        engine.report()
    for one in (engine, rest):
        one.step()
    for name, value in window(engine).items():
        assert torch.allclose(value[7], window(rest)[name][7], atol=0.1 if name == "root_vel" else 1e-4), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: `pytest -m gpu` where there are")
@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
def test_on_the_second_gpu(backend: str, generator: torch.Generator) -> None:
    (engine, truth), (first, _) = load(backend, device="cuda:1"), load(backend, device="cuda:0")
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    for one in (engine, first):
        one.reset(motion=motion, command=command)
        for _ in range(5):
            one.step()
        one.reset([1, 2], motion=motion[:2])
    pools = [one.make_pool(20, 30, command[:20], motion[:20]) for one in (engine, first)]
    seen, other = (pool.frames(range(20), [29] * 20) for pool in pools)
    for name, value in seen._asdict().items():
        atol = 0.1 if name == "root_vel" else 1e-4
        assert torch.allclose(value.cpu(), getattr(other, name).cpu(), atol=atol), name
    assert torch.cuda.current_device() == 0 and engine.dof_pos.device == torch.device("cuda", 1)
    expected = window(first)
    for name, value in window(engine).items():
        assert torch.allclose(value, expected[name], atol=0.1 if name == "root_vel" else 1e-4), name


def test_memory_beyond_the_window_is_small() -> None:
    """Of a step and a rebuild; the network here is tiny, so this is the window's own. With the backend that has no
    cuBLAS in it: that takes 32 MiB for each stream that it is used on."""
    folder, _, _ = random_robot_case()
    load_engine(folder, 16, "cuda", "fused", horizon=2).reset()  # what libraries take by themselves
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = load_engine(folder, 4096, "cuda", "fused", horizon=96)
    engine.reset()
    engine.step()
    torch.cuda.synchronize()
    assert engine._window is not None
    frames = engine._window.buffers.ring
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20 - frames.numel() * 4 / 2**20
    print(f"{extra:.0f} MiB beyond the window's {frames.numel() * 4 / 2**20:.0f}")
    assert 0 < extra < 64
