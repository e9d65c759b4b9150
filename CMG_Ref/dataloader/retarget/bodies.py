"""Where the bodies and soles of the G1 are in the world, frame by frame."""

from __future__ import annotations

import numpy as np
import torch

from CMG_Ref.dataloader.clips import Clip, rotation
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from cmg_runtime.window.kinematics import ForwardKinematics

CHAIN = g1_chain()
_KINEMATICS = ForwardKinematics(CHAIN, dtype=torch.float64)


def body_poses(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Positions [T, B, 3] (m, world) and rotations [T, B, 3, 3] (to the world) of the bodies of ``CHAIN``."""
    pos, rot = (values.numpy() for values in _KINEMATICS(torch.from_numpy(clip.dof_pos)))
    root = rotation(clip.root_quat).as_matrix()[:, None]
    return (root @ pos[..., None])[..., 0] + clip.root_pos[:, None], root @ rot


def sole_points(pos: np.ndarray, rot: np.ndarray) -> np.ndarray:
    """[T, 2, P, 3]: the lowest points of the spheres that end the left and the right sole, m, world."""
    bodies = list(CHAIN.sole_bodies)
    centres = pos[:, bodies] + (rot[:, bodies] @ np.array(CHAIN.sole_points)[..., None])[..., 0]
    centres[..., 2] -= np.array(CHAIN.sole_radii)
    return centres.reshape(len(pos), len(FEET), -1, 3)


def straight_leg() -> float:
    """From the axis of the hip's pitch to that of the ankle's roll with all joints at 0, m."""
    pos, _ = _KINEMATICS(torch.zeros(len(CHAIN.joint_lower), dtype=torch.float64))
    return float(pos[CHAIN.body_index("left_hip_pitch_link"), 2] - pos[CHAIN.body_index(FEET[0]), 2])
