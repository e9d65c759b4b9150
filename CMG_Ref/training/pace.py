"""Which step comes next when a training has only so much time."""

from __future__ import annotations

import time

import numpy as np

from CMG_Ref.training.config import TrainConfig


class Pace:
    """Counts steps; with ``config.seconds``, those that there is no time for count as done.

    A step's work is taken as in proportion to its frames of rollout. Whatever comes before the first step is done,
    compilation too, is taken off the time.

    Args:
        config: its phases and seconds.
        started: ``time.monotonic()`` when the training began.
    """

    def __init__(self, config: TrainConfig, started: float) -> None:
        steps, frames = np.array(config.phases, dtype=np.float64).T
        self._steps = np.concatenate([[0.0], np.cumsum(steps)])
        self._work = np.concatenate([[0.0], np.cumsum(steps * (frames + 1))])  # one for what every step has to do
        self._end = started + config.seconds if config.seconds > 0 else None
        self._begun: float | None = None
        self._work_begun = 0.0

    def after(self, step: int) -> int:
        """The number of steps done once ``step``, counted from 0, is done."""
        step += 1
        if self._end is None:
            return step
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._work_begun = now, float(np.interp(step, self._steps, self._work))
        share = min(1.0, (now - self._begun) / max(self._end - self._begun, 1e-3))
        due = self._work_begun + share * (self._work[-1] - self._work_begun)
        return max(step, int(np.interp(due, self._work, self._steps)))
