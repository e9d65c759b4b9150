"""Pregenerated trajectories against a plain rollout of each in float64, with MuJoCo's kinematics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_runtime import EngineError, load_engine
from cmg_runtime.window import pool as pool_module
from engine_folder import Truth
from plain_rollout import PlainEnvironment
from window_case import DEVICES, check_frame, one_frame, random_robot_case


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_a_pool_holds_plain_rollouts(
    device: str, held: bool, generator: torch.Generator, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TRAJECTORIES_AT_ONCE", 5)  # so that 13 trajectories of 70 frames come in pieces
    monkeypatch.setattr(pool_module, "FRAMES_AT_ONCE", 5 * 16)
    folder, truth, robot = random_robot_case()
    engine = load_engine(folder, 2, device, "torch", "fp32")
    motion = truth.states(13, generator)
    commands = torch.stack([truth.commands(13, generator) for _ in range(1 if held else 69)], dim=1)
    pool = engine.make_pool(13, 70, commands[:, 0] if held else commands, motion)
    assert (pool.num_trajectories, pool.num_frames, pool.fps) == (13, 70, 50.0)
    assert pool.key_body_names == robot.chain.body_names
    ids, times = rng.integers(0, 13, 40), np.append(rng.integers(0, 70, 38), [0, 69])
    seen = pool.frames(torch.tensor(ids, device=device), torch.tensor(times, device=device))
    for row in range(40):
        env = PlainEnvironment(truth, robot, ramp_s=0.5 if held else 0.0)
        if held:
            env.set_command(commands[ids[row], 0].numpy())
            env.reset(motion[ids[row]].double().numpy(), np.zeros(3), 0.0)
        else:
            env.set_command(commands[ids[row], 0].numpy())
            env.reset(motion[ids[row]].double().numpy(), np.zeros(3), 0.0)
            for t in range(times[row]):
                env.set_command(commands[ids[row], t].numpy())
                env.step()
        check_frame(robot, env, int(times[row]) if held else 0, one_frame(seen, row))


def test_lookups_outside_a_trajectory_are_clamped_and_counted() -> None:
    folder, _, _ = random_robot_case()
    pool = load_engine(folder, 1).make_pool(3, 4, [0.3, 0.0, 0.1])
    seen = pool.frames([0, 1, 2], [-1, 9, 2])
    expected = pool.frames([0, 1, 2], [0, 3, 2])
    assert torch.equal(seen.root_pos, expected.root_pos) and torch.equal(seen.dof_pos, expected.dof_pos)
    assert pool.lookups_clamped() == 2
    assert pool.frames([], []).dof_pos.shape == (0, 5)
    assert load_engine(folder, 1).make_pool(2, 1, [0.3, 0.0, 0.1]).frames([1], [0]).dof_pos.shape == (1, 5)


def test_initial_states_come_from_the_bank_and_the_environments_are_left_alone() -> None:
    engine = load_engine(random_robot_case()[0], 2, horizon=3)
    engine.reset(command=[0.2, 0.0, 0.0])
    before = engine.future([0, 1, 2])
    pool = engine.make_pool(30, 2, engine.command_range[1] + 1)
    starts = pool.frames(range(30), [0] * 30)
    states = {tuple(row) for row in torch.cat([starts.dof_pos, starts.dof_vel], 1).tolist()}
    assert states <= {tuple(row) for row in engine.bank.tolist()} and len(states) > 10
    assert torch.equal(engine.future([0, 1, 2]).root_pos, before.root_pos)
    with pytest.warns(RuntimeWarning, match="30 commands were clamped"):
        engine.report()


def test_wrong_pools(made: tuple[Path, Truth]) -> None:
    engine = load_engine(random_robot_case()[0], 2)
    wrong = [
        (lambda: engine.make_pool(0, 5, [0.0] * 3), "num_trajectories is 0"),
        (lambda: engine.make_pool(2, True, [0.0] * 3), "num_frames is True"),
        (
            lambda: engine.make_pool(2, 5, np.zeros((2, 5, 3))),
            r"commands has shape \[2, 5, 3\]; expected \[2, 4, 3\] or \[2, 3\] or \[3\]",
        ),
        (lambda: engine.make_pool(2, 5, [float("nan")] * 3), "commands has entries that are NaN"),
        (lambda: engine.make_pool(2, 5, [0.0] * 3, np.zeros((3, 10))), r"motion has shape \[3, 10\]"),
        (lambda: engine.make_pool(2, 5, [0.0] * 3).frames([2], [0]), r"trajectory_ids has 2; expected 0\.\.1"),
        (lambda: engine.make_pool(2, 5, [0.0] * 3).frames([0, 1], [0]), r"frame_ids has shape \[1\]; expected \[2\]"),
    ]
    for call, message in wrong:
        with pytest.raises(EngineError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    without_robot = load_engine(made[0], 2).make_pool(2, 5, [0.1, 0.0, 0.0]).frames([0], [4])
    assert without_robot.root_rot.shape == (1, 4)
    with pytest.raises(EngineError, match="no robot"):
        _ = without_robot.root_pos


def test_a_pool_made_in_inference_mode_is_counted_outside() -> None:
    with torch.inference_mode():
        pool = load_engine(random_robot_case()[0], 1).make_pool(2, 3, [0.1, 0.0, 0.0])
    pool.frames([1], [9])
    assert pool.lookups_clamped() == 1
