"""``python -m cmg_gym.latency``: how long a step of the deployed control loop takes on one core."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.controller import Controller, Proprioception
from cmg_gym.walk import exported_policy
from CMG_Ref.command_line import require_positive, run
from cmg_runtime import EngineError

WARM_UP = 100
LIMIT_S = 1e-3
UNDISTURBED_S = 5e-5
"""Nobody else had the core during a step, where no more time passed than so much beyond what the step had of it."""
PRIORITY = 50
"""Of SCHED_FIFO: above everything ordinary, below what the kernel itself does at 99."""
LOCK_CURRENT_AND_FUTURE = 3
COLUMNS = ("what", "when", "p50 ms", "p99 ms", "max ms", "over 1 ms", "of these undisturbed", "of the core: p99, max")


@dataclass(frozen=True)
class Options:
    """Time steps of the controller on one core: while a command is held, and with a new one at every step, as it comes
    and prepared before, which is not timed; one after the other, and at the rate of the control loop, between whose
    steps the core rests and its caches go cold."""

    policy: Path | None = None
    """An exported policy's folder, or a training run's; else the bundled one of the engine's generator."""
    engine: Path = command_line.G1.engine
    """The engine folder."""
    steps: int = 100_000
    """Timed of each, one after the other; a hundred more come before."""
    paced_steps: int = 1500
    """Timed of each at the rate of the control loop: half a minute."""
    realtime: bool = False
    """As a robot's loop should run: first come on its core (SCHED_FIFO), memory locked, no garbage collection."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, latency, arguments, "cmg_gym.latency", FORESEEN)


def latency(options: Options) -> None:
    """Measure, and print a table."""
    require_positive(options, "steps", "paced_steps")
    policy = command_line.policy_or_bundled(options.policy, options.engine)
    controller = Controller(exported_policy(policy), options.engine)
    if options.realtime:
        take_the_core()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    rate = controller.card.fps
    with one_core():
        for pace, count, period in (
            ("one after the other", options.steps, 0.0),
            (f"{rate:g} a second", options.paced_steps, 1 / rate),
        ):
            for name, timed in steps_of(controller).items():
                print(f"| {name} | {pace} | {' | '.join(figures(*time_steps(timed, count, period)))} |", flush=True)


class Timed(NamedTuple):
    """What is timed, and what is called before, right behind the last step; both with the number of the step."""

    step: Callable[[int], object]
    before: Callable[[int], object] = lambda _: None


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def take_the_core() -> None:
    """What docs/deploy.md advises.

    Raises:
        EngineError: this user may not.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        if ctypes.CDLL(None, use_errno=True).mlockall(LOCK_CURRENT_AND_FUTURE):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except (AttributeError, OSError) as error:  # another system than Linux has none of it
        raise EngineError(
            f"--realtime is not allowed here ({error}); expected Linux, and root or higher limits rtprio and memlock"
        ) from None


def steps_of(controller: Controller) -> dict[str, Timed]:
    """What is timed, by its name. The last is no step, but as much arithmetic as takes half the limit: what interrupts
    and a machine below this one take of the core falls on it, too."""
    standing = np.array(controller.card.default_dof_pos, dtype=np.float32)
    shaken = np.random.default_rng(0).normal(0.0, 0.05, (64, len(standing))).astype(np.float32)
    gravity, still = np.array([0.0, 0.0, -1.0]), np.zeros(3)
    felt = [Proprioception(still, gravity, standing + noise, 10 * noise) for noise in shaken]
    held = np.array([0.8, 0.0, 0.3], dtype=np.float32)
    # As from a joystick that is never still, inside of every range.
    moving = held + 0.1 * np.sin(np.arange(1000, dtype=np.float32))[:, None]
    began = time.thread_time()
    _count_to(100_000)
    enough = round(100_000 * LIMIT_S / 2 / (time.thread_time() - began))

    def new_one(number: int) -> object:
        return controller.step(moving[number % 1000], felt[number % len(felt)])

    return {
        "command held": Timed(lambda number: controller.step(held, felt[number % len(felt)])),
        "a new one at every step": Timed(new_one),
        "a new one at every step, prepared": Timed(new_one, lambda number: controller.prepare(moving[number % 1000])),
        "no step, but arithmetic": Timed(lambda _: _count_to(enough)),
    }


def time_steps(timed: Timed, count: int, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each of ``count`` steps, behind a hundred more: as they pass, and of them on the core."""
    seconds = np.zeros((2, WARM_UP + count))
    due = time.perf_counter()
    for number in tqdm(range(WARM_UP + count), unit="step", mininterval=1.0, leave=False):
        timed.before(number)
        if number >= WARM_UP:  # the others need no pace
            due = max(due + period, time.perf_counter())
            time.sleep(due - min(due, time.perf_counter()))
        passed, core = time.perf_counter(), time.thread_time()
        timed.step(number)
        seconds[:, number] = time.perf_counter() - passed, time.thread_time() - core
    return seconds[0, WARM_UP:], seconds[1, WARM_UP:]


def figures(passed: np.ndarray, core: np.ndarray) -> list[str]:
    """The cells of a row."""
    slow = passed > LIMIT_S
    own = slow & (passed - core < UNDISTURBED_S)
    p50, p99, most = np.percentile(1000 * passed, (50, 99, 100))
    core_p99, core_most = np.percentile(1000 * core, (99, 100))
    times = [f"{p50:.3f}", f"{p99:.3f}", f"{most:.3f}"]
    return [*times, f"{slow.sum()} of {len(slow)}", f"{own.sum()}", f"{core_p99:.3f}, {core_most:.3f}"]


def _count_to(number: int) -> None:
    for _ in range(number):
        pass


if __name__ == "__main__":
    sys.exit(main())
