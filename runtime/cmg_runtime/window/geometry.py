"""Small rotations in torch, on any device and in any float type. Quaternions are (w, x, y, z); angles are rad.

An *upright* quaternion turns about z only: x = y = 0.
"""

from __future__ import annotations

import math
from typing import Tuple

import torch


def turn(x: torch.Tensor, y: torch.Tensor, yaw: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """The vector (x, y) turned by ``yaw``, rad."""
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    return cos * x - sin * y, sin * x + cos * y


def wrap(yaw: torch.Tensor) -> torch.Tensor:
    """``yaw``, rad, in [-pi, pi]: float32 would lose digits of an angle that grows."""
    return yaw - 2 * math.pi * torch.round(yaw / (2 * math.pi))


def turn_rows(vectors: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """The first two components of ``vectors`` [M, 2 or 3] turned by ``yaw`` [M]; a third stays."""
    x, y = turn(vectors[:, 0], vectors[:, 1], yaw)
    return torch.cat([torch.stack([x, y], dim=1), vectors[:, 2:]], dim=1)


def yaw_from_quat(quat: torch.Tensor) -> torch.Tensor:
    """Yaw [n], rad, of quaternions [n, 4], (w, x, y, z), of any length."""
    longest = quat.abs().amax(dim=1, keepdim=True).clamp(min=1e-37)  # so that no square over- or underflows
    w, x, y, z = (quat / longest).unbind(dim=1)
    return torch.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def yaw_from_upright(quat: torch.Tensor) -> torch.Tensor:
    """Yaw [..] of upright unit quaternions [.., 4]."""
    return 2 * torch.atan2(quat[..., 3], quat[..., 0])


def quat_from_yaw(yaw: torch.Tensor) -> torch.Tensor:
    """The upright unit quaternions [.., 4] of ``yaw`` [..]."""
    half, zero = yaw / 2, torch.zeros_like(yaw)
    return torch.stack([torch.cos(half), zero, zero, torch.sin(half)], dim=-1)


def turn_upright(quat: torch.Tensor, half_yaw: torch.Tensor) -> torch.Tensor:
    """Upright quaternions [M, 4] turned further by twice ``half_yaw`` [M]."""
    cos, sin = torch.cos(half_yaw), torch.sin(half_yaw)
    w, x, y, z = quat.unbind(1)
    return torch.stack([cos * w - sin * z, x, y, sin * w + cos * z], dim=1)


def blend_quat(one: torch.Tensor, other: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Unit quaternions [.., 4] from ``one`` at ``weight`` [.., 1] 0 to ``other`` at 1, along the shorter arc."""
    same_side = (one * other).sum(dim=-1, keepdim=True) >= 0
    quat = torch.lerp(one, torch.where(same_side, other, -other), weight)
    return quat / quat.norm(dim=-1, keepdim=True)


def matrix_from_quat(quat: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4], (w, x, y, z)."""
    w, x, y, z = (quat / quat.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(quat.shape[:-1] + (3, 3))


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


def cross_matrix(v: torch.Tensor) -> torch.Tensor:
    """[..., 3] -> [..., 3, 3] with ``cross_matrix(v) @ u == cross(v, u)``."""
    zero = torch.zeros_like(v[..., 0])
    x, y, z = v.unbind(-1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(v.shape[:-1] + (3, 3))
