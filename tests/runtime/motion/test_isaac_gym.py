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


def call(dofs: list[str]) -> tuple[str, ...]:
    gym: Any = Gym(dofs)
    env: Any = "env 0"
    return require_same_joints(JOINT_NAMES, gym, env, 3)


def test_the_same_joints_give_the_bodies() -> None:
    assert call(list(JOINT_NAMES)) == tuple(BODIES)


def test_other_joints_are_named() -> None:
    swapped = list(JOINT_NAMES)
    swapped[5], swapped[11] = swapped[11], swapped[5]
    with pytest.raises(EngineError, match="joint 5 is 'right_ankle_roll_joint' in the simulation and 'left_ankle_roll"):
        call(swapped)
    with pytest.raises(EngineError, match="the simulated robot has 23 joints, the reference 29"):
        call([name for name in JOINT_NAMES if "wrist" not in name])
