"""Arguments of several kernels, under the kernels' names for them."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch

from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.state import CommandRamp


def selection_arguments(envs: EnvSelection, everyone: torch.Tensor) -> Dict[str, Optional[torch.Tensor]]:
    """``ids`` [n] int64 or None, ``mask`` [n] bool or None, both contiguous.

    torch fetches the ids, so that one out of range fails its device-side assert: a kernel would write anywhere.
    """
    ids = None if envs.ids is None else everyone.index_select(0, envs.ids)
    return {"ids": ids, "mask": None if envs.mask is None else envs.mask.contiguous()}


def rows_arguments(name: str, rows: Optional[torch.Tensor]) -> Dict[str, Any]:
    """``name``, the rows [n, width], each contiguous, and ``name_stride``, the floats from row to row."""
    if rows is None:
        return {name: None, f"{name}_stride": 0}
    if rows.stride(1) != 1 and rows.shape[1] > 1:
        rows = rows.contiguous()
    return {name: rows, f"{name}_stride": rows.stride(0)}


def ramp_arguments(ramp: CommandRamp) -> Dict[str, Any]:
    """``ramp_initial``, ``ramp_target``, ``ramp_elapsed``, ``ramp_frames``, and ``RAMP``: whether there is one."""
    return {
        "ramp_initial": ramp.initial,
        "ramp_target": ramp.target,
        "ramp_elapsed": ramp.elapsed,
        "ramp_frames": max(float(ramp.num_frames), 1e-9),  # of any use only where there is a ramp
        "RAMP": ramp.num_frames > 0,
    }
