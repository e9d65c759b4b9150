"""The clocks of realtime motions: how far the windows have to go for the times that a call asks for.

A *slot* is a motion of the realtime mode: it has a window of the frames from its current one on, and a clock, the
number of that frame. All that a call works out before it looks frames up is here, in plain torch: tensors in, tensors
out, the clocks in place; nothing makes the host wait, and a CUDA graph can hold it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from cmg_runtime.motion_lib.between_frames import frame_positions
from cmg_runtime.window.geometry import turn


class Clocks(NamedTuple):
    """State of S slots, on their device.

    Attributes:
        frame: [S] float32, the number of each slot's current frame; NaN: the first time asked for will be its time.
        placement: [S, 3] float32, what puts a slot's frames where its motion began: a shift in x and y (m) after half
            of a turn about z (rad). 0 where a motion began when its window did.
    """

    frame: torch.Tensor
    placement: torch.Tensor


class Asked(NamedTuple):
    """What a call asks of the windows.

    Attributes:
        named: [S] bool, slots with a time that is finite.
        due: [S] float32, frames that each slot's window has to move on by; whole, 0 to ``most_steps``.
        jumped: [] int64, slots whose time jumped.
        position: [M] float32, where each time is, in frames after its slot's current frame once the windows have
            moved; 0 for a time that is not finite.
        finite: [M] bool.
    """

    named: torch.Tensor
    due: torch.Tensor
    jumped: torch.Tensor
    position: torch.Tensor
    finite: torch.Tensor


def follow(
    ids: torch.Tensor, times: torch.Tensor, clocks: Clocks, pose: torch.Tensor, fps: float, last: int, most_steps: int
) -> Asked:
    """Let the clocks follow the times of a call.

    With p the position of a time after its slot's current frame, a slot whose largest p is beyond the window moves on
    until that is the window's last frame, but no further than to its smallest p. Where that takes more than
    ``most_steps`` frames, or its smallest p is before the window, time has jumped: the frame there is becomes the one
    at the smallest time. After a jump forward the root goes on from where it is; after one backward the motion begins
    again, at the world's origin along x.

    Args:
        ids: [M] int64, slots; each may occur many times.
        times: [M] float32, s.
        clocks: changed in place.
        pose: [S, 3] float32, x, y (m) and yaw (rad) of each slot's current frame in its window.
        fps: frames a second.
        last: offset of the window's last frame.
        most_steps: frames that a window can move on by in a call.
    """
    known = ~torch.isnan(clocks.frame)
    current = torch.where(known, clocks.frame, torch.zeros_like(clocks.frame))
    position, finite = frame_positions(times, fps, current.index_select(0, ids))
    bounds = torch.where(finite, torch.stack([-position, position]), torch.full_like(position, -math.inf))
    most = torch.full((2, len(current)), -math.inf, dtype=torch.float32, device=ids.device)
    most = most.scatter_reduce_(1, ids.expand(2, -1), bounds, "amax")
    earliest, latest = -most[0], most[1]
    named = torch.isfinite(latest)

    wanted = torch.minimum(latest.ceil() - last, earliest.floor())
    backward = named & known & (earliest < 0)
    jumped = named & known & (wanted > most_steps) | backward
    begun = jumped | (named & ~known)
    none = torch.zeros_like(wanted)
    due = torch.where(begun, none, wanted.clamp(0, most_steps))
    moved = torch.where(begun, earliest, none) + due
    clocks.frame.copy_(torch.where(named, current + moved, clocks.frame))

    x, y = turn(-pose[:, 0], -pose[:, 1], -pose[:, 2])
    anew = torch.stack([x, y, -pose[:, 2] / 2], dim=1)
    clocks.placement.copy_(torch.where(backward.unsqueeze(1), anew, clocks.placement))
    left = torch.where(finite, position - moved.index_select(0, ids), torch.zeros_like(position))
    return Asked(named, due, jumped.sum(), left, finite)
