"""What was asked of a motion library that it does not have, counted on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch


class QueryReport(NamedTuple):
    """Counts since the library was made.

    Attributes:
        jumped: realtime motions whose time went back, or further on than they can follow in one call: an episode's
            clock that starts at random, a viewer's key, a motion that begins anew.
        before_start: times below 0 of pregenerated motions; they gave the first frame.
        past_end: times past the frames that there are. Pregenerated: the motion began again. Realtime: the window's
            last frame was given; look-aheads are longer than ``horizon``.
        not_finite: times on a GPU that were not finite. Pregenerated motions gave frame 0, realtime ones their
            current frame.
    """

    jumped: int
    before_start: int
    past_end: int
    not_finite: int


class QueryCounts:
    """The numbers of a :class:`QueryReport` on a device. Counting never makes the host wait."""

    def __init__(self, device: torch.device) -> None:
        self._values = torch.zeros(len(QueryReport._fields), dtype=torch.int64, device=device)
        self._never = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, position: torch.Tensor, last: int, finite: torch.Tensor, jumped: torch.Tensor | None = None) -> None:
        """Count ``position`` [M], frames, against 0..last, and ``jumped`` [] int64 motions."""
        jumps = self._never if jumped is None else jumped
        self._values += torch.stack([jumps, (position < 0).sum(), (position > last).sum(), (~finite).sum()])

    def read(self) -> QueryReport:
        """The counts. The host waits."""
        return QueryReport(*self._values.tolist())
