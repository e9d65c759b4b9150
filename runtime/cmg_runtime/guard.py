"""The numerical guard: a generated frame that cannot be right never becomes part of a reference.

A row of a generated frame is bad unless every value is within its limits, which NaN is not. A bad row is replaced, on
the device, before anything else reads it, by the bank's row

    (frame_number + STRIDE * column) % K

where ``column`` is the environment and ``frame_number`` counts the environment's frames since the engine was loaded:
the same frame is replaced by the same state whether it was made by a step, a rebuild, or an engine without a window.
Nothing else changes: the command goes on, so does the root, and every other row keeps its bits.
"""

from __future__ import annotations

import time
import warnings
from typing import Callable, Optional

import torch

from cmg_runtime import inputs
from cmg_runtime.errors import EngineError

STRIDE = 2654435761
"""A prime: neighbours go on from different states."""

WATCH_EVERY = 256
"""Steps between two looks at the counter."""

WARN_EVERY_S = 10.0
"""Seconds between two warnings of one engine, at least."""


ReplaceBadRows = Callable[["Guard", torch.Tensor, torch.Tensor, int, bool, Optional[torch.Tensor]], None]
"""With the guard and the arguments of :meth:`Guard.apply`."""


def replace_bad_rows(
    guard: Guard,
    motion: torch.Tensor,
    columns: torch.Tensor,
    ahead: int,
    advance: bool,
    moving: Optional[torch.Tensor],
) -> None:
    """:meth:`Guard.apply` in plain torch, for every device: the truth of its twin, one kernel."""
    bad = ~guard.within(motion)
    if moving is not None:
        bad &= moving
    if bad.device.type != "cpu" or bool(bad.any()):
        number = guard.frame.index_select(0, columns) + ahead
        state = (number + STRIDE * columns).remainder(len(guard.bank))
        motion.copy_(torch.where(bad.unsqueeze(1), guard.bank.index_select(0, state), motion))
        guard.replaced.add_((bad & (columns < guard.num_envs)).sum())
    if advance:
        guard.frame.index_copy_(0, columns, guard.frame.index_select(0, columns) + (1 if moving is None else moving))


class Guard:
    """Replaces bad rows and counts them. Never makes the host wait on CUDA; can be captured in CUDA graphs.

    Args:
        low, high: [motion_dim] float32, rad and rad/s. No limit may be NaN.
        bank: [K, motion_dim] float32, K at least 1, contiguous: what bad rows are replaced by.
        num_envs: columns whose bad rows count. There is one more, the scratch column: see
            :class:`cmg_runtime.window.state.WindowBuffers`.
        replaced: [] int64, the counter.
        replace: what does it: the function above, or its twin (:mod:`cmg_runtime.window.twins` chooses).

    Attributes:
        low, high, bank, num_envs, replaced: as given.
        frame: [num_envs + 1] int64: the number of each column's current frame.
        columns: [num_envs] int64: 0..num_envs-1.
    """

    def __init__(
        self,
        low: torch.Tensor,
        high: torch.Tensor,
        bank: torch.Tensor,
        num_envs: int,
        replaced: torch.Tensor,
        replace: ReplaceBadRows = replace_bad_rows,
    ) -> None:
        self.low, self.high, self.bank, self.num_envs, self.replaced = low, high, bank, num_envs, replaced
        self.frame = torch.zeros(num_envs + 1, dtype=torch.int64, device=bank.device)
        self.columns = torch.arange(num_envs, device=bank.device)
        self._host_limits = (low.cpu(), high.cpu())
        self._replace = replace

    def apart(self, num_envs: int) -> Guard:
        """A guard with the same limits, bank and counter, of other columns, all at frame 0."""
        return Guard(self.low, self.high, self.bank, num_envs, self.replaced, self._replace)

    def apply(
        self,
        motion: torch.Tensor,
        columns: torch.Tensor,
        ahead: int,
        advance: bool = False,
        moving: Optional[torch.Tensor] = None,
    ) -> None:
        """Replace the bad rows of a generated frame, in place, and count them.

        Args:
            motion: [n, motion_dim] float32, rad and rad/s; rows may lie apart in memory.
            columns: [n] int64, each row's column. Rows of the scratch column are not counted.
            ahead: frames from the current frame to this one.
            advance: this is a step: afterwards the next frame of these columns is the current one. Each may then
                occur only once.
            moving: [n] bool, the rows that this is about; the others are thrown away. None: all.
        """
        self._replace(self, motion, columns, ahead, advance, moving)

    def within(self, motion: torch.Tensor) -> torch.Tensor:
        """[n] bool: which rows of ``motion`` [n, motion_dim] are within the limits in every value."""
        return ((motion >= self.low) & (motion <= self.high)).all(dim=1)

    def require_within(self, motion: torch.Tensor, name: str) -> None:
        """Raise :class:`EngineError` unless every value of ``motion`` [.., motion_dim] is within. The host waits."""
        inputs.require_finite(motion, name)
        rows = motion.reshape(-1, motion.shape[-1])
        low, high = self._host_limits if rows.device.type == "cpu" else (self.low, self.high)
        outside = ((rows < low) | (rows > high)).nonzero()
        if len(outside):
            row, column = outside[0].tolist()
            raise EngineError(
                f"{name} has {float(rows[row, column]):.4g} at [{row}, {column}], where no motion of this engine is; "
                f"expected {float(low[column]):.4g} .. {float(high[column]):.4g} (rad, rad/s)"
            )

    def clear(self) -> None:
        """Nothing replaced, and every column at frame 0."""
        self.frame.zero_()
        self.replaced.zero_()


class GuardWatch:
    """Warns of replaced frames while the engine runs, without waiting for the GPU.

    Every :data:`WATCH_EVERY` steps the counter is copied into pinned memory, behind the steps so far. What is read is
    what has arrived since the last look; no event is asked, because a query fails where another thread captures a
    CUDA graph in torch's default mode. The counter only grows, and 8 aligned bytes arrive at once.

    Args:
        replaced: [] int64, the counter.
        owner: in whose name to warn.
    """

    def __init__(self, replaced: torch.Tensor, owner: str) -> None:
        self._replaced = replaced
        self._owner = owner
        pinned = replaced.device.type == "cuda"
        self._seen = torch.zeros((), dtype=torch.int64, device="cpu", pin_memory=pinned)
        self._steps = 0
        self._told = 0
        self._told_at = -WARN_EVERY_S

    def step(self) -> None:
        """Once a step."""
        self._steps += 1
        if self._steps < WATCH_EVERY:
            return
        if self._replaced.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # the copy would become part of the caller's graph
        self._steps = 0
        if self._replaced.device.type == "cpu":
            self._seen.copy_(self._replaced)
        self._tell(int(self._seen))
        self._seen.copy_(self._replaced, non_blocking=True)

    def _tell(self, replaced: int) -> None:
        now = time.monotonic()
        if replaced <= self._told or now - self._told_at < WARN_EVERY_S:
            return
        new, self._told, self._told_at = replaced - self._told, replaced, now
        warnings.warn(
            f"{self._owner}: {new} generated frames were not finite or beyond the limits and were replaced from the "
            f"bank ({replaced} so far); see report()",
            RuntimeWarning,
            stacklevel=5,
        )
