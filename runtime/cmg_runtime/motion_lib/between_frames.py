"""Reference frames at times between frames."""

from __future__ import annotations

from typing import Callable, Tuple, Union

import torch

from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.geometry import blend_quat

ON_A_FRAME = 1e-3
"""Frames. Times this close to a frame are taken to be on it: seconds in float32 hardly ever are exactly."""

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
    position = torch.where(finite, times, torch.zeros_like(times)) * fps - first
    nearest = position.round()
    return torch.where((position - nearest).abs() < ON_A_FRAME, nearest, position), finite


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
