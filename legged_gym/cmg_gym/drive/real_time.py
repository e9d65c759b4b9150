"""A walk in real time: one control step each period, under whatever command there is just now."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cmg_gym.pictures.figures import Moment
from cmg_gym.walk import Walk, clamped

LYING_S = 1.5
"""A robot that has fallen lies so long, and begins anew."""
FORGIVEN_S = 0.1
"""Delay that is caught up with by shorter waits; what is beyond is lost, and real time with it."""
SWITCH_S = 0.001
"""After so long the page's thread hands Python back to the control loop; 5 ms otherwise, a quarter of a period."""
HISTORY_S = 10.0
"""Of velocities, for the plot."""
PUSH = 0.6
"""m/s, in a random direction."""


@dataclass(frozen=True)
class Load:
    """What the last second of steps took.

    Attributes:
        generator_ms, policy_ms: means of a step.
        step_ms, worst_ms: of a whole step with physics and page: mean and maximum.
        rate: control steps a second.
    """

    generator_ms: float
    policy_ms: float
    step_ms: float
    worst_ms: float
    rate: float


class Driver:
    """Walks a robot in real time. All of it belongs to the thread that steps, but for :meth:`later`.

    Args:
        walk: the robot.

    Attributes:
        command: (vx, vy, yaw rate) that is asked for.
        steps, late, falls: how many control steps there were, how many of them ended after their period, and how often
            the robot fell.
        history: (time s, command, achieved) of the last :data:`HISTORY_S`.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.command: tuple[float, ...] = (0.0, 0.0, 0.0)
        self.steps = self.late = self.falls = 0
        size, second = round(HISTORY_S / walk.dt), round(1 / walk.dt)
        self.history: deque[tuple[float, tuple[float, ...], tuple[float, ...]]] = deque(maxlen=size)
        self._took: deque[tuple[float, float, float]] = deque(maxlen=second)
        self._ended: deque[float] = deque(maxlen=second + 1)
        self._to_do: deque[Callable[[], object]] = deque()
        self._lying_steps = 0
        self._random = np.random.default_rng()
        self._began = time.perf_counter()

    def later(self, action: Callable[[], object]) -> None:
        """Have something done before the next step, in the thread that steps. Any thread may ask for it."""
        self._to_do.append(action)

    def ask(self, command: tuple[float, ...]) -> tuple[float, ...]:
        """Ask for a command; returns what the generator can take of it."""
        self.command = clamped(command, self.walk.command_range)
        return self.command

    def push(self) -> None:
        """Push the robot in a random direction."""
        angle = self._random.uniform(0, 2 * math.pi)
        self.walk.robot.push(PUSH * np.array([math.cos(angle), math.sin(angle)]))

    def start_anew(self) -> None:
        """Stand the robot up, at the origin."""
        self._lying_steps = 0
        self.walk.reset()

    def run(self, show: Callable[[Moment], None], seconds: float = 0.0) -> None:
        """Step until ``seconds`` have passed (0: for good), and show each step."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            self._run(show, seconds)
        finally:
            sys.setswitchinterval(before)

    def load(self) -> Load:
        """What the last second took."""
        generator, policy, step = np.array(self._took or [(0.0, 0.0, 0.0)]).T * 1e3
        span = self._ended[-1] - self._ended[0] if len(self._ended) > 1 else math.inf
        rate = (len(self._ended) - 1) / span if self._ended else 0.0
        return Load(generator.mean(), policy.mean(), step.mean(), step.max(), rate)

    def summary(self) -> str:
        """What the whole drive was, in a line."""
        passed = time.perf_counter() - self._began
        return (
            f"{self.steps} control steps in {passed:.1f} s: {self.steps / passed:.1f} a second; "
            f"{self.late} late, {self.falls} falls"
        )

    def step(self) -> Moment:
        """One control step, however long it takes."""
        walk = self.walk
        while self._to_do:
            self._to_do.popleft()()
        if self._lying_steps > LYING_S / walk.dt:
            self.start_anew()
        moment = walk.step(self.command)
        if self._lying_steps or not walk.robot.upright:
            self.falls += self._lying_steps == 0
            self._lying_steps += 1
        self.steps += 1
        self.history.append((self.steps * walk.dt, moment.command, moment.achieved))
        return moment

    def _run(self, show: Callable[[Moment], None], seconds: float) -> None:
        self._began = due = time.perf_counter()
        last = self._began + seconds if seconds else math.inf
        while due < last:
            started = time.perf_counter()
            show(self.step())
            due += self.walk.dt
            now = time.perf_counter()
            self._note(now - started, now)
            if now <= due:
                time.sleep(due - now)
                continue
            self.late += 1
            due = max(due, now - FORGIVEN_S)

    def _note(self, took: float, now: float) -> None:
        controller = self.walk.controller
        self._took.append((controller.generator_s, controller.policy_s, took))
        self._ended.append(now)
