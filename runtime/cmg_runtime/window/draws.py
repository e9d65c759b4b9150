"""Initial states for resets, drawn ahead of them."""

from __future__ import annotations

import torch

MOST_AHEAD = 1 << 22


class Draws:
    """Integers below a limit, drawn by a seeded generator for many calls at once: a call of its own for every reset is
    a sixth of what a reset costs the host.

    Args:
        limit: they are 0..limit-1.
        most: of one call.

    Attributes:
        rows: [..] int64, at an address that never changes.
    """

    def __init__(self, limit: int, most: int, generator: torch.Generator) -> None:
        self._limit, self._generator = limit, generator
        self._ahead = min(most, MOST_AHEAD)
        self._next = self._ahead  # nothing is drawn yet
        self.rows = torch.zeros(self._ahead + most, dtype=torch.int64, device=generator.device)

    def take(self, n: int) -> int:
        """Where in :attr:`rows` n of them are that nobody took before. What is there is theirs until the next call.

        Within a capture of the caller's they are drawn by the graph, in memory that is not drawn ahead.
        """
        if n > self._ahead or (self.rows.is_cuda and torch.cuda.is_current_stream_capturing()):
            self._draw(self.rows[self._ahead : self._ahead + n])
            return self._ahead
        if self._next + n > self._ahead:
            self._draw(self.rows[: self._ahead])
            self._next = 0
        first, self._next = self._next, self._next + n
        return first

    def _draw(self, out: torch.Tensor) -> None:
        torch.randint(self._limit, out.shape, generator=self._generator, device=out.device, out=out)
