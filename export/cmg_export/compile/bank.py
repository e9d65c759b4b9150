"""Motion states for ``reset()`` to draw from, where the checkpoint brings none."""

from __future__ import annotations

import numpy as np
import torch

from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.manifest import CommandRange, Stats

BANK_SIZE = 256
SANE = 6.0
"""States further than this from the mean in any value, in deviations, are left out."""

_ROLLOUTS = 64
_BURN_IN = 70
_EVERY = 10
_FRAMES = _BURN_IN + _EVERY * BANK_SIZE // _ROLLOUTS


def make_bank(weights: dict[str, np.ndarray], stats: Stats, command_range: CommandRange, seed: int = 0) -> np.ndarray:
    """States that the network itself reaches from the mean pose, under commands spread over the range.

    Returns:
        [K, motion_dim] float32, physical units, K at most ``BANK_SIZE``; the mean pose alone where rollouts reach
        no sane state.
    """
    rng = np.random.default_rng(seed)
    mean = np.asarray(stats.motion_mean, dtype=np.float32)
    low, high = np.asarray(command_range.min), np.asarray(command_range.max)
    commands = torch.tensor(low + (high - low) * _spread(len(low), rng), dtype=torch.float32)
    motion = torch.from_numpy(mean).repeat(_ROLLOUTS, 1)
    network = OneProductNetwork(weights).eval()
    kept = []
    with torch.inference_mode():
        for frame in range(1, _FRAMES + 1):
            motion = network(motion, commands)
            if frame > _BURN_IN and (frame - _BURN_IN) % _EVERY == 0:
                kept.append(motion.numpy())
    states = np.concatenate(kept)
    distance = np.abs(states - mean) / np.asarray(stats.motion_std, dtype=np.float32)
    sane = np.isfinite(states).all(axis=1) & (distance <= SANE).all(axis=1)
    return states[sane] if sane.any() else mean[None]


def _spread(dims: int, rng: np.random.Generator) -> np.ndarray:
    """Points [_ROLLOUTS, dims] in [0, 1): in each dimension, one in each of ``_ROLLOUTS`` equal parts."""
    strata = np.stack([rng.permutation(_ROLLOUTS) for _ in range(dims)], axis=1)
    return (strata + rng.random(strata.shape)) / _ROLLOUTS
