"""``python -m cmg_gym.soak``: the training environment for a million steps, and whether it stays as it was."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmg_export.errors import FORESEEN
from cmg_export.soak.limits import grown
from cmg_export.soak.watch import BURST, Memory, StepTimes, read_memory
from cmg_gym import command_line
from cmg_gym.captured import TrainingEnv, make_env
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.robots import robot_of
from CMG_Ref.command_line import require_positive, require_seed, run
from cmg_runtime import read_manifest
from cmg_runtime.device import resolve_device

MARKS = (0.1, 0.5, 1.0)
"""Shares of the run after which memory is read. What happens for the first time belongs into the first tenth."""
SLOWDOWN = 1.25
"""How many times as long as in the second tenth of the run a step may take in the last."""


@dataclass(frozen=True)
class Options:
    """Step the training environment, captured on a GPU, under random actions, with its resets, commands and pushes;
    count what is not finite, and see whether memory grows or steps take longer. A table; exit status 1 if one does."""

    engine: Path = command_line.G1.engine
    """The engine folder; the robot is the one with its joints."""
    backend: command_line.BackendOption = "auto"
    device: str = "cuda:0" if torch.cuda.is_available() else "cpu"
    num_envs: int = 64
    """Robots."""
    steps: int = 1_000_000
    seconds: float = 7200.0
    """The run ends after that, whatever is left."""
    seed: int = 0


@dataclass
class Seen:
    """What a run has come to.

    Attributes:
        steps: made.
        episodes: ended.
        not_finite: observations and rewards that were not.
        memory: at each of :data:`MARKS`.
        times: median time of a step, us, of each burst.
    """

    steps: int = 0
    episodes: int = 0
    not_finite: int = 0
    memory: list[Memory] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def tenths(self) -> list[float]:
        """The median step of each tenth of the run, us; fewer where there were fewer bursts."""
        count = len(self.times)
        parts = [self.times[count * k // 10 : count * (k + 1) // 10] for k in range(10)]
        return [sorted(part)[len(part) // 2] for part in parts if part]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, soak, arguments, "cmg_gym.soak", FORESEEN)


def soak(options: Options) -> int:
    """Run, and print what was seen; returns the exit status."""
    require_seed(options.seed)
    require_positive(options, "num_envs", "steps")
    command_line.require_seconds(options.seconds)
    cfg = make_env_cfg(robot=robot_of(read_manifest(options.engine)))
    resolve_device(options.device)
    command_line.require_room(options.num_envs, options.device)
    cfg.scene.num_envs, cfg.seed = options.num_envs, options.seed
    reference = command_line.reference_cfg(cfg)
    reference.engine, reference.cmg_backend = str(options.engine), options.backend
    seen = worn(TrainingEnv(make_env(cfg, options.device)), options.steps, options.seconds)
    print(table(seen, options.num_envs))
    failures = judged(seen)
    for failure in failures:
        print(f"cmg_gym.soak: {failure}", file=sys.stderr)
    return int(bool(failures))


@torch.inference_mode()
def worn(env: TrainingEnv, steps: int, seconds: float) -> Seen:
    """Make up to ``steps`` steps in up to ``seconds``, in bursts of :data:`BURST`; the host waits for each burst."""
    device = torch.device(env.device)
    generator = torch.Generator(device).manual_seed(env.cfg.seed or 0)
    actions = torch.zeros(env.num_envs, env.num_actions, device=device)
    not_finite, ended = torch.zeros(2, dtype=torch.int64, device=device)
    seen, times, began = Seen(), StepTimes(device), time.monotonic()
    while (left := min(BURST, steps - seen.steps)) and time.monotonic() - began < seconds:
        for _ in range(left):
            actions.normal_(std=0.1, generator=generator)
            made: list[Any] = []
            times.run(lambda made=made: made.extend(env.step(actions)))
            observations, rewards, dones, _ = made
            not_finite += sum((~value.isfinite()).sum() for value in (rewards, *observations.values()))
            ended += dones.sum()
            seen.steps += 1
            if time.monotonic() - began >= seconds:
                break
        seen.not_finite, seen.episodes = int(not_finite), int(ended)  # the host waits
        env.episode_statistics()
        seen.times.append(times.end())
        times.forget()
        share = max(seen.steps / steps, (time.monotonic() - began) / seconds)
        while len(seen.memory) < len(MARKS) and share >= MARKS[len(seen.memory)]:
            seen.memory.append(read_memory(device))
    if len(seen.memory) < len(MARKS):  # the time was over while memory was read
        seen.memory.append(read_memory(device))
    return seen


def judged(seen: Seen) -> list[str]:
    """What is not as it was, a line each."""
    failures = grown(seen.memory[0], seen.memory[-1], seen.steps) if seen.memory else []
    if seen.not_finite:
        failures.append(f"{seen.not_finite} observations and rewards were not finite; expected none")
    tenths = seen.tenths()
    if len(tenths) > 2 and tenths[-1] > SLOWDOWN * tenths[1]:
        failures.append(
            f"a step takes {tenths[-1]:.0f} us at the end and {tenths[1]:.0f} us at the beginning; "
            f"expected at most {SLOWDOWN:g} times as long"
        )
    return failures


def table(seen: Seen, num_envs: int) -> str:
    """What was seen, as Markdown."""
    lines = [
        f"{seen.steps} steps of {num_envs} robots, {seen.episodes} episodes ended, {seen.not_finite} values not finite",
        "",
        "| of the run | process MiB | torch MiB | reserved MiB | GPU MiB | tensors | objects |",
        "|" + " --- |" * 7,
    ]
    for share, held in zip(MARKS, seen.memory, strict=False):
        sizes = (held.rss, held.allocated, held.reserved, held.device)
        cells = ["" if size is None else f"{size:.1f}" for size in sizes]
        lines.append(f"| {share:.0%} | {' | '.join(cells)} | {held.tensors} | {held.objects} |")
    return "\n".join([*lines, "", "a step, us, p50 of each tenth: " + ", ".join(f"{t:.0f}" for t in seen.tenths())])


if __name__ == "__main__":
    sys.exit(main())
