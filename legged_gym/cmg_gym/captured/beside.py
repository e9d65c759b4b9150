"""Work beside other work on a GPU, in graphs of Warp's too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import warp as wp


class Beside:
    """Work beside other work, on a second stream.

    Args:
        device: whose. On a CPU, one follows the other.
        allowed: likewise, if not.
    """

    def __init__(self, device: wp.Device, allowed: bool) -> None:
        self._device = device
        self._stream = wp.Stream(device) if allowed and device.is_cuda else None

    @contextmanager
    def work(self) -> Iterator[None]:
        """What is launched within it runs behind what was launched before, and beside what comes until :meth:`end`."""
        with wp.ScopedStream(self._stream, sync_enter=True, sync_exit=False):
            yield

    def end(self) -> None:
        """What is launched from here on runs behind it."""
        if self._stream is not None:
            wp.get_stream(self._device).wait_stream(self._stream)
