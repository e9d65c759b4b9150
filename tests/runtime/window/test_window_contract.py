"""The window's contract beyond its numbers: what a call leaves alone, what a mask leaves out, how rebuilds are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import EngineError, load_engine
from cmg_runtime.window.rebuild import batch_sizes
from devices import DEVICES, WITH_FUSED
from engine_folder import COMPILED, SEED, TOLERANCE, Truth, make_engine_folder, state
from window_case import assert_same, everything, load, random_robot_case


@pytest.mark.parametrize("horizon", [1, 11])
@pytest.mark.parametrize("device, backend", WITH_FUSED)
def test_others_stay_bit_identical(device: str, backend: str, horizon: int, generator: torch.Generator) -> None:
    truth = random_robot_case()[1]
    one, other = (load(device, backend, 37, "fp32", horizon=horizon) for _ in range(2))
    motion, command = truth.states(37, generator), truth.commands(37, generator)
    for engine in (one, other):
        engine.reset(motion=motion, command=command)
        for _ in range(5):
            engine.step()
    before, mask = everything(one), torch.zeros(37, dtype=torch.bool, device=device)
    mask[[3, 9]] = True
    one.set_command(command.flip(0), mask)
    one.set_command(command[:2], [20, 21])
    first = {name: value if value.dim() == 2 else value[:, 0] for name, value in everything(one).items()}
    assert_same(first, {name: value if value.dim() == 2 else value[:, 0] for name, value in before.items()})
    place: dict[str, Any] = {"root_pos": [1.0, 1.0, 0.0]} if horizon > 1 else {}
    one.reset([0, 7, 36], truth.states(3, generator), truth.commands(3, generator), command_at_once=True, **place)
    changed = torch.zeros(37, dtype=torch.bool)
    changed[[0, 7, 36, 3, 9, 20, 21]] = True
    for _ in range(3):
        if horizon == 1:  # the network has to step for a command to be seen
            one.step()
            other.step()
        seen, expected = everything(one), everything(other)
        assert_same(seen, expected, ~changed)
        name, last = ("current", slice(None)) if horizon == 1 else ("dof_pos", (slice(None), -1))
        assert not torch.isclose(seen[name][last], expected[name][last]).all(dim=1)[changed].any()
        if horizon > 1:
            one.step()
            other.step()
            for name, value in everything(one).items():  # what was one frame ahead, to the bit
                if name != "current":
                    assert torch.equal(value[:, 0], seen[name][:, 1]), name


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_with_a_window_makes_the_frames_of_one_without(device: str, generator: torch.Generator) -> None:
    truth = random_robot_case()[1]
    engines = [load(device, "torch", 3, "fp32", horizon=horizon) for horizon in (1, 2, 96)]
    motion, commands = truth.states(3, generator), [truth.commands(3, generator) for _ in range(4)]
    in_force = []
    for engine in engines:
        addresses = engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr()
        engine.reset(motion=motion)
        in_force.append([engine.command_in_force])
        for t in range(40):
            if t % 10 == 0:
                engine.set_command(commands[t // 10])
            dof_pos, dof_vel = engine.step()
            in_force[-1].append(engine.command_in_force)
            assert dof_pos is engine.dof_pos and dof_vel is engine.dof_vel
        assert addresses == (engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr())
    for engine, seen in zip(engines[1:], in_force[1:], strict=True):
        assert truth.error(state(engine), state(engines[0]).double().cpu()) < 1e-4
        assert torch.equal(engine.future([0]).dof_pos[:, 0], engine.dof_pos)
        torch.testing.assert_close(torch.stack(seen), torch.stack(in_force[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device, backend", WITH_FUSED)
def test_each_new_frame_is_the_reference_step(
    device: str, backend: str, precision: str, generator: torch.Generator
) -> None:
    truth, horizon, num_envs = random_robot_case()[1], 24, 301
    engine = load(device, backend, num_envs, precision, horizon=horizon, command_ramp_s=0.5)
    command = truth.commands(num_envs, generator)
    engine.reset(motion=truth.states(num_envs, generator), command=command)
    newest = everything(engine)
    for step in range(1, 4):
        engine.step()
        before, newest = newest, everything(engine)
        share = min((step + horizon - 1) / 25, 1.0)  # of the way from 0 to the command
        motions = [torch.cat([frames["dof_pos"], frames["dof_vel"]], dim=2)[:, -1] for frames in (before, newest)]
        assert truth.error(motions[1], truth.step(motions[0], share * command)) < TOLERANCE[precision]


def test_root_motion_needs_three_commands(tmp_path: Path) -> None:
    make_engine_folder(tmp_path, SEED, ("fp32",), without=COMPILED, num_joints=5, command_dim=2)
    engine = load_engine(tmp_path, 2, backend="torch")
    engine.reset(command=[0.1, 0.1])
    engine.step()
    for call in (
        lambda: load_engine(tmp_path, 2, backend="torch", horizon=2),
        lambda: engine.make_pool(2, 3, [0.1, 0.1]),
    ):
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


@pytest.mark.parametrize(
    "key_bodies, message", [(["tail"], "no body 'tail' in robot"), ("root", "expected a list of body names")]
)
def test_bodies_that_a_robot_does_not_have(key_bodies: Any, message: str) -> None:
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
    motions = torch.cat([frames["dof_pos"], frames["dof_vel"]], dim=2)
    for last in (1, 40, 81, 82, 95):
        assert truth.error(motions[:, last], truth.step(motions[:, last - 1], command)) < 1e-5
        for env in (7, 399):
            dof_pos = frames["dof_pos"][env, last].double().numpy()
            np.testing.assert_allclose(frames["key_body_pos"][env, last], robot.bodies(dof_pos), atol=1e-5)
            assert float(frames["root_pos"][env, last, 2]) == pytest.approx(robot.height(dof_pos), abs=1e-5)


def test_batch_sizes() -> None:
    """Of ids on a GPU, as the engine's documentation has them."""
    assert batch_sizes(4096) == (16, 64, 256, 1024, 4096)
    assert batch_sizes(256) == (16, 64, 256)
    assert batch_sizes(5) == (5,)
