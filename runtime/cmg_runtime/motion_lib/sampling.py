"""Choosing motions at random, without the host ever waiting for the device."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import as_floats, as_seed
from cmg_runtime.window.plain.draws import Weights

EASIEST_SHARE = 0.25
"""Of the motions, at curriculum level 0."""


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

    Attributes:
        rank: [M] int64, 0 for the easiest motion, and so on.
    """

    def __init__(self, commands: torch.Tensor, seed: int) -> None:
        size = commands.abs()
        effort = (size / size.amax(dim=0).clamp(min=1e-6)).amax(dim=1)
        self.rank = torch.argsort(torch.argsort(effort))
        self._waiting = torch.empty_like(self.rank, dtype=torch.float64)
        self._generator = torch.Generator(device=commands.device).manual_seed(as_seed(seed))

    def draw(self, n: int, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """``n`` motion ids [n] int64, with repetition."""
        num_motions, device = len(self.rank), self.rank.device
        cumulated = self.weights(motion_difficulty, curriculum_level).usable(self.rank).cumsum(0)
        evenly = torch.arange(1, num_motions + 1, dtype=torch.float64, device=device)
        cumulated = torch.where(cumulated[-1] > 0, cumulated, evenly)
        drawn = torch.rand(n, dtype=torch.float64, generator=self._generator, device=device) * cumulated[-1]
        # The first motion whose cumulated weight is above the draw: one of weight 0 never is. (torch.multinomial
        # would do the same, but waits for the GPU in some versions.)
        return torch.searchsorted(cumulated, drawn, right=True).clamp(max=num_motions - 1)

    def waiting(self) -> torch.Tensor:
        """Random numbers [M] float64, exponentially distributed: the motions for which they are smallest, each divided
        by its weight, are a draw by weight without repetition. The same tensor every time."""
        return self._waiting.exponential_(generator=self._generator)

    def draw_times(self, n: int, length: float) -> torch.Tensor:
        """Times [n] float32, spread evenly over 0..length, s."""
        return torch.rand(n, dtype=torch.float32, generator=self._generator, device=self.rank.device) * length

    def weights(self, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> Weights:
        """The arguments of a draw, checked."""
        num_motions = num_easy = len(self.rank)
        difficulty = None
        if motion_difficulty is not None:
            difficulty = _checked_weights(motion_difficulty, num_motions, self.rank.device)
        if curriculum_level is not None:
            level = float(curriculum_level)
            if not 0.0 <= level <= 1.0:
                raise EngineError(f"curriculum_level is {curriculum_level!r}; expected 0 (easiest) to 1 (all motions)")
            share = EASIEST_SHARE + (1 - EASIEST_SHARE) * level
            num_easy = math.ceil(max(share * num_motions, 1.0))
        return Weights(difficulty, num_easy)


def _checked_weights(values: Any, num_motions: int, device: torch.device) -> torch.Tensor:
    weights = as_floats(values, [(num_motions,)], "motion_difficulty", device).contiguous()
    if device.type == "cpu" and (bool((weights < 0).any()) or not bool((weights > 0).any())):
        raise EngineError(
            "motion_difficulty has a negative entry or only zeros; expected weights, at least one above 0"
        )
    return weights
