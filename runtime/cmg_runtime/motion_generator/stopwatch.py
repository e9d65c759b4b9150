"""How long work on the device takes, without making the host wait for it."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator, List

import torch

CAPACITY = 100
"""Durations that are kept; older ones are overwritten."""


class Stopwatch:
    """The last :data:`CAPACITY` durations of a piece of work. On CUDA, by events on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.count = 0  # pieces of work measured so far
        self._seconds: List[float] = [0.0] * CAPACITY
        self._events = []
        if device.type == "cuda":
            self._events = [
                (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(CAPACITY)
            ]

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measure what the ``with`` block does. The host does not wait."""
        place = self.count % CAPACITY
        self.count += 1
        if self._events:
            stream = torch.cuda.current_stream(self._device)
            begin, end = self._events[place]
            begin.record(stream)
            yield
            end.record(stream)
        else:
            begun = time.perf_counter()
            yield
            self._seconds[place] = time.perf_counter() - begun

    def milliseconds(self) -> List[float]:
        """The durations that are kept. On CUDA the host waits for the work measured last."""
        kept = min(self.count, CAPACITY)
        if not self._events:
            return [1000 * seconds for seconds in self._seconds[:kept]]
        if kept:
            self._events[(self.count - 1) % CAPACITY][1].synchronize()
        return [begin.elapsed_time(end) for begin, end in self._events[:kept]]
