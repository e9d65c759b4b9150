"""Which velocity commands an episode gets: the stages of the curriculum, drawn by ``CommandSampler``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cmg_runtime.commands.sampler import PRESETS, STAGES, STRATEGIES, CommandSampler, Ranges
from cmg_runtime.errors import EngineError


@dataclass(frozen=True)
class CommandStage:
    """A stage of the curriculum.

    Attributes:
        iteration: learning iteration from which it holds.
        strategy: one of ``CommandSampler``'s. The named stages and presets keep their ranges as far as these lie in
            the checkpoint's ``command_range``; all others draw from ``vx``, ``vy`` and ``yaw``.
        difficulty: 0..1, of the strategy "curriculum".
        vx, vy, yaw: (lowest, highest), m/s, m/s, rad/s. None: the checkpoint's whole range.
        push: share of the full pushes, 0..1.
    """

    iteration: int
    strategy: str = "uniform"
    difficulty: float = 1.0
    vx: tuple[float, float] | None = None
    vy: tuple[float, float] | None = None
    yaw: tuple[float, float] | None = None
    push: float = 0.0


TRAINING_STAGES = (
    CommandStage(0, vx=(0.4, 0.8), vy=(0.0, 0.0), yaw=(-0.2, 0.2)),
    CommandStage(150, vx=(0.3, 1.1), vy=(0.0, 0.0), yaw=(-0.4, 0.4), push=0.2),
    CommandStage(550, vx=(0.0, 1.2), vy=(-0.2, 0.2), yaw=(-0.6, 0.6), push=0.5),
    CommandStage(850, vx=(-0.3, 1.2), vy=(-0.2, 0.2), yaw=(-0.6, 0.6), push=1.0),
    CommandStage(1500, push=1.0),
)
"""Outward from an easy walk. The first 550 iterations are nine minutes on one H200; full pushes begin early, because
what is learned slowest is to step out of the reference's way after one."""

FULL_RANGE = (CommandStage(0, push=1.0),)
"""Every command of the checkpoint."""


def stage_at(stages: Sequence[CommandStage], iteration: float) -> CommandStage:
    """The last of ``stages`` that has begun at ``iteration``."""
    return [stage for stage in stages if stage.iteration <= iteration][-1]


def stage_ranges(stage: CommandStage, low: Sequence[float], high: Sequence[float]) -> Ranges:
    """What a stage draws from, within the checkpoint's command range ``low`` .. ``high`` [3].

    Raises:
        EngineError: no such strategy, or a range of the stage lies outside the checkpoint's.
    """
    if stage.strategy not in STRATEGIES:  # told now, not when the stage begins
        raise EngineError(f"unknown strategy {stage.strategy!r}; expected one of {', '.join(STRATEGIES)}")
    own = [stage.vx, stage.vy, stage.yaw]
    given = {**STAGES, **PRESETS}.get(stage.strategy) or [
        pair or bounds for pair, bounds in zip(own, zip(low, high, strict=True), strict=True)
    ]
    ranges = tuple((max(a, lo), min(b, hi)) for (a, b), lo, hi in zip(given, low, high, strict=True))
    if any(a > b for a, b in ranges):
        raise EngineError(f"{stage} leaves nothing of the checkpoint's command range {list(low)} .. {list(high)}")
    return ranges  # pyright: ignore[reportReturnType]


class StagedCommands:
    """Draws commands of the current stage.

    Args:
        stages: at least one, the first from iteration 0 on, in order.
        command_range: the engine's, (low, high) [3] each.
        standing_share: share of commands that are zero.
        seed: of everything random here.
    """

    def __init__(
        self,
        stages: Sequence[CommandStage],
        command_range: tuple[torch.Tensor, torch.Tensor],
        standing_share: float,
        seed: int,
    ) -> None:
        self.device = command_range[0].device
        self._standing_share = standing_share
        self._generator = torch.Generator(self.device).manual_seed(seed)
        low, high = (bound.tolist() for bound in command_range)
        self._samplers = {
            stage: CommandSampler(1, self.device, *stage_ranges(stage, low, high), seed=seed + index)
            for index, stage in enumerate(stages)
        }
        self.stage = stages[0]

    def draw(self, n: int) -> torch.Tensor:
        """Commands [n, 3] float32, m/s, m/s, rad/s."""
        # The sampler's ranges are the stage's already, so that a named strategy draws evenly from them.
        strategy = "uniform" if self.stage.strategy in (*STAGES, *PRESETS) else self.stage.strategy
        commands = self._samplers[self.stage].sample_batch(n, strategy, self.stage.difficulty)
        standing = torch.rand(n, 1, generator=self._generator, device=self.device) < self._standing_share
        return torch.where(standing, 0.0, commands)
