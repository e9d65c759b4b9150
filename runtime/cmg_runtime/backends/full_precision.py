"""What the caller's process may have switched on, and an artifact's arithmetic must not see."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator

import torch

_FLAGS_LOCK = threading.RLock()
"""The flags belong to the whole process: one thread must not restore them while another computes."""


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, float32 products are float32 on ``device``, and neither autocast nor autograd is at work.

    Training code turns TF32 on for the whole process (mjlab does by default); the flag is put back on exit. No
    CUDA call is made: torch reads the flag when it launches a product.
    """
    with _FLAGS_LOCK, torch.no_grad(), torch.autocast(device.type, enabled=False), _ieee_products(device):
        yield


@contextlib.contextmanager
def _ieee_products(device: torch.device) -> Iterator[None]:
    flags: Any = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(flags, "fp32_precision"):
        with _legacy_ieee_products():
            yield
        return
    # Torch 2.9 and newer: products read this flag only. The older flags stay as they are, because torch refuses
    # to read those once the two disagree.
    before = flags.fp32_precision
    if before in ("ieee", "none"):
        yield
        return
    flags.fp32_precision = "ieee"
    try:
        yield
    finally:
        flags.fp32_precision = before


@contextlib.contextmanager
def _legacy_ieee_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
