"""The Unitree G1's legs, as the evaluation sees them."""

from __future__ import annotations

from CMG_Ref.g1_chain import FEET, g1_chain
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.folder.robot import KinematicChain

__all__ = ["FEET", "KNEES", "LEG_JOINTS", "load_g1_legs"]

KNEES = (JOINT_NAMES.index("left_knee_joint"), JOINT_NAMES.index("right_knee_joint"))
LEG_JOINTS = slice(0, 12)


def load_g1_legs() -> KinematicChain:
    """The chain from the pelvis to both ankle roll links, with the limits of all 29 joints."""
    return g1_chain(FEET)
