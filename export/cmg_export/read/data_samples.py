"""Whether the stats of a data file are those of the samples in it: where they are not, one of them has other units, or
another order of joints, and the checkpoint was trained with the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmg_export.errors import CheckpointError
from cmg_runtime.folder.manifest import Stats

STD_FLOOR = 0.1
"""Stats have no smaller deviation, however still a joint is."""

LEAST_RANGE = 0.5
"""m/s or rad/s. Stats may have a range of commands to at least this, however little the samples are told."""

MEAN_FACTOR, STD_FACTOR, RANGE_FACTOR = 1.5, 10.0, 3.0
"""Stats may be of more than the samples: of their mirror images too, which moves a mean by less than the deviation that
it leads to, and lends a still arm the deviation of one that swings; and they may leave out the rarest commands. Units
differ by 57 (degrees) or 3.6 (km/h)."""

MOST_SAMPLES, MOST_ROWS = 4000, 100_000


def check_samples(content: Any, stats: Stats, where: Path) -> None:
    """Hold the stats of ``cmg_training_data.pt`` to its samples, if it has any.

    Args:
        content: of the file: ``{"samples": [{"motion": [T+1, motion_dim], "command": [T, command_dim]}, ..], ..}``.

    Raises:
        CheckpointError: a mean, a deviation or a range of commands is not what the samples have, by far.
    """
    samples = content.get("samples") if isinstance(content, dict) else None
    motion = _rows(samples, "motion", len(stats.motion_mean))
    command = _rows(samples, "command", len(stats.command_min))
    if motion is not None:
        _compare_motion(motion, stats, where)
    if command is not None:
        _compare_commands(command, stats, where)


def _rows(samples: Any, key: str, width: int) -> np.ndarray | None:
    """Finite rows [n, width] of the samples' arrays of this name and width, spread over all of them; None without any.

    A few bytes of a pickle can claim any number of samples, so there are at most about :data:`MOST_ROWS`.
    """
    found = []
    samples = samples if isinstance(samples, (list, tuple)) else ()
    for sample in samples[:: -(-len(samples) // MOST_SAMPLES) or 1]:
        values = sample.get(key) if isinstance(sample, dict) else None
        if isinstance(values, torch.Tensor) and values.dtype == torch.float32 and values.device.type == "cpu":
            values = values.detach().numpy() if values.layout == torch.strided else None
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.shape[1:] == (width,):
            found.append(values)
    step = -(-sum(map(len, found)) // MOST_ROWS) or 1
    rows = np.concatenate([np.empty((0, width), np.float32), *(values[::step].astype(np.float64) for values in found)])
    rows = rows[np.isfinite(rows).all(axis=1)]
    return rows if len(rows) else None


def _compare_motion(motion: np.ndarray, stats: Stats, where: Path) -> None:
    mean, std = motion.mean(axis=0, dtype=np.float64), motion.std(axis=0, dtype=np.float64)
    told_mean, told_std = np.asarray(stats.motion_mean), np.asarray(stats.motion_std)
    apart = np.abs(mean - told_mean)
    far = apart / np.maximum(np.maximum(std, told_std), STD_FLOOR)
    ratio = np.maximum(told_std / np.maximum(np.hypot(std, apart), STD_FLOOR), std / told_std)
    if (far > MEAN_FACTOR).any():
        index = int(far.argmax())
        _refuse(where, f"motion_mean[{index}]", told_mean[index], mean[index])
    if (ratio > STD_FACTOR).any():
        index = int(ratio.argmax())
        _refuse(where, f"motion_std[{index}]", told_std[index], std[index])


def _compare_commands(command: np.ndarray, stats: Stats, where: Path) -> None:
    size = np.abs(command)
    most, usual = size.max(axis=0), np.quantile(size, 0.9, axis=0)
    told = np.maximum(np.abs(stats.command_min), np.abs(stats.command_max))
    bad = (told > RANGE_FACTOR * np.maximum(most, LEAST_RANGE)) | (usual > RANGE_FACTOR * told)
    if bad.any():
        index = int(bad.argmax())
        _refuse(where, f"command_min[{index}] .. command_max[{index}], by size,", told[index], most[index])


def _refuse(where: Path, what: str, told: float, seen: float) -> None:
    raise CheckpointError(
        f"{where}: {what} is {told:.4g} in the stats, and {seen:.4g} in the samples beside them; expected both in rad, "
        "rad/s and m/s and in one order of joints: make the file again"
    )
