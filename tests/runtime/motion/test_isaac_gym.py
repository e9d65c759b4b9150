"""The check of a simulated robot's joints, against a stand-in for Isaac Gym's API."""

from __future__ import annotations

from typing import Any

import pytest

from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.errors import EngineError
from cmg_runtime.isaac_gym import require_same_joints

BODIES = ["pelvis", "imu_link", "torso_link"]


class Gym:
    """The two calls, under Isaac Gym's names (pyright checks the caller against the public stubs)."""

    def __init__(self, dofs: list[str]) -> None:
        self.dofs = dofs

    def get_actor_dof_names(self, env: Any, actor: int) -> list[str]:
        assert (env, actor) == ("env 0", 3)
        return self.dofs

    def get_actor_rigid_body_names(self, env: Any, actor: int) -> list[str]:
        assert (env, actor) == ("env 0", 3)
        return BODIES


def test_the_same_joints_give_the_bodies_and_others_are_named() -> None:
    gym: Any = Gym(list(JOINT_NAMES))
    env: Any = "env 0"
    assert require_same_joints(JOINT_NAMES, gym, env, 3) == tuple(BODIES)
    gym.dofs[5], gym.dofs[11] = gym.dofs[11], gym.dofs[5]
    with pytest.raises(EngineError, match="joint 5 is 'right_ankle_roll_joint' in the simulation and 'left_ankle_roll"):
        require_same_joints(JOINT_NAMES, gym, env, 3)
    gym.dofs = [name for name in JOINT_NAMES if "wrist" not in name]
    with pytest.raises(EngineError, match="the simulated robot has 23 joints, the reference 29"):
        require_same_joints(JOINT_NAMES, gym, env, 3)
