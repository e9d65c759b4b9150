"""What a run of the benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        backends: which of them; none means all.
        peers: whether to time them too.
        num_envs: environments of the table.
        sizes: numbers of environments of the sweep; ``num_envs`` is always one.
        steps: calls of ``step()`` by each clock.
        horizon: frames of the engines' window.
        minutes: what is not begun by then is left out.
        seconds: how long one contender may take by one clock at one size; ``step()`` may take five times as long.
    """

    folder: Path
    checkpoint: Path
    data: Path | None
    device: torch.device
    backends: tuple[str, ...]
    peers: bool
    num_envs: int
    sizes: tuple[int, ...]
    steps: int
    horizon: int
    minutes: float
    seconds: float
    seed: int
