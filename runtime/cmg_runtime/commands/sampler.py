"""Velocity commands to train with: uniform, by stage, by difficulty, by preset, and sequences of them."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Sequence, Tuple

import torch

from cmg_runtime.device import resolve_device
from cmg_runtime.device.memory import require_memory
from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import as_count, as_floats, as_seed, select_envs

Ranges = Tuple[Tuple[float, float], Tuple[float, float], Tuple[float, float]]
"""Of vx (m/s), vy (m/s) and yaw rate (rad/s)."""

STAGES: Dict[str, Ranges] = {
    "stage1_basic": ((0.3, 2.0), (0.0, 0.0), (0.0, 0.0)),
    "stage2_turn": ((0.3, 2.0), (0.0, 0.0), (-0.5, 0.5)),
    "stage3_strafe": ((0.0, 2.0), (-0.5, 0.5), (-0.5, 0.5)),
    "stage4_mixed": ((-1.0, 3.0), (-0.8, 0.8), (-0.8, 0.8)),
}
"""Stages of a training, from walking straight on to everything."""

PRESETS: Dict[str, Ranges] = {
    "forward": ((0.5, 2.5), (0.0, 0.0), (0.0, 0.0)),
    "backward": ((-1.3, -0.3), (0.0, 0.0), (0.0, 0.0)),
    "turn_left": ((0.0, 0.0), (0.0, 0.0), (0.2, 0.7)),
    "turn_right": ((0.0, 0.0), (0.0, 0.0), (-0.7, -0.2)),
    "strafe_left": ((0.0, 0.5), (0.3, 0.8), (0.0, 0.0)),
    "strafe_right": ((0.0, 0.5), (-0.8, -0.3), (0.0, 0.0)),
    "forward_turn": ((0.5, 2.0), (0.0, 0.0), (-0.4, 0.4)),
}
"""One kind of motion each. The preset "mixed" is the sampler's own ranges."""

STRATEGIES = ("uniform", *STAGES, "curriculum", *PRESETS, "mixed", "truncated_normal")
"""What :meth:`CommandSampler.sample_batch` takes; ``uniform_random`` is another name of ``uniform``."""

# At difficulty 0: half of the forward speeds, no side step, a third of the turning. At 1: the whole ranges.
_EASIEST = (0.5, 0.0, 0.3)


