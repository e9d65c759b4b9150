"""What was done to callers' data, counted on the device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Optional

import torch

from cmg_runtime.folder.manifest import CommandRange


@dataclass(frozen=True)
class Report:
    """What was done to a caller's data since the engine was loaded.

    Attributes:
        commands_clamped: commands (one per environment and call, or per frame of a rollout) with an entry
            outside the engine's command range.
        entries_clamped: single entries of commands outside the range.
        commands_ignored: commands on the GPU that were not finite; their environments kept the old one.
        motions_ignored: motion states or root poses on the GPU that were not finite, or motions beyond the guard's
            limits; their environments kept the old frame.
        lookups_clamped: offsets of :meth:`cmg_runtime.Engine.frames` outside the window; they gave its first or last
            frame.
        frames_replaced: generated frames that were not finite or beyond the limits; a state of the bank stands in
            their place (:mod:`cmg_runtime.guard`). A frame that is made again, in a rebuild, counts again.
    """

    commands_clamped: int
    entries_clamped: int
    commands_ignored: int
    motions_ignored: int
    lookups_clamped: int
    frames_replaced: int


ORDER = tuple(entry.name for entry in fields(Report))
"""Of the numbers on a device. Whoever counts asks for the place of a name here."""


class Counters:
    """The numbers of a :class:`Report` on a device. Counting never makes the host wait.

    Args:
        command_range: what commands are clamped to.

    Attributes:
        command_range: (min, max), [command_dim] float32 each, on the device.
        counts: [len(ORDER)] int64, in the order of :data:`ORDER`.
        replaced: [] int64, a view of ``frames_replaced``: the guard adds to it.
    """

    def __init__(self, command_range: CommandRange, device: torch.device) -> None:
        low, high = (
            torch.tensor(bound, dtype=torch.float32, device=device) for bound in (command_range.min, command_range.max)
        )
        self.command_range = (low, high)
        self._warned = False
        self.counts = torch.zeros(len(ORDER), dtype=torch.int64, device=device)
        by_name = dict(zip(ORDER, self.counts))
        self._commands, self._entries = by_name["commands_clamped"], by_name["entries_clamped"]
        self._ignored_commands, self._ignored_motions = by_name["commands_ignored"], by_name["motions_ignored"]
        self._lookups, self.replaced = by_name["lookups_clamped"], by_name["frames_replaced"]

    def clamp_commands(self, commands: torch.Tensor, counted: Optional[torch.Tensor] = None) -> torch.Tensor:
        """``commands`` [.., command_dim] within the range; those that ``counted`` [..] names are counted, or all."""
        clamped = torch.minimum(torch.maximum(commands, self.command_range[0]), self.command_range[1])
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
        counts = {name: int(count) for name, count in zip(ORDER, self.counts.tolist())}
        report = Report(**counts)
        if any(counts.values()) and not self._warned:
            self._warned = True
            low, high = ([round(value, 3) for value in bound.tolist()] for bound in self.command_range)
            warnings.warn(
                f"{owner}: {report.commands_clamped} commands were clamped to {low} .. {high}; "
                f"{report.commands_ignored} commands and {report.motions_ignored} motions were not finite, or beyond "
                f"the limits, and ignored; {report.lookups_clamped} lookups were outside the window; "
                f"{report.frames_replaced} generated frames were bad and replaced",
                RuntimeWarning,
                stacklevel=4,
            )
        return report
