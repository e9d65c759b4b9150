"""Frames ahead that callers ask for: checked, and kept on the device."""

from __future__ import annotations

import itertools
from typing import Any, Callable, Dict, Tuple

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import as_integer
from cmg_runtime.window.plain.ahead import AheadCopy
from cmg_runtime.window.state import WindowBuffers

MOST_OFFSETS = 1 << 20
"""Frames ahead that are asked for in one call."""

MAX_KNOWN_OFFSETS = 64
"""Lists of them that are kept on the device: a new one is a copy from the host, and they may be the caller's whim."""


def as_offsets(offsets: Any) -> Tuple[int, ...]:
    """``offsets`` as a tuple. Raises :class:`EngineError` unless they are a sequence of integers, not absurdly long."""
    try:
        known = tuple(itertools.islice(offsets, MOST_OFFSETS + 1))
        if not set(map(type, known)) <= {int}:
            known = tuple(map(as_integer, known))
    except TypeError:
        raise EngineError(f"offsets are {offsets!r}; expected a sequence of integers") from None
    if len(known) > MOST_OFFSETS:
        raise EngineError(f"there are more than {MOST_OFFSETS} offsets; expected those of the window, each once or so")
    return known


class AheadCopies:
    """Copies of a window's frames at given offsets from the current one.

    Args:
        make: of the buffers, and of the offsets in rows of their flat ring.
    """

    def __init__(self, buffers: WindowBuffers, make: Callable[[WindowBuffers, torch.Tensor], AheadCopy]) -> None:
        self._buffers, self._make = buffers, make
        self._known: Dict[Tuple[int, ...], AheadCopy] = {}

    def of(self, offsets: Tuple[int, ...]) -> AheadCopy:
        """The copy at ``offsets``, kept from call to call. Raises as :meth:`new` does."""
        known = self._known.get(offsets)
        if known is None:
            known = self.new(offsets)
            if len(self._known) == MAX_KNOWN_OFFSETS:
                del self._known[next(iter(self._known))]
            self._known[offsets] = known
        return known

    def new(self, offsets: Tuple[int, ...]) -> AheadCopy:
        """A new one, with memory of its own for the offsets, which the caller keeps.

        Raises:
            EngineError: an offset is outside 0..horizon-1.
        """
        ring = self._buffers.ring
        last = self._buffers.horizon - 1
        outside = [offset for offset in offsets if not 0 <= offset <= last]
        if outside:
            raise EngineError(
                f"offset {outside[0]} is outside the window of frames 0..{last}; load the engine with a longer horizon"
            )
        on_host = torch.tensor(offsets, dtype=torch.int64, device="cpu")  # whatever the caller's default device is
        return self._make(self._buffers, (on_host * ring.shape[1]).to(ring.device, non_blocking=True))
