"""The frames at the same offsets of every environment, copied out of the window's ring."""

from __future__ import annotations

from typing import Callable

import torch

from cmg_runtime.window.state import WindowBuffers

CopyAhead = Callable[[WindowBuffers, torch.Tensor, torch.Tensor], None]
"""As :func:`copy_ahead`."""


def copy_ahead(buffers: WindowBuffers, ahead: torch.Tensor, out: torch.Tensor) -> None:
    """In plain torch, for every device: the truth of its twin, one kernel.

    Args:
        ahead: [K] int64, offsets from the current frame, in rows of the flat ring.
        out: [K, num_envs, W] float32, contiguous.
    """
    head = buffers.head[: buffers.num_envs]
    places = (head + ahead.unsqueeze(1)).remainder_(len(buffers.flat_ring)).flatten()
    torch.index_select(buffers.flat_ring, 0, places, out=out.view(-1, out.shape[2]))
