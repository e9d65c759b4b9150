"""The states that artifacts take one step from: half of them visited by the reference, half random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cmg_export.errors import ParityError
from cmg_export.parity.truth import GROWTH_BOUND, Course, Rollouts, Truth, bounded, make_rollouts
from cmg_export.read.commands import draw_commands
from cmg_runtime.folder.manifest import CommandRange

NUM_STATES = 8192
MAX_DIVERGED = 0.01
"""Rollouts are not gated for a checkpoint of whose own a larger part diverges."""


@dataclass(frozen=True)
class States:
    """What the teacher-forced step starts from, and where the reference ends.

    Attributes:
        motion: [8192, motion_dim] float32, physical units; the first ``num_visited`` are visited states.
        command: [8192, command_dim] float32.
        next_motion: [8192, motion_dim] float64, the reference's answer to exactly these float32 inputs.
        num_visited: how many states come from rollouts of the reference; the others are random.
    """

    motion: torch.Tensor
    command: torch.Tensor
    next_motion: torch.Tensor
    num_visited: int


@dataclass(frozen=True)
class Stability:
    """What a 1e-6 nudge of the start state does to the reference's own rollouts.

    Attributes:
        growth_median, growth_p99: over the first 64 environments, less those that diverged, the factor by which the
            nudge grows within 100 frames. None where no rollout stayed bounded, or where the nudged ones did not.
        diverged: environments, of 256, whose 100-frame rollout diverged; left out of every comparison.
        stable: whether the 100-frame gate means anything for this checkpoint.
        reason: why not, or "".
    """

    growth_median: float | None
    growth_p99: float | None
    diverged: int
    stable: bool
    reason: str


@dataclass(frozen=True)
class Inputs:
    """Everything the artifacts are measured on, computed once and used for all of them."""

    states: States
    rollouts: Rollouts
    stability: Stability


def make_inputs(truth: Truth, course: Course, command_range: CommandRange, rng: np.random.Generator) -> Inputs:
    """Run the reference along ``course``, draw states and commands, and run it on them.

    Args:
        truth: the reference.
        course: of the rollouts.
        command_range: commands are drawn from it, its corners among them.
        rng: in the same state it gives the same inputs.

    Raises:
        ParityError: the states do not pass :func:`check_states`.
    """
    rollouts = make_rollouts(truth, course, rng)
    stability = judge_stability(rollouts.nudge_growth, rollouts.short_kept)
    return Inputs(make_states(truth, rollouts, command_range, rng), rollouts, stability)


def judge_stability(growth: torch.Tensor, kept: torch.Tensor) -> Stability:
    """Whether rollouts can be gated, from the growth of each nudge [n] and which environments stayed bounded."""
    diverged = int((~kept).sum())
    finite = [float(q) for q in (growth.quantile(0.5), growth.quantile(0.99))] if len(growth) else [float("inf")] * 2
    median, p99 = (q if np.isfinite(q) else None for q in finite)
    reason = ""
    if diverged > MAX_DIVERGED * len(kept):
        reason = f"{diverged} of {len(kept)} float64 rollouts diverge"
    elif median is None or median >= GROWTH_BOUND:
        factor = "without bound" if median is None else f"{median:.1e}-fold"
        reason = f"a 1e-6 nudge grows {factor} in float64 (bound: {GROWTH_BOUND:g}-fold)"
    return Stability(median, p99, diverged, not reason, reason)


def make_states(truth: Truth, rollouts: Rollouts, command_range: CommandRange, rng: np.random.Generator) -> States:
    """Visited states under the command that was in force there, then random ones under random commands.

    Rollouts that settle on a fixed point visit fewer than 4096 different states; random ones make up the number.
    """
    visited, visited_command = _visited(truth, rollouts)
    picked = rng.permutation(len(visited))[: NUM_STATES // 2]
    visited, visited_command = visited[picked], visited_command[picked]
    num_random = NUM_STATES - len(visited)
    wide = np.where(rng.random((num_random, 1)) < 0.25, 3.0, 1.0)
    normalised = torch.from_numpy(wide * rng.standard_normal((num_random, truth.sizes.motion_dim)))
    random = (normalised * truth.motion_std + truth.motion_mean).to(torch.float32)
    motion = torch.cat([torch.from_numpy(visited), random])
    command = torch.cat(
        [torch.from_numpy(visited_command), torch.from_numpy(draw_commands(command_range, num_random, rng))]
    )
    states = States(motion, command, truth.step(motion, command), len(visited))
    check_states(states, command_range)
    return states


def check_states(states: States, command_range: CommandRange) -> None:
    """Refuse states on which a comparison would prove nothing.

    Raises:
        ParityError: no states, unequal counts, values that are not finite, a state twice, or a command out of range.
    """
    motion, command = states.motion, states.command
    counts = {len(motion), len(command), len(states.next_motion)}
    if counts != {NUM_STATES}:
        raise ParityError(f"parity has {sorted(counts)} motions, commands and answers; expected {NUM_STATES} of each")
    if not all(bool(torch.isfinite(part).all()) for part in (motion, command, states.next_motion)):
        raise ParityError("parity states or the reference's answers are not all finite; expected finite states only")
    different = len(np.unique(_row_keys(motion.numpy())))
    if different != NUM_STATES:
        raise ParityError(f"only {different} of {NUM_STATES} parity states differ; expected none repeated")
    low, high = torch.tensor(command_range.min), torch.tensor(command_range.max)
    if bool(((command < low) | (command > high)).any()):
        raise ParityError("a parity command lies outside command_range; expected every command within it")


def _visited(truth: Truth, rollouts: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Every different bounded state of the rollouts, float32, with the command in force there, oldest first."""
    start, commands_of = rollouts.course.start, rollouts.course.commands
    long_start = start[None, : rollouts.long.shape[1]].to(torch.float64)
    before_short = torch.cat([start[None].to(torch.float64), rollouts.short[:-1]])
    before_long = torch.cat([long_start, rollouts.long[:-1]])
    extra = slice(len(rollouts.short), None)  # the long rollouts' first frames are among the short ones'
    states = [before_short.flatten(0, 1), before_long[extra].flatten(0, 1)]
    long_commands = commands_of[extra, : rollouts.long.shape[1]]
    commands = [commands_of[: len(rollouts.short)].flatten(0, 1), long_commands.flatten(0, 1)]
    motion, command = torch.cat(states), torch.cat(commands)
    kept = bounded(truth, motion)
    motion, command = motion[kept].to(torch.float32).numpy(), command[kept].numpy()
    first = np.sort(np.unique(_row_keys(motion), return_index=True)[1])
    return motion[first], command[first]


def _row_keys(rows: np.ndarray) -> np.ndarray:
    """One comparable value per row [n]; equal exactly where the rows are (adding 0 makes -0.0 equal 0.0)."""
    rows = np.ascontiguousarray(rows + np.float32(0))
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
