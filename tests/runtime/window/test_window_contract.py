"""The window beyond calls in any order: how exact one step is, what it needs, long rebuilds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from devices import DEVICES, WITH_FUSED
from engine_folder import COMPILED, SEED, TOLERANCE, Truth, make_engine_folder
from window_case import assert_same, everything, load, motions_of, random_robot_case


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device, backend", WITH_FUSED)
def test_each_new_frame_is_the_reference_step(
    device: str, backend: str, precision: str, generator: torch.Generator
) -> None:
    truth, horizon, num_envs = random_robot_case()[1], 24, 301
    engine = load(device, backend, num_envs, precision, horizon=horizon, command_ramp_s=0.5)
    command = truth.commands(num_envs, generator)
    engine.reset(motion=truth.states(num_envs, generator))
    engine.set_command(command)
    newest = motions_of(everything(engine))[:, -1]
    for step in range(1, 4):
        engine.step()
        before, newest = newest, motions_of(everything(engine))[:, -1]
        share = min((step + horizon - 1) / 25, 1.0)  # of the way from 0 to the command
        assert truth.error(newest, truth.step(before, share * command)) < TOLERANCE[precision]


@pytest.mark.parametrize("horizon", [1, 2, 9])
@pytest.mark.parametrize("device, backend", WITH_FUSED)
def test_environments_that_step_by_themselves_have_the_bits_of_those_that_step_together(
    device: str, backend: str, horizon: int, generator: torch.Generator
) -> None:
    truth, num_envs, shares = random_robot_case()[1], 37, [0.0, 1.0, *[0.5] * 8, 0.0, 0.9, 0.1, 1.0]
    engine, together = (load(device, backend, num_envs, "fp32", horizon=horizon, command_ramp_s=0.2) for _ in range(2))
    motion, command = truth.states(num_envs, generator), truth.commands(num_envs, generator)

    def all_of(one: Engine) -> dict[str, torch.Tensor]:
        return {**everything(one), "in force": one.command_in_force.cpu()}

    for one in (engine, together):
        one.reset(motion=motion)
        one.set_command(command)
    frames = [all_of(together)]
    for _ in shares:
        together.step()
        frames.append(all_of(together))
    steps = torch.zeros(num_envs, dtype=torch.long)
    for time, share in enumerate(shares):
        moving = torch.rand(num_envs, generator=generator) < share
        dof_pos, _ = engine.step([moving.to(device), moving, moving.numpy(), moving.tolist()][time % 4])
        assert dof_pos is engine.dof_pos
        steps += moving
        own = {name: torch.stack([frames[t][name][i] for i, t in enumerate(steps.tolist())]) for name in frames[0]}
        assert_same(all_of(engine), own)
    assert steps.min() >= 2 and len(steps.unique()) > 3


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("device, backend", WITH_FUSED)
def test_a_change_of_nobody_changes_nothing(
    device: str, backend: str, horizon: int, generator: torch.Generator
) -> None:
    truth, num_envs = random_robot_case()[1], 5
    engine = load(device, backend, num_envs, "fp32", horizon=horizon)
    engine.reset(motion=truth.states(num_envs, generator), command=truth.commands(num_envs, generator))
    before, mask = everything(engine), torch.zeros(num_envs, dtype=torch.bool)
    for nobody in ([], torch.tensor([], dtype=torch.int64, device=device), mask, mask.to(device)):
        engine.reset(nobody)
        engine.set_command([0.1, 0.0, 0.1], nobody)
    assert_same(everything(engine), before)


@pytest.mark.parametrize("device", DEVICES)
def test_any_number_of_frames_ahead_at_once(device: str, generator: torch.Generator) -> None:
    truth, times = random_robot_case()[1], 40_000
    engine = load(device, num_envs=2, horizon=3)
    engine.reset(motion=truth.states(2, generator), command=truth.commands(2, generator))
    for many, few in zip(engine.future([0, 2] * times), engine.future([0, 2]), strict=True):
        assert torch.equal(many, few.repeat(1, times, *[1] * (few.dim() - 2)))


def test_root_motion_needs_three_commands(tmp_path: Path) -> None:
    make_engine_folder(tmp_path, SEED, ("fp32",), without=COMPILED, num_joints=5, command_dim=2)
    engine = load_engine(tmp_path, 2)
    engine.reset(command=[0.1, 0.1])
    engine.step()
    for call in (lambda: load_engine(tmp_path, 2, horizon=2), lambda: engine.make_pool(2, 3, [0.1, 0.1])):
        with pytest.raises(EngineError, match=r"root motion needs commands \(vx, vy, yaw rate\)"):
            call()


@pytest.mark.parametrize("device", DEVICES)
def test_without_a_robot_heights_and_bodies_are_refused_and_the_rest_works(
    made: tuple[Path, Truth], device: str, generator: torch.Generator
) -> None:
    folder, truth = made
    engine = load_engine(folder, 3, device, "torch", "fp32", horizon=4, command_ramp_s=0.0)
    motion, command = truth.states(3, generator), truth.commands(3, generator)
    engine.reset(motion=motion, command=command)
    pool = engine.make_pool(3, 3, command, motion)
    expected = truth.step(truth.step(motion, command), command)
    for frames in (engine.future([2]), pool.frames([0, 1, 2], [2, 2, 2])):
        dof_pos, dof_vel, root_rot = (value.reshape(3, -1).cpu() for value in (*frames[:2], frames.root_rot))
        assert truth.error(torch.cat([dof_pos, dof_vel], 1), expected) < 1e-5
        assert torch.allclose(2 * torch.atan2(root_rot[:, 3], root_rot[:, 0]), command[:, 2] * 2 / 50, atol=1e-6)
        assert torch.equal(frames.root_ang_vel.reshape(3, 3)[:, 2].cpu(), command[:, 2])
        for field in ("root_pos", "root_vel", "key_body_pos"):
            with pytest.raises(EngineError, match=f"{field} needs the robot's kinematics .* no robot"):
                getattr(frames, field)
    with pytest.raises(EngineError, match="key_bodies needs a robot"):
        load_engine(folder, 3, device, key_bodies=["pelvis"])


def test_bodies_that_a_robot_does_not_have() -> None:
    wrong: Any = (["tail"], "no body 'tail' in robot"), ("root", "expected a list of body names")
    for key_bodies, message in wrong:
        with pytest.raises(EngineError, match=message) as caught:
            load(key_bodies=key_bodies)
        assert "\n" not in str(caught.value)


def test_long_windows_of_many_environments_are_made_in_pieces(generator: torch.Generator) -> None:
    """More frames than wait in memory together (32768): these end between the 81st and the 82nd."""
    truth, robot = random_robot_case()[1:]
    many, few = (load(num_envs=n, horizon=96, command_ramp_s=0.0) for n in (400, 3))
    motion, command = truth.states(400, generator), truth.commands(400, generator)
    for engine in (many, few):
        engine.reset(motion=motion[: engine.num_envs], command=command[: engine.num_envs])
    frames, whole = everything(many), everything(few)
    assert_same({name: value[:3] for name, value in frames.items()}, whole, atol=1e-5, root_vel=2e-3)
    motions = motions_of(frames)
    for last in (1, 40, 81, 82, 95):
        assert truth.error(motions[:, last], truth.step(motions[:, last - 1], command)) < 1e-5
        for env in (7, 399):
            dof_pos = frames["dof_pos"][env, last].double().numpy()
            np.testing.assert_allclose(frames["key_body_pos"][env, last], robot.bodies(dof_pos), atol=1e-5)
            assert float(frames["root_pos"][env, last, 2]) == pytest.approx(robot.height(dof_pos), abs=1e-5)
