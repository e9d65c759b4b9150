"""What mjlab logs of episodes that end, summed on the device and read once an iteration."""

from __future__ import annotations

import torch


class EpisodeStatistics:
    """Sums over the episodes that have ended since they were last read.

    Args:
        device: of everything.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._counted: list[bool] = []
        self._sums = torch.zeros(1, device=device)
        self._values: list[torch.Tensor] = []

    def declare(self, means: list[str], counts: list[str]) -> None:
        """Name the values, in the order in which :meth:`add` gets them.

        Args:
            means: logged as means over episodes.
            counts: logged as the number of episodes.
        """
        self._names = [*means, *counts]
        self._counted = [False] * len(means) + [True] * len(counts)
        self._sums = torch.zeros(1 + len(self._names), device=self._device)

    def add(self, ended: torch.Tensor, means: list[torch.Tensor], counts: list[torch.Tensor]) -> None:
        """Add the episodes of ``ended`` [worlds] bool.

        Args:
            means: each [worlds] or [n, worlds] float.
            counts: each [worlds] bool.
        """
        happened = torch.stack([torch.ones_like(ended), *counts]).float()
        rows = torch.cat([happened[:1], *(values.view(-1, len(ended)) for values in means), happened[1:]])
        self._sums += torch.where(ended, rows, 0.0).sum(dim=1)

    def read(self) -> dict[str, float]:
        """The values by name, and begin anew; empty if no episode has ended. The one place that waits for the GPU."""
        number, *sums = self._sums.tolist()
        self._sums.zero_()
        if number == 0:
            return {}
        return {
            name: total if counted else total / number
            for name, counted, total in zip(self._names, self._counted, sums, strict=True)
        }
