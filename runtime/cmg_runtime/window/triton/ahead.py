"""Frames copied out of the window's ring as one kernel: see :mod:`cmg_runtime.window.plain.ahead`."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cmg_runtime.window.state import WindowBuffers

ROWS = 16


def copy_ahead(buffers: WindowBuffers, ahead: torch.Tensor, out: torch.Tensor) -> None:
    """See :func:`cmg_runtime.window.plain.ahead.copy_ahead`."""
    num_offsets, num_envs, width = out.shape
    if not num_offsets:
        return
    # All in one dimension: the others of a grid end at 65535. Triton's own functions of integers take microseconds.
    with torch.cuda.device_of(out):
        _copy_ahead[(num_offsets * -(-num_envs // ROWS),)](
            buffers.ring, buffers.head, ahead, out, num_envs, len(buffers.flat_ring),
            W=width, WIDTH=1 << (width - 1).bit_length(), ROWS=ROWS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_envs", "num_rows"])
def _copy_ahead(
    ring,  # [num_rows, W] float32
    head,  # [num_envs] int64
    ahead,  # [K] int64
    out,  # out: [K, num_envs, W] float32
    num_envs,
    num_rows,
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
