"""A random robot's engine folder with a window, its plain truth, and one frame checked against it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import ReferenceFrames, load_engine
from engine_folder import Truth, shared_robot_folder
from mujoco_kinematics import MujocoKinematics
from plain_rollout import PlainEnvironment, Robot

DEVICES = [pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=pytest.mark.gpu)]


@functools.cache
def random_robot_case() -> tuple[Path, Truth, Robot]:
    folder, truth, mjcf = shared_robot_folder()
    chain = load_engine(folder, 1).manifest.robot
    assert chain is not None
    joint_names = tuple(name for name in chain.body_names if name != "root")
    return (
        folder,
        truth,
        Robot(MujocoKinematics(mjcf, tuple(n.replace("body", "joint") for n in joint_names), "root"), chain),
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
