"""Choosing motions at random, without the host ever waiting for the device."""

from __future__ import annotations

from typing import Any, Optional

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import as_floats, as_seed

EASIEST_SHARE = 0.25
"""Of the motions, at curriculum level 0."""

WITHOUT_WEIGHT = -1e6
"""Score of the easiest motion of weight 0. Logarithms of weights and of random numbers stay far above."""


class MotionSampler:
    """Draws from ``len(commands)`` motions, evenly or by weight.

    Args:
        commands: [M, 3] of the motions, m/s, m/s, rad/s. The easier ones are those with the smaller commands,
            measured by the largest of the motions' in each entry.
        seed: of the draws.

    ``motion_difficulty`` of the methods is [M] weights, not negative and not all 0; None for equal ones. On a GPU they
    are not looked at by the host: entries that are negative or not finite count as 0, and if no weight is left all are
    equal. ``curriculum_level`` is 0..1: at 0 only the easiest quarter has weight, at 1 everything; None: everything.
    Both raise :class:`EngineError`: a level outside 0..1, weights of the wrong shape, and on the host wrong weights.
    """

    def __init__(self, commands: torch.Tensor, seed: int) -> None:
        size = commands.abs()
        effort = (size / size.amax(dim=0).clamp(min=1e-6)).amax(dim=1)
        self._rank = torch.argsort(torch.argsort(effort))
        self._without_weight = WITHOUT_WEIGHT - self._rank.double()
        self._generator = torch.Generator(device=commands.device).manual_seed(as_seed(seed))

    def draw(self, n: int, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """``n`` motion ids [n] int64, with repetition."""
        num_motions, device = len(self._rank), self._rank.device
        cumulated = self._weights(motion_difficulty, curriculum_level).cumsum(0)
        evenly = torch.arange(1, num_motions + 1, dtype=torch.float64, device=device)
        cumulated = torch.where(cumulated[-1] > 0, cumulated, evenly)
        drawn = torch.rand(n, dtype=torch.float64, generator=self._generator, device=device) * cumulated[-1]
        # The first motion whose cumulated weight is above the draw: one of weight 0 never is. (torch.multinomial
        # would do the same, but waits for the GPU in some versions.)
        return torch.searchsorted(cumulated, drawn, right=True).clamp(max=num_motions - 1)

    def scores(self, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """Random numbers [M] float64: the motions with the largest n are a draw of n by weight without repetition.
        Those of weight 0 come after all others, the easier ones first."""
        weights = self._weights(motion_difficulty, curriculum_level)
        waiting = torch.empty_like(weights).exponential_(generator=self._generator)
        return torch.where(weights > 0, weights.log() - waiting.log(), self._without_weight)

    def draw_times(self, n: int, length: float) -> torch.Tensor:
        """Times [n] float32, spread evenly over 0..length, s."""
        return torch.rand(n, dtype=torch.float32, generator=self._generator, device=self._rank.device) * length

    def _weights(self, motion_difficulty: Any, curriculum_level: Optional[float]) -> torch.Tensor:
        num_motions, device = len(self._rank), self._rank.device
        weights = torch.ones(num_motions, dtype=torch.float64, device=device)
        if motion_difficulty is not None:
            weights = _checked_weights(motion_difficulty, num_motions, device)
        if curriculum_level is not None:
            level = float(curriculum_level)
            if not 0.0 <= level <= 1.0:
                raise EngineError(f"curriculum_level is {curriculum_level!r}; expected 0 (easiest) to 1 (all motions)")
            share = EASIEST_SHARE + (1 - EASIEST_SHARE) * level
            weights = weights * (self._rank < max(share * num_motions, 1.0))
        return weights


def _checked_weights(values: Any, num_motions: int, device: torch.device) -> torch.Tensor:
    weights = as_floats(values, [(num_motions,)], "motion_difficulty", device).double()
    if device.type == "cpu" and (bool((weights < 0).any()) or not bool((weights > 0).any())):
        raise EngineError(
            "motion_difficulty has a negative entry or only zeros; expected weights, at least one above 0"
        )
    return torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights)).clamp(min=0)
