"""World poses of all bodies of a robot, from its joint angles and the pose of its root."""

from __future__ import annotations

from typing import Tuple

import torch

from cmg_runtime.window.kinematics import ForwardKinematics, KinematicChain, matrix_from_quat


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


def quat_from_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Unit quaternions [..., 4], (w, x, y, z) with w >= 0, of rotation matrices [..., 3, 3].

    The four products of one component with all four are sums of the matrix's entries; the component that is largest
    is divided by, so nothing small is ever divided by (Shepperd 1978).
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in matrix.unbind(-2))
    w, x, y, z = 1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m10 + m01, m02 + m20, m21 + m12
    products = torch.stack(
        [torch.stack(row, dim=-1) for row in ((w, wx, wy, wz), (wx, x, xy, xz), (wy, xy, y, yz), (wz, xz, yz, z))],
        dim=-2,
    )
    largest = torch.stack([w, x, y, z], dim=-1).argmax(dim=-1)[..., None, None].expand(products.shape[:-2] + (1, 4))
    quat = products.gather(-2, largest).squeeze(-2)
    quat = quat / quat.norm(dim=-1, keepdim=True)
    return torch.where(quat[..., :1] < 0, -quat, quat)
