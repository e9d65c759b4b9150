"""Pregenerated trajectories against a plain rollout of each in float64, with MuJoCo's kinematics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from devices import DEVICES
from plain_rollout import PlainEnvironment
from window_case import assert_same, check_frame, everything, load, one_frame, random_robot_case


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


def test_lookups_outside_a_trajectory_are_clamped_and_counted() -> None:
    with torch.inference_mode():
        pool = load(num_envs=1).make_pool(3, 4, [0.3, 0.0, 0.1])
    seen = pool.frames([0, 1, 2], [-1, 9, 2])
    expected = pool.frames([0, 1, 2], [0, 3, 2])
    assert torch.equal(seen.root_pos, expected.root_pos) and torch.equal(seen.dof_pos, expected.dof_pos)
    assert pool.lookups_clamped() == 2
    assert pool.frames([], []).dof_pos.shape == (0, 5)
    assert load(num_envs=1).make_pool(2, 1, [0.3, 0.0, 0.1]).frames([1], [0]).dof_pos.shape == (1, 5)


def test_initial_states_come_from_the_bank_and_the_environments_are_left_alone() -> None:
    engine = load(num_envs=2, horizon=3)
    engine.reset(command=[0.2, 0.0, 0.0])
    before = everything(engine)
    pool = engine.make_pool(30, 2, engine.command_range[1] + 1)
    starts = pool.frames(range(30), [0] * 30)
    states = {tuple(row) for row in torch.cat([starts.dof_pos, starts.dof_vel], 1).tolist()}
    assert states <= {tuple(row) for row in engine.bank.tolist()} and len(states) > 10
    assert_same(everything(engine), before)
    with pytest.warns(RuntimeWarning, match="30 commands were clamped"):
        engine.report()
