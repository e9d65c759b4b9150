"""The numerical guard as one kernel: see :mod:`cmg_runtime.guard`."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Optional

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from cmg_runtime.device.triton_support import dependent_launch
from cmg_runtime.guard import STRIDE, Guard

ROWS = 16


def replace_bad_rows(
    guard: Guard,
    motion: torch.Tensor,
    columns: torch.Tensor,
    ahead: int,
    advance: bool,
    moving: Optional[torch.Tensor],
) -> None:
    """See :meth:`cmg_runtime.guard.Guard.apply`."""
    n, width = motion.shape
    if n == 0:
        return
    with torch.cuda.device_of(motion):
        _replace_bad_rows[(triton.cdiv(n, ROWS),)](
            motion=motion,
            columns=columns,
            moving=moving,
            frame=guard.frame,
            low=guard.low,
            high=guard.high,
            bank=guard.bank,
            replaced=guard.replaced,
            n=n,
            stride=motion.stride(0),
            ahead=ahead,
            num_states=len(guard.bank),
            num_envs=guard.num_envs,
            ADVANCE=advance,
            STRIDE=STRIDE,
            D=width,
            WIDTH=triton.next_power_of_2(width),
            ROWS=ROWS,
            num_warps=4,
            **dependent_launch(motion.device),
        )


@triton.jit(do_not_specialize=["ahead", "num_states", "num_envs"])
def _replace_bad_rows(
    motion,
    columns,
    moving,
    frame,
    low,
    high,
    bank,
    replaced,
    n,
    stride,
    ahead,
    num_states,
    num_envs,
    ADVANCE: tl.constexpr,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, WIDTH)
    there, used = rows < n, lanes < D
    if moving is not None:
        there = there & (tl.load(moving + rows, mask=there, other=0) != 0)
    column = tl.load(columns + rows, mask=there, other=num_envs)
    number = tl.load(frame + column, mask=there, other=0)
    places = motion + rows.to(tl.int64)[:, None] * stride + lanes[None, :]
    inside = there[:, None] & used[None, :]
    value = tl.load(places, mask=inside, other=0.0)
    least = tl.load(low + lanes, mask=used, other=0.0)
    most = tl.load(high + lanes, mask=used, other=0.0)
    good = (value >= least[None, :]) & (value <= most[None, :])  # NaN is neither
    outside = tl.sum((inside & (good == 0)).to(tl.int32), axis=1)
    bad = there & (outside > 0)
    state = (number + ahead + STRIDE * column) % num_states
    replace = bad[:, None] & used[None, :]
    tl.store(places, tl.load(bank + state[:, None] * D + lanes[None, :], mask=replace, other=0.0), mask=replace)
    count = tl.sum((bad & (column < num_envs)).to(tl.int64), axis=0)
    tl.atomic_add(replaced, count, mask=count > 0)
    if ADVANCE:
        tl.debug_barrier()  # every warp has read what is now overwritten
        tl.store(frame + column, number + 1, mask=there)
