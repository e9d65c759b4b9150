"""A random robot's engine folder with a window, its plain truth, and frames checked against it or against others."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import devices
from cmg_runtime import Engine, ReferenceFrames, Report, load_engine
from engine_folder import Truth, shared_robot_folder, state
from mujoco_kinematics import MujocoKinematics
from plain_rollout import PlainEnvironment, Robot

Fields = dict[str, torch.Tensor]


@functools.cache
def random_robot_case() -> tuple[Path, Truth, Robot]:
    folder, truth, mjcf = shared_robot_folder()
    chain = load_engine(folder, 1).manifest.robot
    assert chain is not None
    joint_names = tuple(name.replace("body", "joint") for name in chain.body_names if name != "root")
    return folder, truth, Robot(MujocoKinematics(mjcf, joint_names, "root"), chain)


def load(
    device: str = "cpu", backend: str = "torch", num_envs: int = 5, precision: str | None = None, **more: Any
) -> Engine:
    """An engine of the random robot."""
    return devices.load(random_robot_case()[0], num_envs, device, backend, precision, **more)


def everything(engine: Engine) -> Fields:
    """The current motion states, and all frames of the window, if there is one: copies on the host."""
    frames = {} if engine.horizon == 1 else engine.future(range(engine.horizon))._asdict()
    return {name: value.cpu() for name, value in {"current": state(engine), **frames}.items()}


def motions_of(frames: dict[str, torch.Tensor]) -> torch.Tensor:
    """[num_envs, horizon, motion_dim] motion states of :func:`everything`."""
    if "dof_pos" not in frames:
        return frames["current"].unsqueeze(1)
    return torch.cat([frames["dof_pos"], frames["dof_vel"]], dim=2)


def assert_same(
    seen: Fields, expected: Fields, rows: Any = slice(None), atol: float = 0.0, root_vel: float = 0.0
) -> None:
    """These rows of every field, to the bit unless ``atol`` is given; ``root_vel``: its own, for its z is a difference
    times 50."""
    assert seen.keys() == expected.keys()
    for name, value in seen.items():
        within = max(root_vel, atol) if name == "root_vel" else atol
        torch.testing.assert_close(
            value[rows], expected[name][rows], rtol=0, atol=within, msg=lambda text, name=name: f"{name}: {text}"
        )


def one_frame(frames: ReferenceFrames, index: Any) -> dict[str, np.ndarray]:
    return {name: value[index].double().cpu().numpy() for name, value in frames._asdict().items()}


def check_frame(robot: Robot, env: PlainEnvironment, offset: int, seen: dict[str, np.ndarray]) -> None:
    """The frame against the rollout, and its kinematics against MuJoCo's of the frame's own joints."""
    plain = env.frame(offset)
    motion = torch.from_numpy(np.concatenate([seen["dof_pos"], seen["dof_vel"]]))
    assert env.truth.error(motion, torch.from_numpy(plain.motion)) < 2e-4
    np.testing.assert_allclose(seen["root_pos"][:2], [plain.position.real, plain.position.imag], atol=3e-5)
    np.testing.assert_allclose(seen["root_pos"][2], plain.z, atol=1e-3)
    turned = plain.yaw / 2
    quat = np.array([np.cos(turned), 0, 0, np.sin(turned)])
    np.testing.assert_allclose(seen["root_rot"] * np.sign(seen["root_rot"] @ quat), quat, atol=1e-5)
    vx, vy, rate = plain.command
    heading = np.exp(1j * plain.yaw) * complex(vx, vy)
    np.testing.assert_allclose(seen["root_vel"][:2], [heading.real, heading.imag], atol=3e-5)
    np.testing.assert_allclose(seen["root_vel"][2], plain.vertical, atol=0.03)
    np.testing.assert_allclose(seen["root_ang_vel"], [0, 0, rate], atol=1e-5)

    height = robot.height(seen["dof_pos"])
    np.testing.assert_allclose(seen["root_pos"][2], env.ground + height, atol=1e-5)
    np.testing.assert_allclose(seen["key_body_pos"], robot.bodies(seen["dof_pos"]), atol=1e-5)


def quiet_report(engine: Engine) -> Report:
    """Without the warning that the first one may bring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine.report()
