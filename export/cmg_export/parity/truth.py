"""The float64 reference that every artifact is compared with, and how the states it visits are found.

The arithmetic here is ``CMG_Ref.module.CMG``'s own. It shares nothing with the one-product graph that the
artifacts are made from, nor with the manifest: weights and stats come from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cmg_export.read.checkpoint import FARTHEST_STATE, Checkpoint
from cmg_export.read.commands import draw_commands
from CMG_Ref.checkpoint.reader import reference_model
from cmg_runtime.folder.manifest import CommandRange, Sizes, Stats

SHORT_ENVS, SHORT_FRAMES = 256, 100
LONG_ENVS, LONG_FRAMES = 64, 500
"""The first 64 of the 256 environments run on to 500 frames."""

DIVERGED = FARTHEST_STATE
"""A state with a normalised value beyond this has diverged."""

NUDGE = 1e-6
GROWTH_BOUND = 10.0
"""Rollouts are stable when a nudge of the start state, after at most 100 frames, has grown by less than this."""

_BATCH = 512  # rows at once through the reference: its hidden values then still fit a cache

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Truth:
    """The reference network in float64, with physical units in and out.

    Args:
        state_dict: parameters, named as ``CMG_Ref.module.CMG`` names them.
        sizes: shapes of the network.
        stats: normalisation of the motion state and the command.
        device: where it computes, and where everything given to it has to be. Parity's own is on the CPU.
    """

    def __init__(
        self,
        state_dict: dict[str, torch.Tensor],
        sizes: Sizes,
        stats: Stats,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sizes = sizes
        self.stats = stats
        self._model = reference_model(state_dict, sizes).to(device, torch.float64).eval()
        for parameter in self._model.parameters():  # the same matrices, by columns: products of few rows are faster
            parameter.data = parameter.data.t().contiguous().t() if parameter.dim() == 2 else parameter.data
        self.motion_mean, self.motion_std, self._command_min, self._command_max = (
            torch.tensor(values, dtype=torch.float64, device=device)
            for values in (stats.motion_mean, stats.motion_std, stats.command_min, stats.command_max)
        )

    @staticmethod
    def from_checkpoint(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Truth:
        """The reference with a checkpoint's weights and stats."""
        return Truth(checkpoint.state_dict, checkpoint.sizes, checkpoint.stats, device)

    def normalise(self, motion: torch.Tensor) -> torch.Tensor:
        """Motion states [..., motion_dim] in physical units -> float64 normalised units."""
        return (motion.to(torch.float64) - self.motion_mean) / self.motion_std

    def step(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        """One frame: motion [N, motion_dim] and command [N, command_dim] -> next motion, float64, physical units."""
        parts = zip(motion.split(_BATCH), command.split(_BATCH), strict=True)
        return torch.cat([self._step_rows(*part) for part in parts])

    @torch.inference_mode()
    def _step_rows(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        span = self._command_max - self._command_min
        scaled = 2 * (command.to(torch.float64) - self._command_min) / span - 1
        return self._model(self.normalise(motion), scaled) * self.motion_std + self.motion_mean


@dataclass(frozen=True)
class Course:
    """Where rollouts start and what they are told, the same for the reference and for every artifact.

    Attributes:
        start: [256, motion_dim] float32, physical units.
        commands: [500, 256, command_dim] float32; row t is in force while frame t + 1 is computed.
    """

    start: torch.Tensor
    commands: torch.Tensor


@dataclass(frozen=True)
class Rollouts:
    """Free-running rollouts of the reference.

    Attributes:
        course: of all rollouts.
        short: [100, 256, motion_dim] float64, frames 1..100.
        long: [500, 64, motion_dim] float64, frames 1..500 of the first 64 environments.
        short_kept, long_kept: [256] and [64] bool, the environments that did not diverge.
        nudge_growth: [n] float64, for each of the first 64 environments that did not diverge: the largest distance
            within 100 frames to a rollout whose normalised start state differs by about 1e-6 in every value, over
            their distance at the start; normalised units. Infinite where that rollout diverged.
    """

    course: Course
    short: torch.Tensor
    long: torch.Tensor
    short_kept: torch.Tensor
    long_kept: torch.Tensor
    nudge_growth: torch.Tensor


def draw_course(bank: np.ndarray, command_range: CommandRange, rng: np.random.Generator) -> Course:
    """Start from bank states, half of the environments under a command that changes on the way.

    Args:
        bank: [K, motion_dim] float32 motion states, physical units.
        command_range: commands are drawn from it.
    """
    rows = rng.choice(len(bank), SHORT_ENVS, replace=len(bank) < SHORT_ENVS)
    return Course(torch.from_numpy(bank[rows]), torch.from_numpy(_command_schedule(command_range, rng)))


def make_rollouts(truth: Truth, course: Course, rng: np.random.Generator) -> Rollouts:
    """Run the reference along ``course``, and from nudged start states beside it."""
    start, commands = course.start, course.commands
    nudge = NUDGE * torch.from_numpy(rng.standard_normal((LONG_ENVS, start.shape[1])))
    # The nudged rollouts run along in the same batch: that costs the least.
    nudged_start = start[:LONG_ENVS].to(torch.float64) + nudge * truth.motion_std
    both, long = free_run(
        truth.step,
        torch.cat([start.to(torch.float64), nudged_start]),
        torch.cat([commands, commands[:, :LONG_ENVS]], 1),
    )
    short, nudged = both.split([SHORT_ENVS, LONG_ENVS], dim=1)
    short_kept = bounded(truth, short).all(0)
    apart = (truth.normalise(nudged) - truth.normalise(short[:, :LONG_ENVS])).norm(dim=-1).amax(0)
    growth = (apart / nudge.norm(dim=-1)).nan_to_num(nan=float("inf"))
    return Rollouts(
        course=course,
        short=short,
        long=long,
        short_kept=short_kept,
        long_kept=bounded(truth, long).all(0),
        nudge_growth=growth[short_kept[:LONG_ENVS]],
    )


def free_run(step: Step, start: torch.Tensor, commands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feed ``step`` its own output: 100 frames of every environment, and on to 500 of the first 64.

    Args:
        step: (motion [N, motion_dim], command [N, command_dim]) -> a new tensor [N, motion_dim].
        start: [num_envs, motion_dim].
        commands: [500, num_envs, command_dim].

    Returns:
        Frames 1..100 [100, num_envs, motion_dim] and frames 1..500 [500, 64, motion_dim], of ``step``'s dtype.
    """
    state, frames = start, []
    for t in range(LONG_FRAMES):
        if t == SHORT_FRAMES:
            state = state[:LONG_ENVS]
        state = step(state, commands[t, : len(state)])
        frames.append(state)
    short = torch.stack(frames[:SHORT_FRAMES])
    return short, torch.cat([short[:, :LONG_ENVS], torch.stack(frames[SHORT_FRAMES:])])


def bounded(truth: Truth, motion: torch.Tensor) -> torch.Tensor:
    """Which states [..., motion_dim] are finite and have not diverged: [...] bool."""
    return (truth.normalise(motion).abs() <= DIVERGED).all(-1)  # a NaN compares false


def _command_schedule(command_range: CommandRange, rng: np.random.Generator) -> np.ndarray:
    """[500, 256, command_dim] float32. Every other environment changes its command within the first 100 frames;
    of those that run on, every other one changes it again later."""
    commands = np.repeat(draw_commands(command_range, SHORT_ENVS, rng)[None], LONG_FRAMES, axis=0)
    for env in range(0, SHORT_ENVS, 2):
        commands[rng.integers(SHORT_FRAMES // 5, SHORT_FRAMES) :, env] = draw_commands(command_range, 1, rng)
    for env in range(0, LONG_ENVS, 4):
        commands[rng.integers(2 * SHORT_FRAMES, LONG_FRAMES) :, env] = draw_commands(command_range, 1, rng)
    return commands
