"""Which motion an asker gets next, among those that nobody asks for any more: a draw by weight without repetition.

The class here is plain torch, for every device; on CUDA it is some thirty small kernels. A faster one subclasses it;
:mod:`cmg_runtime.window.twins` chooses. Nothing makes the host wait.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import torch

from cmg_runtime.window.plain.clocks import MotionClocks

KIND = 1 << 60
"""In a key, what one kind of motion comes after another by."""


class Weights(NamedTuple):
    """Weights of a draw from M motions, as they were given.

    Attributes:
        difficulty: [M] float32 contiguous, of which entries that are negative or not finite count as 0; None: all 1.
        num_easy: how many of the easiest motions have a weight; all others count as 0.
    """

    difficulty: Optional[torch.Tensor]
    num_easy: int

    def usable(self, rank: torch.Tensor) -> torch.Tensor:
        """[M] float64, not negative; ``rank`` [M] int64 is 0 for the easiest motion, and so on."""
        easy = rank < self.num_easy
        if self.difficulty is None:
            return easy.double()
        return torch.where(easy & torch.isfinite(self.difficulty), self.difficulty.double(), 0.0).clamp(min=0)


class MotionDraws:
    """Draws motions, which then begin anew: see :meth:`MotionClocks.begin`.

    Free is a motion that a call which named as many as there are askers has left out since it was named. First come
    free ones by weight; then free ones of weight 0, the easier ones first; and then those named longest ago. Of free
    ones those that another asker was given last come behind all others, and so they do where nothing is free.

    Args:
        clocks: the motions'.
        commands: [M, C] float32, the motions' own.
        rank: [M] int64, 0 for the easiest motion, and so on.
        num_askers: askers; asker i has motion i at first.

    Attributes:
        motion_of_asker: [num_askers] int64, the motion that each was given last.
    """

    def __init__(self, clocks: MotionClocks, commands: torch.Tensor, rank: torch.Tensor, num_askers: int) -> None:
        self._clocks = clocks
        self._commands = commands
        self._rank = rank
        self._everyone = torch.arange(len(rank), device=rank.device)
        self._id_bits = (len(rank) - 1).bit_length()
        self.motion_of_asker = self._everyone[:num_askers].clone()

    def draw(
        self, n: int, waiting: torch.Tensor, weights: Weights, askers: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """``n`` distinct motions, at most M.

        Args:
            waiting: [M] float64, random, exponentially distributed.
            askers: [n] int64, who is given them; None where nobody is known.

        Returns:
            The motions [n] int64 in the order of the draw, and their commands [n, C]: new tensors.
        """
        motions = self._keys(waiting, weights, askers).topk(n, largest=False).indices
        self._clocks.begin(motions)
        if askers is not None:
            self.motion_of_asker.index_copy_(0, askers, motions)
        return motions, self._commands.index_select(0, motions)

    def _keys(self, waiting: torch.Tensor, weights: Weights, askers: Optional[torch.Tensor]) -> torch.Tensor:
        """[M] int64, all different: the motions with the smallest are drawn. The bits of floats that are not negative
        have their order: without the last of them there is room for the kind of motion in front and its id behind."""
        clocks, count, usable = self._clocks, len(self._rank), weights.usable(self._rank)
        by_weight = ((waiting / usable).view(torch.int64) >> (3 + self._id_bits) << self._id_bits) + self._everyone
        free = torch.where(usable > 0, by_weight, self._rank + KIND)
        by_age = (clocks.named + count) * count + self._everyone + 4 * KIND
        is_free = clocks.named < clocks.all_named
        keys = torch.where(is_free, free, by_age)
        if askers is None:
            return keys
        anothers = torch.zeros_like(is_free).index_fill_(0, self.motion_of_asker, True)
        anothers.index_fill_(0, self.motion_of_asker.index_select(0, askers), False)
        return keys + anothers * (is_free + 1) * KIND
