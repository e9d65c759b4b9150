"""``python -m cmg_gym.latency``: how long a step of the deployed control loop takes on one core."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.controller import Controller, Proprioception
from CMG_Ref.command_line import require_positive, run


@dataclass(frozen=True)
class Options:
    """Time steps of the controller on one core: while a command is held, and with a new one at every step."""

    policy: Path = command_line.BUNDLED_POLICY
    """An exported policy's folder: policy.onnx and policy.json."""
    engine: Path = command_line.G1.engine
    """The engine folder."""
    steps: int = 100_000
    """Timed of each; a hundred more come before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, latency, arguments, "cmg_gym.latency", FORESEEN)


def latency(options: Options) -> None:
    """Measure, and print a table."""
    require_positive(options, "steps")
    controller = Controller(options.policy, options.engine)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    held = np.tile(np.array([[0.8, 0.0, 0.3]], dtype=np.float32), (options.steps + WARM_UP, 1))
    # As from a joystick that is never still, inside of every range.
    moving = held + 0.1 * np.sin(np.arange(len(held), dtype=np.float32))[:, None]
    print("| command | clock | p50 ms | p99 ms | max ms |\n| --- | --- | --- | --- | --- |")
    for name, commands in (("held", held), ("new at every step", moving)):
        for clock, seconds in zip(("passed", "of the core"), time_steps(controller, commands), strict=True):
            p50, p99, most = np.percentile(1000 * seconds, (50, 99, 100))
            print(f"| {name} | {clock} | {p50:.3f} | {p99:.3f} | {most:.3f} |", flush=True)


WARM_UP = 100


def time_steps(controller: Controller, commands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each step under ``commands`` [n, 3] but the first hundred: as they pass, and of them on the core."""
    card = controller.card
    standing = np.array(card.default_dof_pos, dtype=np.float32)
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.05, (64, len(standing))).astype(np.float32)
    gravity, still = np.array([0.0, 0.0, -1.0]), np.zeros(3)
    seconds = np.zeros((2, len(commands)))
    controller.reset()
    for step, command in enumerate(tqdm(commands, unit="step", mininterval=1.0, leave=False)):
        shaken = noise[step % len(noise)]
        robot = Proprioception(still, gravity, standing + shaken, 10 * shaken)
        passed, core = time.perf_counter(), time.thread_time()
        controller.step(command, robot)
        seconds[:, step] = time.perf_counter() - passed, time.thread_time() - core
    return seconds[0, WARM_UP:], seconds[1, WARM_UP:]


if __name__ == "__main__":
    sys.exit(main())
