"""Leg joints of the G1 that put its feet where they are wanted. Batched over frames."""

from __future__ import annotations

import numpy as np
import torch

from CMG_Ref.robot_g1 import LEG_JOINTS
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from cmg_runtime.window.kinematics import ForwardKinematics

_ITERATIONS = 20
_LARGEST_STEP = 0.3  # rad
_TURN_WEIGHT = 0.2  # m per rad: a foot's direction against its place
_DIFFERENCE = 1e-5  # rad, for derivatives


class LegKinematics:
    """Where the feet are, and which leg joints put them there, in the pelvis's frame and in float64."""

    def __init__(self) -> None:
        chain = g1_chain(FEET)
        self._kinematics = ForwardKinematics(chain, dtype=torch.float64)
        self._feet = torch.tensor([chain.body_index(name) for name in FEET])
        lower, upper = (torch.tensor(v, dtype=torch.float64) for v in (chain.joint_lower, chain.joint_upper))
        self._lower, self._upper = lower[LEG_JOINTS], upper[LEG_JOINTS]
        self._nudges = _DIFFERENCE * torch.eye(len(lower), dtype=torch.float64)[LEG_JOINTS]
        self.sole_points = np.array(chain.sole_points).reshape(len(FEET), -1, 3)
        """[2, P, 3], m: what each sole ends in, in the frame of its foot."""

    def feet(self, dof_pos: np.ndarray) -> np.ndarray:
        """Poses [T, 2, 4, 4] of the left and the right foot at joint angles [T, 29]."""
        pos, rot = self._feet_of(torch.from_numpy(dof_pos))
        poses = np.tile(np.eye(4), (*pos.shape[:2], 1, 1))
        poses[..., :3, :3], poses[..., :3, 3] = rot.numpy(), pos.numpy()
        return poses

    def reach(self, dof_pos: np.ndarray, feet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joint angles [T, 29] near the given ones that put the feet [T, 2, 4, 4] in place, and what they miss them by.

        Levenberg-Marquardt on each frame by itself, leg joints within their limits.

        Returns:
            ``dof_pos`` [T, 29] and distances [T, 2], m.
        """
        wanted = torch.from_numpy(feet)
        joints = torch.from_numpy(dof_pos).clone()
        damping = torch.full((len(joints), 1, 1), 1e-5, dtype=torch.float64)
        error = self._error(joints, wanted)
        cost = error.square().sum(-1)
        for _ in range(_ITERATIONS):
            nudged = self._error(joints.unsqueeze(1) + self._nudges, wanted.unsqueeze(1))
            slope = (nudged - error.unsqueeze(1)).transpose(1, 2) / _DIFFERENCE  # [T, errors, leg joints]
            normal = slope.transpose(1, 2) @ slope + damping * torch.eye(slope.shape[2], dtype=torch.float64)
            step = torch.linalg.solve(normal, slope.transpose(1, 2) @ error.unsqueeze(-1)).squeeze(-1)
            tried = joints.clone()
            legs = joints[:, LEG_JOINTS] - step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
            tried[:, LEG_JOINTS] = torch.minimum(torch.maximum(legs, self._lower), self._upper)
            new_error = self._error(tried, wanted)
            new_cost = new_error.square().sum(-1)
            better = new_cost < cost
            joints, error = (
                torch.where(better[:, None], new, old) for new, old in ((tried, joints), (new_error, error))
            )
            cost = torch.where(better, new_cost, cost)
            damping = torch.where(better[:, None, None], 0.3 * damping, 8 * damping).clamp(1e-7, 1.0)
        missed = (self._feet_of(joints)[0] - wanted[..., :3, 3]).norm(dim=-1)
        return joints.numpy(), missed.numpy()

    def _feet_of(self, dof_pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pos, rot = self._kinematics(dof_pos)
        return pos[..., self._feet, :], rot[..., self._feet, :, :]

    def _error(self, dof_pos: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """[..., 12]: for each foot, how far its place is off, and how its direction, as a small rotation."""
        pos, rot = self._feet_of(dof_pos)
        off = rot @ wanted[..., :3, :3].transpose(-1, -2)
        skew = off - off.transpose(-1, -2)
        turned = 0.5 * torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
        return torch.cat([pos - wanted[..., :3, 3], _TURN_WEIGHT * turned], dim=-1).flatten(-2)
