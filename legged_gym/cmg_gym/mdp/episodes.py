"""How episodes begin: states near the reference, drawn for every environment before it is known whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mjlab.utils.lab_api.math import quat_from_euler_xyz, quat_mul, sample_uniform


@dataclass(kw_only=True)
class StartNoise:
    """How far an episode's first state may lie from the reference: uniform, plus or minus."""

    joint_pos: float = 0.05
    """rad"""
    joint_vel: float = 0.3
    """rad/s"""
    tilt: float = 0.05
    """rad, of the root about its roll and pitch axes"""
    root_vel: float = 0.1
    """m/s"""
    root_ang_vel: float = 0.2
    """rad/s"""


@dataclass(frozen=True)
class NextEpisodes:
    """How the next episode of every environment begins; one that begins twice before the next draw begins alike.

    Attributes:
        commands: [num_envs, 3] its command; the next one of an episode that goes on, too.
        root: [num_envs, 13] the robot's position, quaternion (w, x, y, z) and velocities, world.
        dof_pos, dof_vel: [num_envs, J] its joints, rad and rad/s.
    """

    commands: torch.Tensor
    root: torch.Tensor
    dof_pos: torch.Tensor
    dof_vel: torch.Tensor

    def copy_(self, other: NextEpisodes) -> None:
        """Take the values of ``other``; the tensors stay where they are, as code that was captured needs them."""
        for name in ("commands", "root", "dof_pos", "dof_vel"):
            getattr(self, name).copy_(getattr(other, name))


def disturbed(
    root: torch.Tensor, dof_pos: torch.Tensor, dof_vel: torch.Tensor, limits: torch.Tensor, noise: StartNoise | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of robots [n, 13], [n, J], [n, J] with ``noise``, joints within ``limits`` [n, J, 2] (rad)."""
    if noise is not None:
        root = torch.cat([root[:, :3], _tilted(root[:, 3:7], noise.tilt), root[:, 7:]], dim=1)
        root[:, 7:10] += _uniform(root[:, 7:10], noise.root_vel)
        root[:, 10:13] += _uniform(root[:, 10:13], noise.root_ang_vel)
        dof_pos = dof_pos + _uniform(dof_pos, noise.joint_pos)
        dof_vel = dof_vel + _uniform(dof_vel, noise.joint_vel)
    low, high = limits.unbind(dim=-1)
    return root, dof_pos.clamp(low, high), dof_vel


def _uniform(like: torch.Tensor, width: float) -> torch.Tensor:
    return sample_uniform(-width, width, tuple(like.shape), str(like.device))


def _tilted(quat: torch.Tensor, angle: float) -> torch.Tensor:
    """``quat`` [n, 4] turned by up to ``angle`` (rad) about its own roll and pitch axes."""
    roll, pitch = _uniform(quat[:, 0], angle), _uniform(quat[:, 0], angle)
    return quat_mul(quat, quat_from_euler_xyz(roll, pitch, torch.zeros_like(roll)))
