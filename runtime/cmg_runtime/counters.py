"""What was done to callers' data, counted on the device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Optional, Tuple

import torch


@dataclass(frozen=True)
class Report:
    """What was done to a caller's data since the engine was loaded.

    Attributes:
        commands_clamped: commands (one per environment and call, or per frame of a rollout) with an entry
            outside the engine's command range.
        entries_clamped: single entries of commands outside the range.
        commands_ignored: commands on the GPU that were not finite; their environments kept the old one.
        motions_ignored: motion states or root poses on the GPU that were not finite; their environments kept the
            old frame.
        lookups_clamped: offsets of :meth:`Engine.frames` outside the window; they gave its first or last frame.
    """

    commands_clamped: int
    entries_clamped: int
    commands_ignored: int
    motions_ignored: int
    lookups_clamped: int


class Counters:
    """The numbers of a :class:`Report` on a device. Counting never makes the host wait.

    Args:
        command_range: (min, max), [command_dim] each: what commands are clamped to.
    """

    def __init__(self, command_range: Tuple[torch.Tensor, torch.Tensor]) -> None:
        self._range = command_range
        self._warned = False
        self._counts = torch.zeros(5, dtype=torch.int64, device=command_range[0].device)
        self._commands, self._entries, self._ignored_commands, self._ignored_motions, self._lookups = self._counts

    def clamp_commands(self, commands: torch.Tensor, counted: Optional[torch.Tensor] = None) -> torch.Tensor:
        """``commands`` [.., command_dim] within the range; those that ``counted`` [..] names are counted, or all."""
        clamped = torch.minimum(torch.maximum(commands, self._range[0]), self._range[1])
        outside = clamped != commands
        if counted is not None:
            outside = outside & counted.unsqueeze(-1)
        self._commands += outside.any(dim=-1).sum()
        self._entries += outside.sum()
        return clamped

    def clamp_lookups(self, indices: torch.Tensor, last: int) -> torch.Tensor:
        """``indices`` within 0..last."""
        clamped = indices.clamp(0, last)
        self._lookups += (clamped != indices).sum()
        return clamped

    def ignore_commands(self, ignored: torch.Tensor) -> None:
        """Count the True of ``ignored``."""
        self._ignored_commands += ignored.sum()

    def ignore_motions(self, ignored: torch.Tensor) -> None:
        """Count the True of ``ignored``."""
        self._ignored_motions += ignored.sum()

    def report(self, owner: str) -> Report:
        """The numbers. The host waits. The first time that one is not zero, warn in the name of ``owner``."""
        counts = [int(count) for count in self._counts.tolist()]
        report = Report(*counts)
        if any(counts) and not self._warned:
            self._warned = True
            low, high = ([round(value, 3) for value in bound.tolist()] for bound in self._range)
            warnings.warn(
                f"{owner}: {report.commands_clamped} commands were clamped to {low} .. {high}; "
                f"{report.commands_ignored} commands and {report.motions_ignored} motions were not finite and ignored; "
                f"{report.lookups_clamped} lookups were outside the window",
                RuntimeWarning,
                stacklevel=3,
            )
        return report
