"""rsl_rl's log of a training whose figures stay on the device until an iteration is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rsl_rl.utils.logger import Logger

from cmg_gym.learning.captured_ppo import CapturedPPO


class IterationLogger(Logger):
    """Writes what rsl_rl's logger writes, without reading the device in every step.

    Args:
        algorithm: keeps returns and lengths of the episodes that end.
        statistics: means over the episodes that ended since it was last asked, by the names that they are logged under.
        named: rsl_rl's.
    """

    def __init__(self, algorithm: CapturedPPO, statistics: Callable[[], dict[str, float]], **named: Any) -> None:
        super().__init__(**named, device="cpu")
        self._algorithm = algorithm
        self._statistics = statistics

    def process_env_step(self, *arguments: Any, **named: Any) -> None:
        """Nothing."""

    def log(self, *arguments: Any, action_std: torch.Tensor, **named: Any) -> None:
        """Log an iteration; on GPUs that do not log, nothing."""
        if self.writer is not None:
            for total, length in self._algorithm.rollout.episodes.last():
                self.rewbuffer.append(total)
                self.lenbuffer.append(length)
            self.ep_extras.append(self._statistics())
            super().log(*arguments, action_std=action_std.cpu(), **named)
