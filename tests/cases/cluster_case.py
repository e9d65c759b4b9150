"""Networks for the cluster kernels, beside what they are compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.backends.fused.packing import Packed, pack
from engine_folder import Truth
from make_checkpoint import make_checkpoint


def packed_network(seed: int, device: torch.device, **sizes: Any) -> tuple[Packed, Truth]:
    """A fresh random checkpoint in half precision on the device, and the float64 model of it."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_checkpoint(Path(folder), seed=seed, num_layers=3, **sizes)
        weights = one_product_weights(load_checkpoint(made.path))
    return pack(weights, torch.float16, device), Truth(made.model, made.stats)
