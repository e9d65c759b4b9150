"""Batched forward kinematics of a robot's chain, in torch, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import torch

from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.window.geometry import cross_matrix, matrix_from_quat, quat_from_matrix


class ForwardKinematics:
    """Body poses in the root's frame from joint angles.

    All bodies of one depth of the tree are computed together, so a G1 takes about ten small batched
    products and no loop over environments.

    Args:
        chain: the robot.
        device, dtype: where and in which float type the constants live; inputs must match.
    """

    def __init__(
        self, chain: KinematicChain, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        def constant(values: object) -> torch.Tensor:
            return torch.tensor(values, device=device, dtype=dtype)

        self.chain = chain
        self._offsets = constant(chain.body_pos)
        self._anchors = constant(chain.joint_anchors)
        self._has_anchor = bool((self._anchors != 0).any())
        self._rest = matrix_from_quat(constant(chain.body_quat))
        cross = cross_matrix(constant(chain.joint_axes))
        self._cross, self._cross_squared = cross, cross @ cross
        # A body without a joint reads joint 0 and turns about a zero axis, which is the identity.
        self._joints = torch.tensor([max(j, 0) for j in chain.body_joints], device=device)
        self._levels = _levels(chain.body_parents, device)
        self._sole_bodies = torch.tensor(chain.sole_bodies, device=device, dtype=torch.long)
        self._sole_points = constant(chain.sole_points).reshape(-1, 3)
        self._sole_radii = constant(chain.sole_radii)

    def __call__(self, dof_pos: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Poses of every body in the root's frame.

        Args:
            dof_pos: [..., num_joints], rad.

        Returns:
            Body origins [..., B, 3], m, and body orientations as rotation matrices [..., B, 3, 3].
        """
        angle = dof_pos[..., self._joints, None, None]
        turn = torch.sin(angle) * self._cross + (1 - torch.cos(angle)) * self._cross_squared  # Rodrigues, less identity
        local_rot = self._rest + self._rest @ turn
        local_pos = self._offsets.expand(local_rot.shape[:-1])
        if self._has_anchor:
            moved = ((self._rest - local_rot) @ self._anchors.unsqueeze(-1)).squeeze(-1)
            local_pos = local_pos + moved
        rotations = [torch.eye(3, dtype=dof_pos.dtype, device=dof_pos.device).expand(local_rot[..., :1, :, :].shape)]
        positions = [torch.zeros_like(local_pos[..., :1, :])]
        for bodies, parents_in_level in self._levels.steps:
            parent_rot = rotations[-1][..., parents_in_level, :, :]
            parent_pos = positions[-1][..., parents_in_level, :]
            rotations.append(parent_rot @ local_rot[..., bodies, :, :])
            positions.append(parent_pos + (parent_rot @ local_pos[..., bodies, :].unsqueeze(-1)).squeeze(-1))
        order = self._levels.order
        return torch.cat(positions, dim=-2)[..., order, :], torch.cat(rotations, dim=-3)[..., order, :, :]

    def sole_heights(self, body_pos: torch.Tensor, body_rot: torch.Tensor) -> torch.Tensor:
        """Lowest z of each sole sphere in the root's frame [..., S], m, from this object's own output."""
        centre = body_pos[..., self._sole_bodies, :] + (
            body_rot[..., self._sole_bodies, :, :] @ self._sole_points.unsqueeze(-1)
        ).squeeze(-1)
        return centre[..., 2] - self._sole_radii


class BodyTransforms:
    """Poses of every body of ``chain`` in the world, float32 on ``device``."""

    def __init__(self, chain: KinematicChain, device: torch.device) -> None:
        self._kinematics = ForwardKinematics(chain, device)

    def __call__(
        self, dof_pos: torch.Tensor, base_pos: torch.Tensor, base_rot: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Positions [n, B, 3], m, and orientations [n, B, 4], (w, x, y, z), in the world.

        Args:
            dof_pos: [n, num_joints], rad.
            base_pos: [n, 3] position of the root, m.
            base_rot: [n, 4] its orientation, (w, x, y, z).
        """
        body_pos, body_rot = self._kinematics(dof_pos)
        base = matrix_from_quat(base_rot).unsqueeze(1)
        positions = base_pos.unsqueeze(1) + (base @ body_pos.unsqueeze(-1)).squeeze(-1)
        return positions, quat_from_matrix(base @ body_rot)


@dataclass(frozen=True)
class _Levels:
    """The tree by depth: for each depth below the root, its bodies and their parents' places in the depth above."""

    steps: Tuple[Tuple[torch.Tensor, torch.Tensor], ...]
    order: torch.Tensor


def _levels(parents: Tuple[int, ...], device: torch.device | str) -> _Levels:
    depth = [0] * len(parents)
    for body in range(1, len(parents)):
        if not 0 <= parents[body] < body:
            raise ValueError(f"body {body} has parent {parents[body]}; expected a body that comes before it")
        depth[body] = depth[parents[body]] + 1
    by_depth = [[b for b in range(len(parents)) if depth[b] == d] for d in range(max(depth) + 1)]
    steps = []
    for above, here in zip(by_depth[:-1], by_depth[1:]):
        places = [above.index(parents[b]) for b in here]
        steps.append((torch.tensor(here, device=device), torch.tensor(places, device=device)))
    visited = [b for level in by_depth for b in level]
    order = torch.tensor([visited.index(b) for b in range(len(parents))], device=device)
    return _Levels(tuple(steps), order)
