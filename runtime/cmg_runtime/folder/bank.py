"""The bank of motion states that :meth:`Engine.reset` draws from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.folder.npz import read_npz


def load_bank(folder: Path, manifest: Manifest, device: torch.device) -> torch.Tensor:
    """The bank [K, motion_dim] float32, rad and rad/s, on ``device``.

    Raises:
        EngineError: the file is missing, is not what the manifest says, or holds no such states.
    """
    motion = read_npz(folder, manifest.bank).get("motion", np.empty(0))
    width = manifest.sizes.motion_dim
    states = motion.ndim == 2 and motion.shape[1] == width and len(motion) > 0 and motion.dtype == np.float32
    if not states or not np.isfinite(motion).all():
        raise EngineError(
            f"{manifest.bank.file} has {motion.dtype} of shape {list(motion.shape)} as motion; "
            f"expected finite float32 [K, {width}] with K at least 1; rebuild the engine folder"
        )
    return torch.from_numpy(motion).to(device)
