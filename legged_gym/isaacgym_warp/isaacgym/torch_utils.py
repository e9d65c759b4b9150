"""Rotations, poses and random numbers in torch, by the names of Isaac Gym's ``torch_utils``.

Quaternions are x, y, z, w. Every function can be compiled by ``torch.jit.script`` as part of a caller's. ``import *``
brings ``torch``, ``np`` and ``Tuple`` along, which existing code takes from here.
"""

# torch.jit.script reads annotations, of which it knows typing's Tuple.
from typing import Any, Tuple  # noqa: UP035

import numpy as np
import torch

_Pose = Tuple[torch.Tensor, torch.Tensor]  # noqa: UP006


def to_torch(
    x: Any, dtype: torch.dtype = torch.float, device: Any = "cuda:0", requires_grad: bool = False
) -> torch.Tensor:
    """A new tensor of numbers."""
    return torch.tensor(x, dtype=dtype, device=device, requires_grad=requires_grad)


def normalize(x: torch.Tensor, eps: float = 1e-9) -> torch.Tensor:
    """Vectors [..., D] of length 1; of those shorter than ``eps``, the vector divided by ``eps``."""
    return x / x.norm(p=2, dim=-1, keepdim=True).clamp(min=eps)


def quat_unit(a: torch.Tensor) -> torch.Tensor:
    """Quaternions [..., 4] of length 1."""
    return normalize(a)


def quat_mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The turn ``a`` after the turn ``b``; both [..., 4]."""
    assert a.shape == b.shape
    ax, ay, az, aw = a.unbind(-1)
    bx, by, bz, bw = b.unbind(-1)
    return torch.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        dim=-1,
    )


def quat_conjugate(a: torch.Tensor) -> torch.Tensor:
    """The turns back, [..., 4]."""
    return torch.cat([-a[..., :3], a[..., 3:]], dim=-1)


def quat_apply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Vectors turned; the result has the shape of ``b``, [..., 3], which may have other leading sizes than ``a``."""
    turns, vectors = a.reshape(-1, 4), b.reshape(-1, 3)
    axes = turns[:, :3]
    twice = 2.0 * torch.cross(axes.expand_as(vectors), vectors, dim=-1)
    return (vectors + turns[:, 3:] * twice + torch.cross(axes.expand_as(twice), twice, dim=-1)).view(b.shape)


def _rotate(q: torch.Tensor, v: torch.Tensor, sense: float) -> torch.Tensor:
    axes, w = q[:, :3], q[:, 3:]
    along = (axes * v).sum(dim=-1, keepdim=True)
    return v * (2.0 * w * w - 1.0) + (2.0 * sense) * w * torch.cross(axes, v, dim=-1) + 2.0 * axes * along


