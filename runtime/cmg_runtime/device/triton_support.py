"""Triton kernels for CUDA. What imports Triton is imported only where it is used: it need not be installed."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, Mapping

import torch

from cmg_runtime.errors import first_line

_NEEDED = (("triton.language.extra.cuda", "gdc_wait"), ("triton.tools.tensor_descriptor", "TensorDescriptor"))


@functools.lru_cache(maxsize=None)
def dependent_launch(device: torch.device) -> Mapping[str, Any]:
    """Launch options, and ``PDL``, of a kernel that starts while the one before it drains, where GPUs can do that, and
    waits for its end by itself (``gdc_wait``) before it reads or writes anything."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


def why_not(device: torch.device) -> str:
    """Why these kernels cannot run on ``device``, or an empty string.

    They need CUDA with compute capability 8.0 and Triton 3.5, which comes with torch for Linux. Triton's interpreter
    (``TRITON_INTERPRET=1``) runs them on a CPU, to check their arithmetic.
    """
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "a CUDA device is needed"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"compute capability 8.0 is needed, this device has {major}.{minor}"
    try:
        for module, name in _NEEDED:
            getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        return f"Triton 3.5 or newer is needed ({first_line(error)})"
    return ""
