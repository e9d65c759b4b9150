"""Pools of trajectories, and starts from them, at once or as planned; that the frames are right: test_window.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import EngineError
from devices import DEVICES, KINDS
from plain_rollout import PlainEnvironment
from window_case import assert_same, check_frame, everything, load, one_frame, random_robot_case

HORIZON, NAN = 9, float("nan")


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_a_pool_holds_plain_rollouts(
    device: str, held: bool, generator: torch.Generator, rng: np.random.Generator
) -> None:
    """More trajectories than are generated together (4096), and more frames than then wait in memory (32768)."""
    count, num_frames = 4100, 30
    _, truth, robot = random_robot_case()
    engine, motion = load(device, "torch", 2, "fp32"), truth.states(count, generator)
    commands = torch.stack([truth.commands(count, generator) for _ in range(1 if held else num_frames - 1)], dim=1)
    pool = engine.make_pool(count, num_frames, commands[:, 0] if held else commands, motion)
    assert (pool.num_trajectories, pool.num_frames, pool.fps) == (count, num_frames, 50.0)
    assert pool.key_body_names == robot.chain.body_names
    ids = np.append(rng.integers(0, count, 16), [0, 4095, 4096, 4095, 4096, count - 1, count - 1])
    times = np.append(rng.integers(0, num_frames, 16), [0, 8, 8, 9, 9, 0, num_frames - 1])
    seen = pool.frames(torch.tensor(ids, device=device), torch.tensor(times, device=device))
    for row, (trajectory, time) in enumerate(zip(ids.tolist(), times.tolist(), strict=True)):
        env = PlainEnvironment(truth, robot, ramp_s=0.5 if held else 0.0)
        env.set_command(commands[trajectory, 0].numpy())
        env.reset(motion[trajectory].double().numpy(), np.zeros(3), 0.0)
        for t in range(time):
            env.set_command(commands[trajectory, 0 if held else t].numpy())
            env.step()
        check_frame(robot, env, 0, one_frame(seen, row))


def test_pools_begin_in_the_bank_clamp_lookups_and_leave_the_environments_alone() -> None:
    engine = load(num_envs=2, horizon=3)
    engine.reset(command=[0.2, 0.0, 0.0])
    before = everything(engine)
    with torch.inference_mode():
        pool = engine.make_pool(30, 2, engine.command_range[1] + 1)
    starts = pool.frames(range(30), [0] * 30)
    states = {tuple(row) for row in torch.cat([starts.dof_pos, starts.dof_vel], 1).tolist()}
    assert states <= {tuple(row) for row in engine.bank.tolist()} and len(states) > 10
    seen, expected = pool.frames([0, 1, 2], [-1, 9, 1]), pool.frames([0, 1, 2], [0, 1, 1])
    assert torch.equal(seen.root_pos, expected.root_pos) and torch.equal(seen.dof_pos, expected.dof_pos)
    assert pool.lookups_clamped() == 2
    assert pool.frames([], []).dof_pos.shape == (0, 5)
    assert engine.make_pool(2, 1, [0.3, 0.0, 0.1]).frames([1], [0]).dof_pos.shape == (1, 5)
    assert_same(everything(engine), before)
    with pytest.warns(RuntimeWarning, match="30 commands were clamped"):
        engine.report()


@pytest.mark.parametrize("device, backend", KINDS)
def test_starts_count_as_resets(device: str, backend: str) -> None:
    engine = load(device, backend, 5, horizon=HORIZON)
    view, pool = engine.future_view([0]), engine.make_pool(3, 20, [0.1, 0.0, 0.1])
    engine.planned_starts(pool).start(torch.arange(3, device=device))
    for call in (engine.step, view.refresh):
        with pytest.raises(EngineError, match=r"2 of 5 .* reset\(\)"):
            call()
    engine.start(pool, [2, 0], [5, 1], [3, 4])
    engine.step()
    torch.testing.assert_close(engine.dof_pos, pool.frames([0, 0, 0, 2, 0], [1, 1, 1, 6, 2]).dof_pos)


def test_wrong_starts_and_plans() -> None:
    engine, ramped = load(num_envs=9, horizon=HORIZON), load(horizon=HORIZON, command_ramp_s=0.1)
    none, nine = [0] * 9, [1] * 9
    pool, short = (engine.make_pool(3, length, [0.1, 0.0, 0.1]) for length in (20, 8))
    changing = engine.make_pool(2, 12, np.zeros((2, 11, 3)))
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
        (lambda: engine.start(changing, none, none), "commands change from frame to frame"),
        (lambda: ramped.start(pool, none, none), "another ramp"),
        (lambda: engine.planned_starts(short), "have 8 frames and the window 9"),
        (lambda: engine.start(pool, [0], [0]), r"trajectory_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, nine, [0]), r"frame_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, [0], [0], [9]), "env_ids has 9"),
        (lambda: planned.start([1, 1]), "twice"),
        (lambda: planned.start([3, 4]), r"trajectory_ids has 20; expected 0\.\.2"),
        (lambda: planned.start([5, 6]), "root_pos has entries that are NaN or infinite"),
        (lambda: engine.start(pool, ids, zeros, mask), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, zeros, zeros, mask, bad[:, :3]), "root_pos has entries that are NaN"),
        (lambda: engine.reset(mask, bad), "motion has entries that are NaN"),
        (lambda: engine.set_command(bad[:, :3], mask), "command has entries that are NaN"),
        (lambda: engine.future_view([HORIZON]), "outside the window"),
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
