"""The frames at the same offsets of every environment, copied out of the window's ring."""

from __future__ import annotations

import torch

from cmg_runtime.window.state import WindowBuffers


class AheadCopy:
    """In plain torch, for every device: the truth of its twin, one kernel.

    Args:
        buffers: of the window.
        ahead: [K] int64, offsets from the current frame, in rows of the flat ring.
    """

    def __init__(self, buffers: WindowBuffers, ahead: torch.Tensor) -> None:
        self._buffers = buffers
        self._ahead = ahead

    def __call__(self, out: torch.Tensor) -> None:
        """Into ``out`` [num_envs, K, W] float32, which lies in memory as [K, num_envs, W]."""
        buffers = self._buffers
        head = buffers.head[: buffers.num_envs]
        places = (head + self._ahead.unsqueeze(1)).remainder_(len(buffers.flat_ring)).flatten()
        torch.index_select(buffers.flat_ring, 0, places, out=out.transpose(0, 1).view(-1, out.shape[2]))
