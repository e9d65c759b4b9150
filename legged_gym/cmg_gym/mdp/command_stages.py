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
        penalty: share of the full price, 0..1, of what a robot that cannot walk yet has no choice about; see
            :data:`cmg_gym.mdp.curriculum.PENALTIES`.
    """

    iteration: int
    strategy: str = "uniform"
    difficulty: float = 1.0
    vx: tuple[float, float] | None = None
    vy: tuple[float, float] | None = None
    yaw: tuple[float, float] | None = None
    push: float = 0.0
    penalty: float = 1.0


TRAINING_STAGES = (
    CommandStage(0, "curriculum", difficulty=0.25, penalty=0.05),
    CommandStage(200, "curriculum", difficulty=0.5, push=0.2, penalty=0.15),
    CommandStage(400, "curriculum", difficulty=0.75, push=0.2, penalty=0.5),
    CommandStage(600, push=0.5),
    CommandStage(900, push=1.0),
)
"""Every direction from the beginning, for a policy that only ever walked ahead stands still when it is told to do
anything else; outward to the checkpoint's whole range at a third of 1800 iterations, and pushed fully soon after."""

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

    The corners of the checkpoint's range are asked of nobody, as to run, step aside and turn at once, each as fast as
    it goes alone: a command whose parts are shares u of the longest that there are in their directions is multiplied by
    max(u) / norm(u). That makes an ellipsoid of the box, and leaves commands along one axis as they are.

    Args:
        stages: at least one, the first from iteration 0 on, in order.
        command_range: the engine's, (low, high) [3] each.
        standing_share: share of commands that are zero.
        one_axis_share: of the others, share of those that keep one of their parts only.
        slow_share: likewise, share of those that are multiplied by a number from 0 to 1.
        seed: of everything random here.
    """

    def __init__(
        self,
        stages: Sequence[CommandStage],
        command_range: tuple[torch.Tensor, torch.Tensor],
        standing_share: float,
        one_axis_share: float,
        slow_share: float,
        seed: int,
    ) -> None:
        self.device = command_range[0].device
        self._shares = standing_share, one_axis_share, slow_share
        self._generator = torch.Generator(self.device).manual_seed(seed + len(stages))  # not a sampler's numbers again
        self._longest = [bound.abs().clamp(min=1e-6) for bound in command_range]
        low, high = (bound.tolist() for bound in command_range)
        ranges = {stage: stage_ranges(stage, low, high) for stage in stages}
        self._samplers = {
            stage: CommandSampler(1, self.device, *ranges[stage], seed=seed + index)
            for index, stage in enumerate(stages)
        }
        self._bounds = {stage: torch.tensor(pairs, device=self.device).unbind(1) for stage, pairs in ranges.items()}
        self._axes = torch.arange(3, device=self.device)
        self.stage = stages[0]

    def draw(self, n: int) -> torch.Tensor:
        """Commands [n, 3] float32, m/s, m/s, rad/s."""
        # The sampler's ranges are the stage's already, so that a named strategy draws evenly from them.
        strategy = "uniform" if self.stage.strategy in (*STAGES, *PRESETS) else self.stage.strategy
        commands = self._samplers[self.stage].sample_batch(n, strategy, self.stage.difficulty)
        chances = self._uniform(n, 3).split(1, dim=1)
        standing, one_axis, slow = (chance < share for chance, share in zip(chances, self._shares, strict=True))
        kept, factor = self._uniform(n, 2).split(1, dim=1)
        others = self._axes != (3 * kept).long()
        commands = self._within_ellipsoid(torch.where(one_axis & others, 0.0, commands))
        commands = torch.where(slow, factor * commands, commands)
        return torch.where(standing, 0.0, commands.clamp(*self._bounds[self.stage]))

    def _within_ellipsoid(self, commands: torch.Tensor) -> torch.Tensor:
        low, high = self._longest
        shares = commands.abs() / torch.where(commands < 0, low, high)
        return commands * (shares.amax(dim=1) / shares.norm(dim=1).clamp(min=1e-9)).unsqueeze(1)

    def _uniform(self, n: int, columns: int) -> torch.Tensor:
        return torch.rand(n, columns, generator=self._generator, device=self.device)
