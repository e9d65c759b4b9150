"""Starts from a pool, at once or as planned, and views of what is ahead; that frames are right: test_window.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import EngineError
from devices import DEVICES, KINDS
from window_case import assert_same, everything, load, random_robot_case

HORIZON, NAN = 9, float("nan")


@pytest.mark.parametrize("device, backend", KINDS)
def test_planned_starts_are_starts(device: str, backend: str, generator: torch.Generator) -> None:
    """The same frames to the bit, in the environments that begin and in the others, over many steps; the plans of those
    that do not begin may be any."""
    num_envs, num_frames = 300, 40
    engine, plain = (load(device, backend, num_envs, horizon=HORIZON, command_ramp_s=0.1) for _ in range(2))
    pool = engine.make_pool(20, num_frames, random_robot_case()[1].commands(20, generator))
    with torch.inference_mode():
        planned = engine.planned_starts(pool)
    fields = planned.trajectory_ids, planned.frame_ids, planned.root_pos, planned.root_rot
    for index in range(30):
        if index:
            engine.step()
            plain.step()
        for start in range(1 + index % 2):  # more than one start between two steps
            plan = (
                torch.randint(20, (num_envs,), generator=generator),
                torch.randint(num_frames - HORIZON + 1, (num_envs,), generator=generator),
                torch.randn(num_envs, 3, generator=generator),
                torch.randn(num_envs, 4, generator=generator),
            )
            count = int(torch.randint(0, 9, (1,), generator=generator)) if index else num_envs
            ids = torch.randperm(num_envs, generator=generator)[:count]
            mask = torch.zeros(num_envs, dtype=torch.bool).index_fill_(0, ids, True)
            for field, values in zip(fields, plan, strict=True):
                others = (~mask).view(-1, *[1] * (values.dim() - 1))
                field.copy_(values.masked_fill(others, NAN if values.is_floating_point() else 1 << 40))
            planned.start((mask if start else ids).to(device))
            trajectories, frames, root_pos, root_rot = (values[ids] for values in plan)
            plain.start(pool, trajectories, frames, ids, root_pos, root_rot)
        assert_same(everything(engine), everything(plain))
        assert torch.equal(engine.command_in_force, plain.command_in_force)
    assert engine.report() == plain.report() and pool.lookups_clamped() == 0


@pytest.mark.parametrize("device, backend", KINDS)
def test_starts_count_as_resets(device: str, backend: str) -> None:
    engine = load(device, backend, 5, horizon=HORIZON)
    pool = engine.make_pool(3, 20, [0.1, 0.0, 0.1])
    planned = engine.planned_starts(pool)
    planned.start(torch.arange(3, device=device))
    with pytest.raises(EngineError, match=r"2 of 5 .* reset\(\)"):
        engine.step()
    engine.start(pool, [2, 0], [5, 1], [3, 4])
    engine.step()
    torch.testing.assert_close(engine.dof_pos, pool.frames([0, 0, 0, 2, 0], [1, 1, 1, 6, 2]).dof_pos)


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_is_the_future_at_each_refresh(device: str, generator: torch.Generator) -> None:
    engine, truth = load(device, "torch", 5, horizon=HORIZON), random_robot_case()[1]
    with torch.inference_mode():
        view = engine.future_view([0, 4, HORIZON - 1])
    addresses = [field.data_ptr() for field in view.frames]
    with pytest.raises(EngineError, match="never reset"):
        view.refresh()
    pool = engine.make_pool(3, 30, truth.commands(3, generator))
    engine.reset(command=truth.commands(5, generator))
    for change in (
        engine.step,
        lambda: engine.set_command(truth.commands(2, generator), [1, 3]),
        lambda: engine.start(pool, [2, 0], [20, 3], [4, 0]),
        engine.step,
    ):
        change()
        view.refresh()
        for seen, expected in zip(view.frames, engine.future([0, 4, HORIZON - 1]), strict=True):
            assert torch.equal(seen, expected)
        assert torch.equal(view.command, engine.command_in_force)
        kept = view.frames.dof_pos.clone()
        engine.step()
        assert torch.equal(view.frames.dof_pos, kept)  # until the next refresh
    assert addresses == [field.data_ptr() for field in view.frames]
    with pytest.raises(EngineError, match="outside the window"):
        engine.future_view([HORIZON])


def test_wrong_starts_and_plans() -> None:
    engine = load(num_envs=9, horizon=HORIZON)
    none, nine = [0] * 9, [1] * 9
    pool, short = (engine.make_pool(3, length, [0.1, 0.0, 0.1]) for length in (20, 8))
    other = load(num_envs=2, key_bodies=(), horizon=2).make_pool(2, 20, [0.0] * 3)
    engine.reset()
    planned = engine.planned_starts(pool)
    planned.trajectory_ids[4] = 20
    planned.root_pos[5, 1] = NAN
    mask, ids, bad = torch.arange(9) % 3 == 1, torch.zeros(9, dtype=torch.int64), torch.zeros(9, 10)
    ids[4], bad[4, :] = 3, NAN
    zeros = torch.zeros_like(ids)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: load(horizon=1).start(pool, none, none), "needs a window"),
        (lambda: load(horizon=1).planned_starts(pool), "needs a window"),
        (lambda: engine.start(other, none, none), "other joints or key bodies"),
        (
            lambda: engine.start(engine.make_pool(2, 12, np.zeros((2, 11, 3))), none, none),
            "commands change from frame to frame",
        ),
        (lambda: load(horizon=HORIZON, command_ramp_s=0.1).start(pool, none, none), "another ramp"),
        (lambda: engine.start(short, none, none), "have 8 frames and the window 9"),
        (lambda: engine.planned_starts(short), "make longer"),
        (lambda: engine.start(pool, [3] * 9, nine), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, [0], [0]), r"trajectory_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, nine, [0]), r"frame_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, [0], [0], [9]), "env_ids has 9"),
        (lambda: engine.start(pool, nine, nine, root_pos=[NAN] * 3), "root_pos has entries that are NaN"),
        (lambda: planned.start([1, 1]), "twice"),
        (lambda: planned.start([3, 4]), r"trajectory_ids has 20; expected 0\.\.2"),
        (lambda: planned.start([5, 6]), "root_pos has entries that are NaN or infinite"),
        (lambda: engine.start(pool, ids, zeros, mask), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, zeros, zeros, mask, bad[:, :3]), "root_pos has entries that are NaN"),
        (lambda: engine.reset(mask, bad), "motion has entries that are NaN"),
        (lambda: engine.reset(mask, root_pos=bad[:, :3]), "root_pos has entries that are NaN"),
        (lambda: engine.set_command(bad[:, :3], mask), "command has entries that are NaN"),
    ]
    before = everything(engine)
    for call, message in calls:
        with pytest.raises(EngineError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert_same(everything(engine), before)
    mask[4] = False
    engine.start(pool, ids, zeros, mask, bad[:, :3])
    planned.start([3])  # whose plan is a good one
