"""The batched kinematics against MuJoCo on random trees; on the G1: test_window.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_export.read.robot import RobotModel
from cmg_runtime.window.kinematics import ForwardKinematics
from mujoco_kinematics import MujocoKinematics
from random_robot import random_robot

pytest.importorskip("mujoco")


def test_random_trees(tmp_path: Path, rng: np.random.Generator) -> None:
    for case in range(8):
        robot = random_robot(rng, tmp_path / f"robot_{case}.xml", with_references=True)
        names = tuple(rng.permutation(robot.joint_names).tolist())  # the motion state's order is its own
        chain = RobotModel(robot.path).chain(names)
        kinematics = ForwardKinematics(chain, dtype=torch.float64)
        truth = MujocoKinematics(robot.path, names, "root")
        dof_pos = rng.uniform(-3, 3, (5, len(names)))
        positions, rotations = kinematics(torch.tensor(dof_pos))
        for row in range(len(dof_pos)):
            truth.set(dof_pos[row])
            for index, body in enumerate(chain.body_names):
                position, rotation = truth.pose(body)
                np.testing.assert_allclose(positions[row, index], position, atol=1e-7)
                np.testing.assert_allclose(rotations[row, index], rotation, atol=1e-7)


def test_gradients_reach_the_joints(tmp_path: Path, rng: np.random.Generator) -> None:
    robot = random_robot(rng, tmp_path / "robot.xml")
    chain = RobotModel(robot.path).chain(robot.joint_names)
    kinematics = ForwardKinematics(chain, dtype=torch.float64)
    dof_pos = torch.tensor(rng.uniform(-1, 1, len(robot.joint_names)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: kinematics(q)[0], (dof_pos,))
