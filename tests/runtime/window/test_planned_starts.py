"""Starts that were planned for every environment are the starts of those that begin."""

from __future__ import annotations

import pytest
import torch

from cmg_runtime import Engine, EngineError, TrajectoryPool, load_engine
from window_case import random_robot_case

NUM_ENVS, HORIZON, FRAMES = 300, 8, 40
KINDS = [
    ("cpu", "torch"),
    pytest.param("cuda", "torch", marks=pytest.mark.gpu),
    pytest.param("cuda", "fused", marks=pytest.mark.gpu),
]


def load(device: str, backend: str) -> Engine:
    return load_engine(random_robot_case()[0], NUM_ENVS, device, backend, horizon=HORIZON, command_ramp_s=0.1)


def make_pool(engine: Engine, generator: torch.Generator) -> TrajectoryPool:
    low, high = engine.command_range
    commands = low + torch.rand(20, 3, generator=generator).to(engine.device) * (high - low)
    return engine.make_pool(20, FRAMES, commands)


@pytest.mark.parametrize("device, backend", KINDS)
def test_planned_starts_are_starts(device: str, backend: str, generator: torch.Generator) -> None:
    """The same frames to the bit, in the environments that begin and in the others, over many steps."""
    engine, plain = load(device, backend), load(device, backend)
    pool = make_pool(engine, generator)
    planned = engine.planned_starts(pool)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    for index in range(40):
        if index:
            engine.step()
            plain.step()
        if index % 3 == 0:
            planned.trajectory_ids.copy_(torch.randint(20, (NUM_ENVS,), generator=generator))
            planned.frame_ids.copy_(torch.randint(FRAMES - HORIZON + 1, (NUM_ENVS,), generator=generator))
            planned.root_pos.copy_(drawn(NUM_ENVS, 3))
            planned.root_rot.copy_(drawn(NUM_ENVS, 4))
        for _ in range(1 + index % 2):  # more than one start between two steps
            count = int(torch.randint(0, 9, (1,), generator=generator)) if index else NUM_ENVS
            ids = torch.randperm(NUM_ENVS, generator=generator)[:count].to(device)
            planned.start(ids)
            plan = planned.trajectory_ids[ids], planned.frame_ids[ids]
            plain.start(pool, *plan, ids, planned.root_pos[ids], planned.root_rot[ids])
        for name, seen, expected in zip(
            plain.future([0])._fields, engine.future(range(HORIZON)), plain.future(range(HORIZON)), strict=True
        ):
            assert torch.equal(seen, expected), (index, name)
        assert torch.equal(engine.command_in_force, plain.command_in_force)
    assert engine.report() == plain.report()


@pytest.mark.parametrize("device, backend", KINDS)
def test_who_never_began_is_known(device: str, backend: str, generator: torch.Generator) -> None:
    engine = load(device, backend)
    planned = engine.planned_starts(make_pool(engine, generator))
    planned.start(torch.arange(5, device=device))
    with pytest.raises(EngineError, match="reset"):
        engine.step()
    planned.start(torch.arange(5, NUM_ENVS, device=device))
    engine.step()


@pytest.mark.parametrize("device, backend", KINDS)
def test_a_plan_made_in_inference_mode_can_be_changed_outside(
    device: str, backend: str, generator: torch.Generator
) -> None:
    engine = load(device, backend)
    with torch.inference_mode():
        planned = engine.planned_starts(make_pool(engine, generator))
        planned.start(None)
    planned.frame_ids.fill_(3)
    planned.start([1, 2])
    engine.step()


@pytest.mark.parametrize("device, backend", KINDS)
def test_plans_of_those_that_do_not_begin_may_be_any(device: str, backend: str, generator: torch.Generator) -> None:
    engine, plain = load(device, backend), load(device, backend)
    pool = make_pool(engine, generator)
    planned = engine.planned_starts(pool)
    planned.start(None)
    zeros = torch.zeros(NUM_ENVS, dtype=torch.int64, device=device)
    plain.start(pool, zeros, zeros)
    planned.trajectory_ids.fill_(1 << 40)
    planned.root_pos.fill_(float("nan"))
    mask = (torch.rand(NUM_ENVS, generator=generator) < 0.2).to(device)
    planned.trajectory_ids[mask] = 7
    planned.root_pos[mask] = 0.0
    planned.start(mask)
    plain.start(pool, zeros + 7, zeros, mask)
    engine.step()
    plain.step()
    for seen, expected in zip(engine.future(range(HORIZON)), plain.future(range(HORIZON)), strict=True):
        assert torch.equal(seen, expected)
    assert engine.report() == plain.report()


def test_wrong_plans_and_ids_are_refused_and_nothing_changes(generator: torch.Generator) -> None:
    engine = load("cpu", "torch")
    pool = make_pool(engine, generator)
    planned = engine.planned_starts(pool)
    planned.start(None)
    before = engine.future(range(HORIZON)).dof_pos.clone()
    with pytest.raises(EngineError, match="twice"):
        planned.start([1, 1])
    planned.trajectory_ids[4] = 20
    with pytest.raises(EngineError, match="trajectory_ids has 20; expected 0..19"):
        planned.start([3, 4])
    planned.root_pos[5, 1] = float("nan")
    with pytest.raises(EngineError, match="root_pos has entries that are NaN or infinite"):
        planned.start([5, 6])
    assert torch.equal(engine.future(range(HORIZON)).dof_pos, before)
    planned.start([3])  # whose plan is a good one
    short = load_engine(random_robot_case()[0], 4, "cpu", "torch", horizon=FRAMES + 1, command_ramp_s=0.1)
    with pytest.raises(EngineError, match="make longer"):
        short.planned_starts(pool)
    with pytest.raises(EngineError, match="window"):
        load_engine(random_robot_case()[0], 4, "cpu", "torch").planned_starts(pool)
