"""What a motion library was asked for and does not have."""

from __future__ import annotations

from typing import NamedTuple


class QueryReport(NamedTuple):
    """What was asked of a library that it does not have, counted since it was made.

    Attributes:
        jumped: realtime motions whose time went back, or further on than they can follow in one query: an episode's
            clock that starts at random, a viewer's key, a motion that begins anew.
        before_start: times below 0 of pregenerated motions; they gave the first frame.
        past_end: times past the frames that there are. Pregenerated: the motion began again. Realtime: the window's
            last frame was given; look-aheads are longer than ``horizon``.
        not_finite: times on a GPU that were not finite. Pregenerated motions gave their first frame, realtime ones
            their current frame.
    """

    jumped: int
    before_start: int
    past_end: int
    not_finite: int
