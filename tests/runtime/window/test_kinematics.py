"""The batched kinematics against MuJoCo: random trees, and the G1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_export.read.robot import RobotModel, g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES
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


@pytest.mark.skipif(g1_model() is None, reason="mjlab is not installed")
def test_g1(rng: np.random.Generator) -> None:
    path = g1_model()
    assert path is not None
    chain = RobotModel(path).chain(JOINT_NAMES)
    kinematics = ForwardKinematics(chain)
    truth = MujocoKinematics(path, JOINT_NAMES, "pelvis")
    low, high = np.array(chain.joint_lower), np.array(chain.joint_upper)
    dof_pos = rng.uniform(low, high, (4, 5, 29))
    positions, rotations = kinematics(torch.tensor(dof_pos, dtype=torch.float32))
    assert positions.shape == (4, 5, len(chain.body_names), 3)
    heights = kinematics.sole_heights(positions, rotations)
    feet = [truth.model.body(f"{side}_ankle_roll_link").id for side in ("left", "right")]
    geoms = [g for g in range(truth.model.ngeom) if truth.model.geom_bodyid[g] in feet and truth.model.geom_contype[g]]
    assert len(geoms) == 14
    for index in np.ndindex(4, 5):
        truth.set(dof_pos[index])
        for body in range(truth.model.nbody - 1):  # the world is none of the chain's
            position, rotation = truth.pose(chain.body_names[body])
            np.testing.assert_allclose(positions[index][body], position, atol=1e-5)
            np.testing.assert_allclose(rotations[index][body], rotation, atol=1e-5)
        for foot in feet:
            lowest = min(truth.lowest_point(g) for g in geoms if truth.model.geom_bodyid[g] == foot)
            name = truth.model.body(foot).name
            own = [i for i, body in enumerate(chain.sole_bodies) if chain.body_names[body] == name]
            assert float(heights[index][own].min()) == pytest.approx(lowest, abs=1e-5)
        wrist, rotation = truth.pose("left_wrist_yaw_link")
        hand = positions[index][chain.body_index("left_rubber_hand")]
        np.testing.assert_allclose(hand, wrist + rotation @ [0.0415, 0.003, 0], atol=1e-5)


def test_gradients_reach_the_joints(tmp_path: Path, rng: np.random.Generator) -> None:
    robot = random_robot(rng, tmp_path / "robot.xml")
    chain = RobotModel(robot.path).chain(robot.joint_names)
    kinematics = ForwardKinematics(chain, dtype=torch.float64)
    dof_pos = torch.tensor(rng.uniform(-1, 1, len(robot.joint_names)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: kinematics(q)[0], (dof_pos,))