class CommandSampler:
    """Draws commands (vx, vy, yaw rate), m/s, m/s, rad/s, in the robot's own frame, from a seeded generator.

    A copy, pickled or not, draws what this one would draw next, and each goes on by itself.

    Every command lies within the ranges of its strategy. They need not lie within what a checkpoint is good for: the
    engine clamps to its ``command_range`` and counts.

    Args:
        num_envs: commands that a method gives where ``env_ids`` is None.
        device: where commands are made.
        vx_range, vy_range, yaw_range: (lowest, highest), m/s, m/s, rad/s; equal for a fixed value.
        seed: the same seed gives the same commands on the same kind of device.

    Raises:
        EngineError: a range that is not two finite numbers in order, or a wrong number of environments.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cuda",
        vx_range: Sequence[float] = (-1.5, 3.0),
        vy_range: Sequence[float] = (-0.8, 0.8),
        yaw_range: Sequence[float] = (-0.8, 0.8),
        seed: int = 0,
    ) -> None:
        self.num_envs = as_count(num_envs, "num_envs")
        self.device = resolve_device(device)
        named = {"vx_range": vx_range, "vy_range": vy_range, "yaw_range": yaw_range}
        self._ranges: Ranges = tuple(_checked_range(name, pair) for name, pair in named.items())  # type: ignore
        self._generator = torch.Generator(device=self.device).manual_seed(as_seed(seed))

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "_generator": self._generator.get_state()}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state, device=resolve_device(state["device"]))
        self._generator = torch.Generator(device=self.device)
        self._generator.set_state(state["_generator"])

    def sample_batch(self, n: int, strategy: str = "uniform", difficulty: float = 1.0) -> torch.Tensor:
        """Draw ``n`` commands.

        Args:
            strategy: one of :data:`STRATEGIES`.
            difficulty: 0..1, of "curriculum" only; see :meth:`sample_curriculum`.

        Returns:
            [n, 3] float32.

        Raises:
            EngineError: unknown strategy, ``n`` negative, or a difficulty outside 0..1.
        """
        n = as_count(n, "n", least=0)
        require_memory(12 * n, self.device, f"a batch of {n} commands", "draw fewer")
        if strategy in ("uniform", "uniform_random", "mixed"):
            return self._uniform(n, self._ranges)
        if strategy in STAGES:
            return self._uniform(n, STAGES[strategy])
        if strategy in PRESETS:
            return self._uniform(n, PRESETS[strategy])
        if strategy == "curriculum":
            return self._uniform(n, self._scaled(difficulty))
        if strategy == "truncated_normal":
            return self._truncated_normal(n, None, None)
        raise EngineError(f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")

    def sample_uniform(self, env_ids: Any = None) -> torch.Tensor:
        """Commands [n, 3] spread evenly over the sampler's ranges, one for each of ``env_ids`` (None: every one)."""
        return self._uniform(self._rows(env_ids), self._ranges)

    def sample_curriculum(self, difficulty: float, env_ids: Any = None) -> torch.Tensor:
        """Commands [n, 3] from ranges that grow with the difficulty.

        Each range shrinks towards its command nearest to standing still. At 0 it keeps half of the forward speeds, no
        side step and 0.3 of the turning; at 1 everything.

        Raises:
            EngineError: a difficulty outside 0..1.
        """
        return self._uniform(self._rows(env_ids), self._scaled(difficulty))

    def sample_preset(self, mode: str, env_ids: Any = None) -> torch.Tensor:
        """Commands [n, 3] of one kind of motion, a key of :data:`PRESETS` or "mixed".

        Raises:
            EngineError: unknown preset.
        """
        if mode not in (*PRESETS, "mixed"):
            raise EngineError(f"unknown preset {mode!r}; expected one of {', '.join((*PRESETS, 'mixed'))}")
        return self.sample_batch(self._rows(env_ids), mode)

    def sample_distribution(
        self, distribution: str = "truncated_normal", mean: Any = None, std: Any = None, env_ids: Any = None
    ) -> torch.Tensor:
        """Commands [n, 3] from a normal distribution cut off at the sampler's ranges (by its tails, not by clamping).

        Args:
            distribution: "truncated_normal".
            mean, std: [3]; None for the middle of the ranges and a quarter of their width.

        Raises:
            EngineError: another distribution, or a standard deviation that is negative.
        """
        if distribution != "truncated_normal":
            raise EngineError(f"unknown distribution {distribution!r}; expected truncated_normal")
        return self._truncated_normal(self._rows(env_ids), mean, std)

    def sample_sequence(
        self, duration: int, change_interval: int = 50, mode: str = "uniform", env_ids: Any = None
    ) -> torch.Tensor:
        """Commands that change over time: drawn every ``change_interval`` frames, joined by straight lines.

        Args:
            duration: T, frames.
            change_interval: frames between two draws; after the last draw the command is held.
            mode: one of :data:`STRATEGIES` ("preset:NAME" also names a preset). With "curriculum" the difficulty
                grows from 0 at the first draw to 1 at the last.

        Returns:
            [n, T, 3] float32.

        Raises:
            EngineError: unknown mode, or numbers of frames that are not positive.
        """
        duration = as_count(duration, "duration")
        change_interval = as_count(change_interval, "change_interval")
        n, draws = self._rows(env_ids), duration // change_interval + 1
        require_memory(12 * n * duration, self.device, f"a sequence of {duration} commands for {n}", "draw fewer")
        strategy = mode[len("preset:") :] if mode.startswith("preset:") else mode
        keys = [self.sample_batch(n, strategy, i / max(draws - 1, 1)) for i in range(draws)]
        drawn = torch.stack(keys, dim=1)
        frame = torch.arange(duration, device=self.device)
        before = torch.div(frame, change_interval, rounding_mode="floor")
        after = (before + 1).clamp(max=draws - 1)
        weight = (frame - before * change_interval).float() / change_interval
        return torch.lerp(drawn[:, before], drawn[:, after], weight[None, :, None])

    def _rows(self, env_ids: Any) -> int:
        return select_envs(env_ids, self.num_envs, self.device).num_rows

    def _uniform(self, n: int, ranges: Ranges) -> torch.Tensor:
        commands = torch.rand(n, 3, generator=self._generator, device=self.device, dtype=torch.float32)
        for column, (low, high) in zip(commands.unbind(1), ranges):
            column.mul_(high - low).add_(low)  # by numbers of the host: nothing to copy to the device
        return commands

    def _scaled(self, difficulty: float) -> Ranges:
        level = float(difficulty)
        if not 0.0 <= level <= 1.0:
            raise EngineError(f"difficulty is {difficulty!r}; expected 0 (easiest) to 1 (the whole ranges)")
        scaled = []
        for (low, high), easiest in zip(self._ranges, _EASIEST):
            scale = easiest + (1.0 - easiest) * level
            nearest = min(max(0.0, low), high)
            scaled.append((nearest + scale * (low - nearest), nearest + scale * (high - nearest)))
        return tuple(scaled)  # type: ignore

    def _truncated_normal(self, n: int, mean: Any, std: Any) -> torch.Tensor:
        """By inversion: an even spread over the part of the cumulative distribution that lies in the ranges."""
        middles = [(low + high) / 2 for low, high in self._ranges] if mean is None else _three(mean, "mean")
        widths = [(high - low) / 4 for low, high in self._ranges] if std is None else _three(std, "std")
        if min(widths) < 0:
            raise EngineError(f"std is {widths}; expected no negative entry")
        commands = torch.rand(n, 3, generator=self._generator, device=self.device, dtype=torch.float64)
        for column, (low, high), middle, width in zip(commands.unbind(1), self._ranges, middles, widths):
            scale = max(width, 1e-9) * math.sqrt(2.0)
            lowest, highest = math.erf((low - middle) / scale), math.erf((high - middle) / scale)
            if highest - lowest < 1e-12:  # a fixed value, or so far out that only the nearest bound is left
                column.fill_(min(max(middle, low), high))
            else:
                column.mul_(highest - lowest).add_(lowest).erfinv_().mul_(scale).add_(middle).clamp_(low, high)
        return commands.float()


def get_stage_sampler(stage: str, num_envs: int, device: str | torch.device = "cuda", seed: int = 0) -> CommandSampler:
    """A sampler with the ranges of one of :data:`STAGES`.

    Raises:
        EngineError: unknown stage.
    """
    if stage not in STAGES:
        raise EngineError(f"unknown stage {stage!r}; expected one of {', '.join(STAGES)}")
    return CommandSampler(num_envs, device, *STAGES[stage], seed=seed)


def _three(values: Any, name: str) -> List[float]:
    return as_floats(values, [(3,)], name, torch.device("cpu")).tolist()


def _checked_range(name: str, pair: Sequence[float]) -> Tuple[float, float]:
    try:
        low, high = (float(value) for value in pair)
    except (TypeError, ValueError):
        raise EngineError(f"{name} is {pair!r}; expected (lowest, highest)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise EngineError(f"{name} is {pair!r}; expected two finite numbers, the lower one first")
    return low, high
