"""Reference frames at times between frames, and at other places."""

from __future__ import annotations

from typing import Callable, Tuple, Union

import torch

from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.geometry import blend_quat, turn_rows, turn_upright

ON_A_FRAME = 1e-3
"""Frames. Times this close to a frame are taken to be on it: seconds in float32 hardly ever are exactly."""

ROUNDING = 5e-7
"""Of a time: how far off float32 may have it, after the few operations that callers make times with."""

Lookup = Callable[[torch.Tensor, torch.Tensor], ReferenceFrames]
"""(ids [M] int64, frame numbers [M] int64) -> frames [M, ...]."""


def frame_positions(
    times: torch.Tensor, fps: float, first: Union[torch.Tensor, float] = 0.0
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Where ``times`` [M], s, lie: in frames after frame number ``first`` ([M], or one for all).

    Returns:
        Positions [M], whole where a time is on a frame, and whether each time was finite [M]; others count as 0 s.
    """
    finite = torch.isfinite(times)
    frame = torch.where(finite, times, torch.zeros_like(times)) * fps
    position = frame - first
    nearest = position.round()
    return torch.where((position - nearest).abs() < ON_A_FRAME + ROUNDING * frame.abs(), nearest, position), finite


def interpolated(lookup: Lookup, ids: torch.Tensor, position: torch.Tensor) -> ReferenceFrames:
    """The frames before and after each ``position`` [M], blended. New, contiguous tensors.

    Everything is blended linearly, the root's orientation as a unit quaternion along the shorter arc. Two frames are
    hundredths of a radian of yaw apart, where that differs from a turn at constant speed by 1e-6 rad.
    """
    before = position.floor()
    weight = (position - before).unsqueeze(-1)
    one, other = lookup(ids, before.long()), lookup(ids, position.ceil().long())
    fields = [torch.lerp(a, b, weight if a.dim() == 2 else weight.unsqueeze(-1)) for a, b in zip(one, other)]
    return ReferenceFrames(*fields)._replace(root_rot=blend_quat(one.root_rot, other.root_rot, weight))


def placed(frames: ReferenceFrames, shift: torch.Tensor, half_turn: torch.Tensor) -> ReferenceFrames:
    """``frames`` [M, ...] with their roots turned about the world's z by twice ``half_turn`` [M], rad, then moved by
    ``shift`` [M, 2], m."""
    turned = turn_rows(frames.root_pos, 2 * half_turn)
    return frames._replace(
        root_pos=turned + torch.nn.functional.pad(shift, (0, 1)),
        root_vel=turn_rows(frames.root_vel, 2 * half_turn),
        root_rot=turn_upright(frames.root_rot, half_turn),
    )
