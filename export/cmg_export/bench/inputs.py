"""What every contender computes a frame of, and how far its frame is from float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmg_export.errors import ExportError
from cmg_export.parity import Truth
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.read.commands import draw_commands
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.manifest import Manifest

ERROR_ROWS = 2048
"""Environments whose frame is compared, at most."""


class Inputs:
    """States and commands for any number of environments, and the float64 reference of ``checkpoint``."""

    def __init__(self, folder: Path, manifest: Manifest, checkpoint: Checkpoint, seed: int) -> None:
        self._truth = Truth.from_checkpoint(checkpoint)
        self._bank = load_bank(folder, manifest, torch.device("cpu"))
        self._command_range = manifest.command_range
        self._spread = torch.tensor(manifest.stats.motion_std, dtype=torch.float64)
        self._seed = seed

    def draw(self, num_envs: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the bank [num_envs, motion_dim], every other one moved by half of the stats' spread, and commands
        within the range [num_envs, command_dim]."""
        rng = np.random.default_rng([self._seed, num_envs])
        motion = self._bank[torch.from_numpy(rng.integers(len(self._bank), size=num_envs))].double()
        motion[::2] += 0.5 * torch.from_numpy(rng.standard_normal(motion[::2].shape)) * self._spread
        command = torch.from_numpy(draw_commands(self._command_range, num_envs, rng))
        return motion.float().to(device), command.to(device)

    def error(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> float:
        """``||a - b|| / ||b||`` between a frame ``out`` and the reference's, in normalised units.

        Raises:
            ExportError: the frame is not finite, or was not written.
        """
        truth, rows = self._truth, slice(0, ERROR_ROWS)
        expected = truth.normalise(truth.step(motion[rows].cpu(), command[rows].cpu()))
        error = float((truth.normalise(out[rows].cpu()) - expected).norm() / expected.norm())
        if not np.isfinite(error):
            raise ExportError("its frame is not finite, or was not written")
        return error
