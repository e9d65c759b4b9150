"""The clocks of motions that are generated as they are asked for: how far windows have to go for the times of a call.

The class here is plain torch, for every device; on CUDA it is some sixty small kernels. A faster one subclasses it;
:mod:`cmg_runtime.window.twins` chooses. Nothing makes the host wait, and a CUDA graph can hold it.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from cmg_runtime.window.geometry import turn, yaw_from_upright
from cmg_runtime.window.plain.queries import MotionRows, frame_positions


class MotionClocks:
    """Lets motions follow the times that are asked for. Each has a window of the frames from its current one on.

    With p the position of a time after its motion's current frame, a motion whose largest p is beyond the window moves
    on until that is the window's last frame, but no further than to its smallest p. Where that takes more than
    ``most_steps`` frames, or its smallest p is before the window, time has jumped: the current frame becomes the one at
    the smallest time. After a jump forward the root goes on from where it is; after one backward the motion begins
    again, at the world's origin along x.

    Args:
        motions: of a window; without ``clock`` and ``origin``.
        fps: frames a second.
        most_steps: frames that a window can move on by in a call.
        num_askers: motions that a call names where it is about everyone who asks.

    Attributes:
        motions: as given, with a clock and an origin for each. A clock of NaN is not set: the first time that is asked
            for will be its motion's.
        moving: [most_steps, M] bool, the motions that move in each of the steps that the last call asks for.
        now: [] int64, calls and draws so far.
        named: [M] int64, the call or draw that named each motion last; negative before any.
        all_named: [] int64, the last call that named at least ``num_askers``, 0 before any.
        jumped: [] int64, how often so far the time of a motion jumped.
    """

    def __init__(self, motions: MotionRows, fps: float, most_steps: int, num_askers: int) -> None:
        count, device = len(motions.head), motions.head.device
        self._clock = torch.full((count,), math.nan, dtype=torch.float32, device=device)
        self._origin = torch.zeros(count, 3, dtype=torch.float32, device=device)
        self.motions = dataclasses.replace(motions, clock=self._clock, origin=self._origin)
        self.moving = torch.zeros(most_steps, count, dtype=torch.bool, device=device)
        self.now = torch.zeros((), dtype=torch.int64, device=device)
        self.named = torch.arange(-count, 0, device=device)
        self.all_named, self.jumped = torch.zeros_like(self.now), torch.zeros_like(self.now)
        self._fps = fps
        self._num_askers = num_askers
        self._steps = torch.arange(most_steps, device=device).unsqueeze(1)

    def begin(self, ids: torch.Tensor) -> None:
        """A draw of the motions ``ids`` [n] int64, whose windows were made anew: their clocks are not set."""
        self.now += 1
        self.named.index_copy_(0, ids, self.now.expand(len(ids)))
        self._clock.index_fill_(0, ids, math.nan)
        self._origin.index_fill_(0, ids, 0.0)

    def advance(self) -> None:
        """Every motion has moved one frame on."""
        self._clock.add_(1)

    def follow(self, ids: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """A call with ``times`` [N] float32, s, of motions ``ids`` [N] int64. The clocks are then those of the windows
        after the steps that it asks for: returns :attr:`moving`."""
        clock, most_steps, last = self._clock, len(self.moving), len(self.motions.rows) - 1
        bounds = torch.stack([-times, times]).masked_fill(~torch.isfinite(times * self._fps), -math.inf)
        most = torch.full((2, len(clock)), -math.inf, dtype=torch.float32, device=ids.device)
        most = most.scatter_reduce_(1, ids.expand(2, -1), bounds, "amax")
        named, known = torch.isfinite(most[1]), ~torch.isnan(clock)
        current = clock.masked_fill(~known, 0.0)
        earliest, _ = frame_positions(-most[0], self._fps, current)
        latest, _ = frame_positions(most[1], self._fps, current)
        # Not by way of the old clock: after hours of it float32 would have the new one past the time.
        beginning, _ = frame_positions(-most[0], self._fps, 0.0)

        wanted = torch.minimum(latest.ceil() - last, earliest.floor())
        backward = named & known & (earliest < 0)
        jumped = backward | (named & known & (wanted > most_steps))
        begun = jumped | (named & ~known)
        due = torch.where(begun, 0.0, wanted.clamp(0, most_steps))
        clock.copy_(torch.where(named, torch.where(begun, beginning, current + due), clock))
        self._origin.copy_(torch.where(backward.unsqueeze(1), self._back_at_the_start(), self._origin))
        torch.gt(due, self._steps, out=self.moving)

        self.jumped += jumped.sum()
        self.now += 1
        self.named.copy_(torch.where(named, self.now, self.named))
        self.all_named.copy_(torch.where(named.sum() >= self._num_askers, self.now, self.all_named))
        return self.moving

    def _back_at_the_start(self) -> torch.Tensor:
        """[M, 3] what :attr:`MotionRows.origin` is to be so that the current frames stand at the origin along x."""
        motions = self.motions
        rows = motions.layout.split(motions.rows.flatten(0, 1).index_select(0, motions.head))
        yaw = yaw_from_upright(rows.root_rot)
        x, y = turn(-rows.root_pos[:, 0], -rows.root_pos[:, 1], -yaw)
        return torch.stack([x, y, -yaw], dim=1)
