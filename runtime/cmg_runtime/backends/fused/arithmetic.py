"""What the kernels of several layers have in common."""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

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