def quat_rotate(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors [N, 3] turned by ``q`` [N, 4]."""
    return _rotate(q, v, 1.0)


def quat_rotate_inverse(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors [N, 3] turned back by ``q`` [N, 4]: from the world's frame into the body's."""
    return _rotate(q, v, -1.0)


def quat_from_angle_axis(angle: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """Turns by angles [...] (rad) about axes [..., 3] of any length."""
    half = (0.5 * angle).unsqueeze(-1)
    return quat_unit(torch.cat([normalize(axis) * half.sin(), half.cos()], dim=-1))


def quat_axis(q: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """A turned unit axis (0: x, 1: y, 2: z), [N, 3]."""
    unit = torch.zeros_like(q[:, :3])
    unit[:, axis] = 1.0
    return quat_rotate(q, unit)


def normalize_angle(x: torch.Tensor) -> torch.Tensor:
    """Angles (rad) in -pi to pi."""
    return torch.atan2(torch.sin(x), torch.cos(x))


def tf_inverse(q: torch.Tensor, t: torch.Tensor) -> _Pose:
    """The poses back: rotation [..., 4] and translation [..., 3]."""
    back = quat_conjugate(q)
    return back, -quat_apply(back, t)


def tf_apply(q: torch.Tensor, t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Points out of the poses' frames."""
    return quat_apply(q, v) + t


def tf_vector(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors out of the poses' frames."""
    return quat_apply(q, v)


def tf_combine(q1: torch.Tensor, t1: torch.Tensor, q2: torch.Tensor, t2: torch.Tensor) -> _Pose:
    """The second poses, given in the first ones' frames, in the frame that those are given in."""
    return quat_mul(q1, q2), quat_apply(q1, t2) + t1


def get_basis_vector(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Vectors [N, 3] turned by ``q`` [N, 4]."""
    return quat_rotate(q, v)


def get_axis_params(value: float, axis_idx: int, x_value: float = 0.0, dtype: Any = float, n_dims: int = 3) -> list:
    """A list of zeros with ``value`` at an axis, and then ``x_value`` at the first."""
    assert axis_idx < n_dims, f"axis {axis_idx} of {n_dims}"
    params = np.zeros(n_dims)
    params[axis_idx] = value
    params[0] = x_value
    return params.astype(dtype).tolist()


def copysign(a: float, b: torch.Tensor) -> torch.Tensor:
    """The size of ``a`` with the signs of ``b`` [N]; zero where ``b`` is zero."""
    return abs(a) * torch.sign(b)


def get_euler_xyz(q: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # noqa: UP006
    """Roll, pitch and yaw (rad, each [N], 0 to 2 pi) of turns [N, 4] about the fixed x, then y, then z."""
    x, y, z, w = q[:, 0], q[:, 1], q[:, 2], q[:, 3]
    roll = torch.atan2(2.0 * (w * x + y * z), w * w - x * x - y * y + z * z)
    sine = 2.0 * (w * y - z * x)
    pitch = torch.where(sine.abs() >= 1.0, copysign(0.5 * np.pi, sine), torch.asin(sine.clamp(-1.0, 1.0)))
    yaw = torch.atan2(2.0 * (w * z + x * y), w * w + x * x - y * y - z * z)
    return roll % (2.0 * np.pi), pitch % (2.0 * np.pi), yaw % (2.0 * np.pi)


def quat_from_euler_xyz(roll: torch.Tensor, pitch: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Turns [..., 4] about the fixed x, then y, then z by angles (rad) [...]."""
    cr, sr = torch.cos(0.5 * roll), torch.sin(0.5 * roll)
    cp, sp = torch.cos(0.5 * pitch), torch.sin(0.5 * pitch)
    cy, sy = torch.cos(0.5 * yaw), torch.sin(0.5 * yaw)
    return torch.stack(
        [
            cy * cp * sr - sy * sp * cr,
            cy * sp * cr + sy * cp * sr,
            sy * cp * cr - cy * sp * sr,
            cy * cp * cr + sy * sp * sr,
        ],
        dim=-1,
    )


def torch_rand_float(lower: float, upper: float, shape: Tuple[int, int], device: str) -> torch.Tensor:  # noqa: UP006
    """Numbers drawn evenly between two bounds."""
    return (upper - lower) * torch.rand(shape[0], shape[1], device=device) + lower


def torch_random_dir_2(shape: Tuple[int, int], device: str) -> torch.Tensor:  # noqa: UP006
    """Unit vectors of the plane, drawn evenly over all directions: [N, 2] for the shape (N, 1)."""
    angle = torch_rand_float(-np.pi, np.pi, shape, device).squeeze(-1)
    return torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)


def tensor_clamp(t: torch.Tensor, min_t: torch.Tensor, max_t: torch.Tensor) -> torch.Tensor:
    """Each element in its own bounds; of bounds that cross, the lower one."""
    return torch.max(torch.min(t, max_t), min_t)


def scale(x: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """From -1..1 to lower..upper."""
    return 0.5 * (x + 1.0) * (upper - lower) + lower


def unscale(x: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """From lower..upper to -1..1."""
    return (2.0 * x - upper - lower) / (upper - lower)


def unscale_np(x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """From lower..upper to -1..1, in numpy."""
    return (2.0 * x - upper - lower) / (upper - lower)
