"""Memory that kernels share from call to call, and that grows with what calls need."""

from __future__ import annotations

from typing import Callable, Generic, List, Optional, Sequence, TypeVar

import torch

Memory = TypeVar("Memory")


class Scratch(Generic[Memory]):
    """Scratch memory for any number of rows. Calls that use it must be ordered on the device.

    What a CUDA graph was captured with stays where it is, as long as this object; what only plain launches used is
    given back when a larger one takes its place. It at least doubles, so all that stays is less than twice the largest.

    Args:
        make: allocates the memory for so many rows.
        tensors: those of the memory, one for each allocation.
        most: rows that no call exceeds; None where there is no such number.
    """

    def __init__(
        self,
        make: Callable[[int], Memory],
        tensors: Callable[[Memory], Sequence[torch.Tensor]],
        most: Optional[int] = None,
    ) -> None:
        self._make = make
        self._tensors = tensors
        self._most = most
        self._rows = 0
        self._memory: Optional[Memory] = None
        self._in_graphs: List[Memory] = []

    def of(self, rows: int) -> Memory:
        """Memory for at least ``rows`` rows, until the next call of this."""
        if self._memory is None or rows > self._rows:
            ample = self._ample(rows) if self._rows else rows
            self._give_back()
            memory = self._make(ample)  # where there is none, all stays as it is but for what was given back
            self._memory, self._rows = memory, ample
        if _is_captured(self._tensors(self._memory)[0]) and not self._is_in_graphs(self._memory):
            self._in_graphs.append(self._memory)
        return self._memory

    def _ample(self, rows: int) -> int:
        """At least twice as much as before, and all there can be where that could not double once more."""
        ample = max(rows, 2 * self._rows)
        return self._most if self._most is not None and 2 * ample > self._most else ample

    def _give_back(self) -> None:
        if self._memory is None or self._is_in_graphs(self._memory):
            return
        for tensor in self._tensors(self._memory):
            if tensor.is_cuda:  # the calls before, on whatever streams, come before what this stream does next
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        self._memory, self._rows = None, 0

    def _is_in_graphs(self, memory: Memory) -> bool:
        return any(kept is memory for kept in self._in_graphs)


def _is_captured(tensor: torch.Tensor) -> bool:
    """Whether a use of ``tensor`` on the current stream becomes part of a graph."""
    if not tensor.is_cuda:
        return False
    with torch.cuda.device(tensor.device):
        return torch.cuda.is_current_stream_capturing()
