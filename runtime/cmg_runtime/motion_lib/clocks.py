"""The clocks of realtime motions: how far the windows have to go for the times that a call asks for.

A *slot* is a motion of the realtime mode: it has a window of the frames from its current one on, and a clock, the
number of that frame. All that a call works out before it looks frames up is here, in plain torch: tensors in, tensors
out, the clocks in place; nothing makes the host wait, and a CUDA graph can hold it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from cmg_runtime.window.geometry import turn
from cmg_runtime.window.plain.queries import on_frames


class Clocks(NamedTuple):
    """State of S slots, on their device; what :class:`cmg_runtime.window.plain.queries.MotionRows` takes.

    Attributes:
        frame: [S] float32, the number of each slot's current frame; NaN: the first time asked for will be its time.
        origin: [S, 3] float32, x, y (m) and yaw (rad): where in the world of the answers the origin of the world is
            that a slot's window has. 0 where a motion began when its window did.
    """

    frame: torch.Tensor
    origin: torch.Tensor


class Asked(NamedTuple):
    """What a call asks of the windows.

    Attributes:
        named: [S] bool, slots with a time that is finite.
        due: [S] float32, frames that each slot's window has to move on by; whole, 0 to ``most_steps``.
        jumped: [] int64, slots whose time jumped.
    """

    named: torch.Tensor
    due: torch.Tensor
    jumped: torch.Tensor


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
    asked = times * fps
    position = on_frames(asked - current.index_select(0, ids), asked)
    nothing = torch.full_like(position, -math.inf)
    bounds = torch.where(torch.isfinite(position), torch.stack([-position, position]), nothing)
    most = torch.full((2, len(current)), -math.inf, dtype=torch.float32, device=ids.device)
    most = most.scatter_reduce_(1, ids.expand(2, -1), bounds, "amax")
    earliest, latest = -most[0], most[1]
    named = torch.isfinite(latest)

    wanted = torch.minimum(latest.ceil() - last, earliest.floor())
    backward = named & known & (earliest < 0)
    jumped = named & known & (wanted > most_steps) | backward
    begun = jumped | (named & ~known)
    due = torch.where(begun, torch.zeros_like(wanted), wanted.clamp(0, most_steps))
    clocks.frame.copy_(torch.where(named, current + torch.where(begun, earliest, due), clocks.frame))

    x, y = turn(-pose[:, 0], -pose[:, 1], -pose[:, 2])
    anew = torch.stack([x, y, -pose[:, 2]], dim=1)
    clocks.origin.copy_(torch.where(backward.unsqueeze(1), anew, clocks.origin))
    return Asked(named, due, jumped.sum())
