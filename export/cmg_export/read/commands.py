"""Commands that a checkpoint is tried with."""

from __future__ import annotations

import numpy as np

from cmg_runtime.folder.manifest import CommandRange


def draw_commands(command_range: CommandRange, count: int, rng: np.random.Generator) -> np.ndarray:
    """Commands [count, command_dim] float32: a quarter corners of the range, an eighth zero, others uniform."""
    low, high = (np.asarray(side, np.float32) for side in (command_range.min, command_range.max))
    commands = rng.uniform(low, high, (count, len(low)))
    corners = np.where(rng.random(commands.shape) < 0.5, low, high)
    kind = rng.integers(8, size=(count, 1))
    commands = np.where(kind < 2, corners, np.where(kind == 2, 0.0, commands))
    return np.clip(commands.astype(np.float32), low, high)
