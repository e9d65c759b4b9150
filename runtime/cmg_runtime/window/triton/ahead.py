"""Frames copied out of the window's ring as one kernel: see :mod:`cmg_runtime.window.plain.ahead`."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from cmg_runtime.window.plain.ahead import AheadCopy
from cmg_runtime.window.state import WindowBuffers

ROWS = 16


class TritonAheadCopy(AheadCopy):
    """See :class:`cmg_runtime.window.plain.ahead.AheadCopy`. The first call goes through Triton's compiler, and others
    launch what that one gave, which costs the host a third: nothing about the arguments is found out anew. They differ
    in ``out`` alone, which is the beginning of an allocation."""

    def __init__(self, buffers: WindowBuffers, ahead: torch.Tensor) -> None:
        super().__init__(buffers, ahead)
        width = buffers.ring.shape[2]
        # All in one dimension: the others of a grid end at 65535. Triton's own functions of integers take microseconds.
        self._grid = (len(ahead) * -(-buffers.num_envs // ROWS), 1, 1)
        self._constants = width, 1 << (width - 1).bit_length(), ROWS
        self._device = buffers.ring.device
        self._launch: Any = None

    def __call__(self, out: torch.Tensor) -> None:
        if self._launch is None:
            with torch.cuda.device_of(out):
                self._first_launch(out)
        elif torch.cuda.current_device() == self._device.index:  # entering it takes longer than the question
            self._launch(out, *self._constants)
        else:
            with torch.cuda.device(self._device):
                self._launch(out, *self._constants)

    def _first_launch(self, out: torch.Tensor) -> None:
        if not self._grid[0]:
            return
        buffers = self._buffers
        sizes = buffers.num_envs, len(buffers.flat_ring)
        tensors = buffers.ring, buffers.head, self._ahead
        kernel = _copy_ahead[self._grid](*tensors, *sizes, out, *self._constants)
        if kernel is not None:  # Triton's interpreter compiles nothing
            addresses = (tensor.data_ptr() for tensor in tensors)
            self._launch = functools.partial(kernel[self._grid], *addresses, *sizes)


@triton.jit(do_not_specialize=["num_envs", "num_rows"])
def _copy_ahead(
    ring,  # [num_rows, W] float32
    head,  # [num_envs] int64
    ahead,  # [K] int64
    num_envs,
    num_rows,
    out,  # out: [num_envs, K, W] float32, in memory as [K, num_envs, W]
    W: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    blocks = tl.cdiv(num_envs, ROWS)
    offset, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    env = block * ROWS + tl.arange(0, ROWS)
    there, lanes = env < num_envs, tl.arange(0, WIDTH)
    place = tl.load(head + env, mask=there, other=0) + tl.load(ahead + offset)
    place = tl.where(place < num_rows, place, place - num_rows)
    inside = there[:, None] & (lanes < W)[None, :]
    values = tl.load(ring + place[:, None] * W + lanes[None, :], mask=inside, other=0.0)
    row = offset.to(tl.int64) * num_envs + env
    tl.store(out + row[:, None] * W + lanes[None, :], values, mask=inside)
