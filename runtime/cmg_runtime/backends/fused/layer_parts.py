"""What the kernels of :mod:`cmg_runtime.backends.fused.layers` have in common."""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from cmg_runtime.backends.fused import packing

GRANULE = tl.constexpr(packing.GRANULE)
LOG2E = tl.constexpr(packing.LOG2E)


@triton.jit
def elu(x):
    """``log2(e) elu(x / log2(e))``. NaN stays NaN."""
    return tl.where(x > 0, x, tl.exp2(x) * LOG2E - LOG2E)


@triton.jit
def mix(products, coefficients, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr):
    """``sum_e c_e y_e`` of [ROWS, COLUMNS * EXPERTS], the experts in turn for every 16 columns."""
    split = tl.reshape(products, (ROWS, COLUMNS // GRANULE, EXPERTS, GRANULE))
    return tl.reshape(tl.sum(split * coefficients[:, None, :, None], axis=2), (ROWS, COLUMNS))


@triton.jit
def tile_of(matrix, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, TMA: tl.constexpr):
    """[ROWS, COLUMNS] of a matrix with WIDTH columns, from (row, column) on. Zeros behind the last column."""
    if TMA:
        tile = matrix.load([row, column])
    else:
        columns = column + tl.arange(0, COLUMNS)
        values = matrix + (row + tl.arange(0, ROWS))[:, None] * WIDTH + columns[None, :]
        whole: tl.constexpr = WIDTH % COLUMNS == 0
        tile = tl.load(values) if whole else tl.load(values, mask=(columns < WIDTH)[None, :], other=0.0)
    return tile


@triton.jit
def normalised_inputs(
    motion, command, motion_stride, command_stride, shift, scale, rows, num_rows,
    MOTION: tl.constexpr, INPUT: tl.constexpr, INPUT_PAD: tl.constexpr,
):  # fmt: skip
    """The normalised inputs of ``rows``. The padding is what shift and scale say: first two ones, for the biases."""
    columns = tl.arange(0, INPUT_PAD)
    wide_rows = rows.to(tl.int64)[:, None]
    there = (rows < num_rows)[:, None]
    x = tl.load(
        motion + wide_rows * motion_stride + columns[None, :], mask=there & (columns < MOTION)[None, :], other=0.0
    )
    x += tl.load(
        command + wide_rows * command_stride + (columns - MOTION)[None, :],
        mask=there & ((columns >= MOTION) & (columns < INPUT))[None, :],
        other=0.0,
    )
    return (x - tl.load(shift + columns)[None, :]) * tl.load(scale + columns)[None, :]
