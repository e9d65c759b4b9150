"""Reference frames as callers get them, and the row of floats that each of them is stored as."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch

from cmg_runtime.errors import EngineError


class ReferenceFrames(NamedTuple):
    """Reference motion, float32. The leading dimensions ``..`` are those of the call that made it.

    The world is z up. The root only translates and turns about z: the generator says nothing of tilt.

    Attributes:
        dof_pos: [.., num_joints] joint positions, rad.
        dof_vel: [.., num_joints] joint velocities, rad/s.
        root_pos: [.., 3] position of the robot's root body in the world, m.
        root_rot: [.., 4] its orientation in the world, quaternion (w, x, y, z) with x = y = 0.
        root_vel: [.., 3] its velocity in the world, m/s.
        root_ang_vel: [.., 3] its angular velocity in the world, rad/s.
        key_body_pos: [.., B, 3] positions of the key bodies in the root body's frame, m.
    """

    dof_pos: torch.Tensor
    dof_vel: torch.Tensor
    root_pos: torch.Tensor
    root_rot: torch.Tensor
    root_vel: torch.Tensor
    root_ang_vel: torch.Tensor
    key_body_pos: torch.Tensor


class FramesWithoutRobot(ReferenceFrames):
    """Frames of an engine whose manifest has no robot: what needs its kinematics raises :class:`EngineError`."""

    __slots__ = ()

    @property
    def root_pos(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise _no_robot("root_pos")

    @property
    def root_vel(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise _no_robot("root_vel")

    @property
    def key_body_pos(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise _no_robot("key_body_pos")


def _no_robot(name: str) -> EngineError:
    return EngineError(f"{name} needs the robot's kinematics and this engine folder has no robot; rebuild it with one")


class FrameLayout:
    """Where each field of a frame stands in its row of ``width`` floats.

    A row is dof_pos [J], dof_vel [J], root_pos [3], root_rot [4], root_vel [3], root_ang_vel [3],
    key_body_pos [B * 3], then unused floats up to a multiple of four (16 bytes). One row a frame makes every query
    one gather; the fields that callers get are views of its result.

    Args:
        num_joints: J.
        key_bodies: B.
        has_robot: False makes :meth:`split` refuse what needs kinematics.

    Attributes:
        motion_dim: floats of the motion state, which is the row's beginning.
        root_pos, root_rot, root_vel, root_ang_vel, key_body_pos: the fields' first floats.
        width: floats of a row.
    """

    def __init__(self, num_joints: int, key_bodies: int, has_robot: bool) -> None:
        self.num_joints = num_joints
        self.key_bodies = key_bodies
        self.motion_dim = 2 * num_joints
        self.root_pos = self.motion_dim
        self.root_rot = self.root_pos + 3
        self.root_vel = self.root_rot + 4
        self.root_ang_vel = self.root_vel + 3
        self.key_body_pos = self.root_ang_vel + 3
        self.used = self.key_body_pos + 3 * key_bodies
        self.width = -(-self.used // 4) * 4
        self._sizes = [num_joints, num_joints, 3, 4, 3, 3, self.width - self.key_body_pos]
        self._kind = ReferenceFrames if has_robot else FramesWithoutRobot

    def split(self, rows: torch.Tensor) -> ReferenceFrames:
        """``rows`` [.., width] as fields, which are views of it."""
        dof_pos, dof_vel, pos, rot, vel, ang_vel, rest = rows.split_with_sizes(self._sizes, -1)
        shape, stride = rest.shape[:-1], rest.stride()[:-1]
        bodies = rest.as_strided((*shape, self.key_bodies, 3), (*stride, 3, 1))  # without what is unused
        return self._kind(dof_pos, dof_vel, pos, rot, vel, ang_vel, bodies)


def flat_places(rows: torch.Tensor, ids: torch.Tensor, shape: Sequence[int], limit: int) -> torch.Tensor:
    """Where (``rows[i]``, ``ids[i]``) [M] of an array [R, C, ..] are in the array flattened to [R * C, ..].

    An id outside 0..limit-1 gives R * C, which ``index_select`` refuses, on a GPU by PyTorch's device-side assert.
    Indexing the array itself would count negative ids from its end.

    Args:
        shape: (R, C, ..).
    """
    outside = (ids < 0) | (ids >= limit)
    return (rows * shape[1] + ids).masked_fill(outside, shape[0] * shape[1])
