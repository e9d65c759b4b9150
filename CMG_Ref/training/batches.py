"""Training windows, drawn on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from CMG_Ref.dataloader.dataset import balance_weights

AROUND = 25  # frames, half a second: as long as it takes to step off or to stop
CHANGE = 0.15  # m/s or rad/s


class WindowSampler:
    """All samples in device memory, normalised; draws windows of consecutive frames with no host work.

    Args:
        data: ``{"samples": [{"motion": [T + 1, D], "command": [T, 3]}, ...], "stats": {...}}``.
        device: where everything lives.
        balance: how strongly rare commands are preferred, see ``balance_weights``.
        changes: how many times as often windows are drawn that begin around a change of the command.
    """

    def __init__(self, data: dict[str, Any], device: torch.device, balance: float, changes: float = 1.0) -> None:
        stats = data["stats"]
        low, high = (np.asarray(stats[key], dtype=np.float32) for key in ("command_min", "command_max"))
        motions = [(s["motion"] - stats["motion_mean"]) / stats["motion_std"] for s in data["samples"]]
        # A command row is added to each sample so that both tables share their row numbers.
        raw = [np.concatenate([s["command"], s["command"][-1:]]) for s in data["samples"]]
        self._motion = torch.from_numpy(np.concatenate(motions)).to(device, torch.float32)
        self._command = torch.from_numpy((np.concatenate(raw) - low) / (high - low) * 2 - 1).to(device, torch.float32)
        self._left = np.concatenate([np.arange(len(m) - 1, -1, -1) for m in motions])
        self._weight = balance_weights(np.concatenate(raw), balance)
        if changes != 1:
            self._weight *= np.where(np.concatenate([_around_change(command) for command in raw]), changes, 1.0)
        self._device = device
        self._starts = torch.empty(0, dtype=torch.long)
        self._cumulative = torch.empty(0, dtype=torch.float64)

    def set_num_frames(self, num_frames: int) -> None:
        """From now on draw windows of ``num_frames`` transitions. Raises ``ValueError`` if no sample is that long."""
        starts = np.flatnonzero(self._left >= num_frames)
        if len(starts) == 0:
            raise ValueError(f"no sample has {num_frames} transitions; use longer samples or shorter rollouts")
        cumulative = np.cumsum(self._weight[starts])
        self._starts = torch.from_numpy(starts).to(self._device)
        self._cumulative = torch.from_numpy(cumulative / cumulative[-1]).to(self._device)
        self._offsets = torch.arange(num_frames + 1, device=self._device)

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows at random: motion [K + 1, count, D] and command [K, count, 3], normalised, time first."""
        u = torch.rand(count, device=self._device, dtype=torch.float64)
        pick = torch.searchsorted(self._cumulative, u).clamp_(max=len(self._starts) - 1)
        rows = self._starts[pick] + self._offsets[:, None]
        return self._motion[rows], self._command[rows[:-1]]


def _around_change(command: np.ndarray) -> np.ndarray:
    """Whether the command [T, 3] changes within ``AROUND`` frames of each frame, by ``CHANGE`` or more: [T] bool."""
    rows = np.arange(len(command))
    before, after = np.maximum(rows - AROUND, 0), np.minimum(rows + AROUND, len(command) - 1)
    return np.abs(command[after] - command[before]).max(axis=1) >= CHANGE
