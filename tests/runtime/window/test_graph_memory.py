"""What captured CUDA graphs read stays theirs, whatever is freed and written over; and no more of it than needed."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cmg_runtime.device.scratch import Scratch
from engine_folder import BACKENDS, TOLERANCE
from window_case import assert_same, everything, load, random_robot_case

NUM_ENVS, HORIZON = 130, 40


def overwrite_what_is_free() -> list[torch.Tensor]:
    """Fill every block that torch's allocator would give out, small and large, with what no frame and no index is."""
    gc.collect()
    torch.cuda.synchronize()
    sizes, garbage = [64] * 4000 + [10**4, 10**5, 10**6] * 20, torch.iinfo(torch.int64).max // 3
    filled = [torch.full((size,), garbage, dtype=torch.int64, device="cuda") for size in sizes]
    torch.cuda.synchronize()
    return filled


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [*BACKENDS, "fused"])
def test_graphs_read_nothing_that_was_freed(backend: str, generator: torch.Generator) -> None:
    """Two engines alike; around one of them everything that can be let go is let go and written over."""
    truth = random_robot_case()[1]
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    offsets = [torch.randperm(HORIZON, generator=generator)[:5].sort().values.tolist() for _ in range(200)]
    made: list[list[Any]] = []
    for _ in range(3):
        engine = load("cuda", backend, NUM_ENVS, horizon=HORIZON)
        pool = engine.make_pool(3, HORIZON + 9, command[:3], motion=motion[:3])
        engine.reset(motion=motion, command=command)
        made.append([engine, engine.future_view(offsets[0]), engine.planned_starts(pool)])
        made[-1][2].trajectory_ids.copy_(torch.arange(NUM_ENVS) % 3)
        made[-1][2].frame_ids.copy_(torch.arange(NUM_ENVS) % 9)
        del pool, engine
    del made[2]  # the end of one engine is nothing to the others
    engine, calm = made[0][0], made[1][0]
    for t, others in enumerate(offsets[1:]):  # more lists than are kept
        engine.future(others)
        if t % 50 == 0:
            engine.rollout(motion[: t + 1], command[: t + 1], num_frames=3)  # more rows than before
            engine.rollout(motion.repeat(t + 1, 1), command.repeat(t + 1, 1), num_frames=2)
    garbage = overwrite_what_is_free()
    for t in range(30):
        for one, view, plan in made:
            one.step()
            if t % 7 == 0:
                one.set_command(command.flip(0)[: t + 1], range(t + 1))
                plan.start(torch.arange(t, t + 3))
            view.refresh()
        for value, *alike in zip(made[0][1].frames, made[1][1].frames, calm.future(offsets[0]), strict=True):
            assert all(torch.equal(value, other) for other in alike), t
    assert_same(everything(engine), everything(calm))
    assert len(garbage)


def test_what_graphs_read_cannot_be_exchanged(generator: torch.Generator) -> None:
    engine = load(num_envs=4, horizon=6)
    engine.reset()
    planned = engine.planned_starts(engine.make_pool(2, 9, random_robot_case()[1].commands(2, generator)))
    for name in ("trajectory_ids", "frame_ids", "root_pos", "root_rot"):
        with pytest.raises(AttributeError):
            setattr(planned, name, getattr(planned, name).clone())
    with pytest.raises(AttributeError):
        setattr(engine.future_view([1]), "command", torch.zeros(4, 3))  # noqa: B010


def test_scratch_memory_grows_and_gives_back() -> None:
    scratch, made = Scratch(torch.empty, lambda memory: (memory,), most=1000), []
    for rows in (7, 3, 8, 20, 100, 99, 900, 1000, 1):
        memory = scratch.of(rows)
        assert rows <= len(memory) <= 1000
        if not made or made[-1]() is not memory:
            made.append(weakref.ref(memory))
        del memory
    assert [reference() is None for reference in made] == [True] * (len(made) - 1) + [False]
    assert len(made) <= 5  # 7, 14, 28, 100, 1000


@pytest.mark.parametrize("captured", [False, True])
def test_scratch_memory_that_is_not_there_is_not_given_out(captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be made larger, whoever tries again gets an error again, and never less than was asked for."""
    monkeypatch.setattr("cmg_runtime.device.scratch._is_captured", lambda tensor: captured)
    make = Mock(side_effect=[torch.empty(70), *[MemoryError] * 4, torch.empty(300)])
    scratch = Scratch(make, lambda memory: (memory,))
    first = scratch.of(70)
    for _ in range(4):
        with pytest.raises(MemoryError):
            scratch.of(200)
    if captured:
        assert scratch.of(70) is first
    assert len(scratch.of(300)) >= 300 and make.call_count == 6


@pytest.mark.gpu
def test_scratch_memory_stays_below_twice_the_largest(seed: int, generator: torch.Generator) -> None:
    """Whatever grows on the way, with a graph captured at each size; and every graph still gives its bits."""
    from fused_case import fused_network

    network, truth = fused_network("fp16", 64, torch.device("cuda"), seed, hidden_dim=256)
    motion, command = truth.states(16384, generator).cuda(), truth.commands(16384, generator).cuda()
    out, graphs = torch.zeros_like(motion), []

    def held() -> int:
        gc.collect()
        return torch.cuda.memory_allocated()

    before = held()
    for rows in range(100, 16384, 700):
        part = slice(0, rows)
        network(motion[part], command[part], out[part])
        if rows % 3 == 0:
            torch.cuda.synchronize()
            graphs.append((rows, torch.cuda.CUDAGraph()))
            with torch.cuda.graph(graphs[-1][1]):
                network(motion[part], command[part], out[part])
    grown = held() - before
    before = held()
    at_once, _ = fused_network("fp16", 16384, torch.device("cuda"), seed, hidden_dim=256)
    assert 0 < grown < 2 * (held() - before)
    for rows, graph in graphs:
        out.fill_(float("nan"))
        graph.replay()
        expected = truth.step(motion[:rows].cpu(), command[:rows].cpu())
        assert truth.error(out[:rows].cpu(), expected) < TOLERANCE["fp16"]
    assert at_once is not network
