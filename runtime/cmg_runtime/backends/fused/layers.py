"""The generator's kernels: gate, first layer, middle layers, last layer behind the last middle one, sum of parts.

A frame of a three-layer network is four launches::

    gate_layer     motion, command -> the gate's logits, in parts [P, N, E]
    first_layer    motion, command, logits -> coefficients c [N, E], x1 [N, H]
    middle_layer   x1 -> x2, and at once x2's part of the last layer -> parts [P, N, D]
    finish         sum of the parts, bias, denormalisation -> next motion

The experts of a layer lie side by side (see :mod:`cmg_runtime.backends.fused.packing`), so a tile of
``x [W_1 | ... | W_E]`` is one product over the layer's own K, with one accumulator, and the coefficients multiply its
float32 results: they are never rounded to the operands' precision, and each tile of x is read once for all experts.

Hidden values are kept multiplied by log2(e), which the weights absorb: ELU then needs no multiplication of its own.

``TMA`` (compute capability 9.0): matrices are tensor descriptors, whose tiles one instruction fetches. Elsewhere they
are pointers: of a descriptor, Triton would make loads of single values there, and no pipeline.

``PDL`` is programmatic dependent launch (compute capability 9.0): a kernel starts while the one before it still runs,
reads its weights, and waits in front of the first value that depends on it. Only then does it let the next one start,
so that no more than one is waiting: kernels that wait hold their multiprocessors' shared memory.
"""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from cmg_runtime.backends.fused.layer_parts import elu, mix, normalised_inputs, tile_of


@triton.jit(
    do_not_specialize=["motion_stride", "command_stride", "num_rows"],
    do_not_specialize_on_alignment=["motion", "command"],
)
def gate_layer(
    motion,  # [N, MOTION] float32, rows motion_stride apart
    command,  # [N, INPUT - MOTION] float32, rows command_stride apart
    motion_stride,
    command_stride,
    shift,  # [INPUT_PAD] float32: x = (input - shift) * scale
    scale,
    weight,  # matrix [GATE, INPUT_PAD], biases included
    out_weight,  # [EXPERTS, GATE] float32
    logits,  # out: [GATE / BLOCK_N, N padded, EXPERTS] float32
    num_rows,
    padded_rows,
    MOTION: tl.constexpr,
    INPUT: tl.constexpr,
    INPUT_PAD: tl.constexpr,
    GATE: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    PDL: tl.constexpr,
):
    """BLOCK_N of the gate's hidden units for BLOCK_M rows, and at once their part of the logits, in float32."""
    part = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tile = tile_of(weight, part * BLOCK_N, 0, BLOCK_N, INPUT_PAD, INPUT_PAD, TMA)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    x = normalised_inputs(
        motion, command, motion_stride, command_stride, shift, scale, rows, num_rows, MOTION, INPUT, INPUT_PAD
    )
    hidden = elu(tl.dot(x.to(tile.dtype), tile.T, input_precision=PRECISION))
    experts = tl.arange(0, EXPERTS)
    sums = tl.zeros((BLOCK_M, EXPERTS), tl.float32)
    for expert in tl.static_range(EXPERTS):
        w = tl.load(out_weight + expert * GATE + part * BLOCK_N + tl.arange(0, BLOCK_N))
        sums = tl.where((experts == expert)[None, :], tl.sum(hidden * w[None, :], axis=1)[:, None], sums)
    tl.store(logits + (part * padded_rows + rows)[:, None] * EXPERTS + experts[None, :], sums)


@triton.jit(
    do_not_specialize=["motion_stride", "command_stride", "num_rows"],
    do_not_specialize_on_alignment=["motion", "command"],
)
def first_layer(
    motion,  # as in gate_layer
    command,
    motion_stride,
    command_stride,
    shift,
    scale,
    logits,  # [PARTS, N padded, EXPERTS] float32
    gate_bias,  # [EXPERTS] float32, -1e30 past the last expert
    weight,  # matrix [OUT * EXPERTS, INPUT_PAD], biases included
    coefficients,  # out: [N padded, EXPERTS] float32
    y,  # out: [N padded, OUT]; float32 where this is the last layer
    num_rows,
    padded_rows,
    MOTION: tl.constexpr,
    INPUT: tl.constexpr,
    INPUT_PAD: tl.constexpr,
    EXPERTS: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_PAD: tl.constexpr,
    OUT: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILES: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    PDL: tl.constexpr,
):
    """TILES tiles of the first layer, one after another. The programs of column 0 write the coefficients too."""
    group = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    experts = tl.arange(0, EXPERTS)
    if TILES == 1:
        w = tile_of(weight, group * BLOCK_N * EXPERTS, 0, BLOCK_N * EXPERTS, INPUT_PAD, INPUT_PAD, TMA)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    parts = tl.arange(0, PARTS_PAD)
    c = tl.load(
        logits + (parts[:, None, None] * padded_rows + rows[None, :, None]) * EXPERTS + experts[None, None, :],
        mask=(parts < PARTS)[:, None, None],
        other=0.0,
    )
    x = normalised_inputs(
        motion, command, motion_stride, command_stride, shift, scale, rows, num_rows, MOTION, INPUT, INPUT_PAD
    ).to(weight.dtype if TMA else weight.dtype.element_ty)
    c = tl.sum(c, axis=0) + tl.load(gate_bias + experts)[None, :]
    c = tl.exp(c - tl.max(c, axis=1)[:, None])
    c = c / tl.sum(c, axis=1)[:, None]
    if group == 0:
        tl.store(coefficients + rows[:, None] * EXPERTS + experts[None, :], c)
    if TILES == 1:
        _first_tile(x, w, c, y, rows, group, EXPERTS, OUT, LAST, BLOCK_M, BLOCK_N, PRECISION)
    else:
        for tile in range(group * TILES, tl.minimum(group * TILES + TILES, OUT // BLOCK_N)):
            w = tile_of(weight, tile * BLOCK_N * EXPERTS, 0, BLOCK_N * EXPERTS, INPUT_PAD, INPUT_PAD, TMA)
            _first_tile(x, w, c, y, rows, tile, EXPERTS, OUT, LAST, BLOCK_M, BLOCK_N, PRECISION)


@triton.jit
def _first_tile(
    x, w, c, y, rows, tile, EXPERTS: tl.constexpr, OUT: tl.constexpr, LAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    mixed = mix(tl.dot(x, w.T, input_precision=PRECISION), c, BLOCK_M, BLOCK_N, EXPERTS)
    if not LAST:
        mixed = elu(mixed)
    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tl.store(y + rows[:, None] * OUT + columns[None, :], mixed.to(y.dtype.element_ty))


@triton.jit
def middle_layer(
    x,  # matrix [N padded, IN]
    coefficients,  # [N padded, EXPERTS] float32
    weight,  # matrix [OUT * EXPERTS, IN]
    bias,  # [OUT * EXPERTS] float32; the first layer's is among its weights
    last_weight,  # matrix [LAST_OUT * EXPERTS, OUT]; read with FUSED
    y,  # out: [N padded, OUT], or with FUSED the parts [P, N padded, LAST_OUT] float32
    padded_rows,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    LAST_OUT: tl.constexpr,
    EXPERTS: tl.constexpr,
    LAST: tl.constexpr,
    FUSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
    FLATTEN: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
    PDL: tl.constexpr,
):
    """One layer. With FUSED, each tile of its output is multiplied at once with its rows of the last layer's weights,
    and the program's sum is one of the P parts of the last layer's result.

    LAST: the layer itself is the last one, so there is no activation.
    """
    group = tl.program_id(1)
    first_row = tl.program_id(0) * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    packed_columns = tl.arange(0, BLOCK_N * EXPERTS)
    if TILES == 1:
        b = tl.load(bias + group * BLOCK_N * EXPERTS + packed_columns)
        if FUSED:
            last = tile_of(last_weight, 0, group * BLOCK_N, LAST_OUT * EXPERTS, BLOCK_N, OUT, TMA)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    c = tl.load(coefficients + rows[:, None] * EXPERTS + tl.arange(0, EXPERTS)[None, :])
    part = tl.zeros((BLOCK_M, LAST_OUT), tl.float32)
    for tile in tl.range(group * TILES, tl.minimum(group * TILES + TILES, OUT // BLOCK_N), flatten=FLATTEN):
        packed = tile * BLOCK_N * EXPERTS
        products = tl.zeros((BLOCK_M, BLOCK_N * EXPERTS), tl.float32)
        for k in range(0, IN, BLOCK_K):
            left = tile_of(x, first_row, k, BLOCK_M, BLOCK_K, IN, TMA)
            right = tile_of(weight, packed, k, BLOCK_N * EXPERTS, BLOCK_K, IN, TMA)
            products = tl.dot(left, right.T, products, input_precision=PRECISION)
        if TILES > 1:
            b = tl.load(bias + packed + packed_columns)
        mixed = mix(products + b[None, :], c, BLOCK_M, BLOCK_N, EXPERTS)
        if not LAST:
            mixed = elu(mixed)
        if FUSED:
            if TILES > 1:
                last = tile_of(last_weight, 0, tile * BLOCK_N, LAST_OUT * EXPERTS, BLOCK_N, OUT, TMA)
            products = tl.dot(mixed.to(last.dtype), last.T, input_precision=PRECISION)
            part += mix(products, c, BLOCK_M, LAST_OUT, EXPERTS)
        else:
            columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            tl.store(y + rows[:, None] * OUT + columns[None, :], mixed.to(y.dtype.element_ty))
    if FUSED:
        columns = tl.arange(0, LAST_OUT)
        rows += group * padded_rows
        tl.store(y + rows[:, None] * LAST_OUT + columns[None, :], part)


@triton.jit(do_not_specialize=["out_stride", "num_rows"], do_not_specialize_on_alignment=["out"])
def finish(
    parts,  # [PARTS, N padded, OUT] float32
    coefficients,  # [N padded, EXPERTS] float32
    bias,  # [EXPERTS, OUT] float32; read WITH_BIAS, else the parts have it already
    shift,  # [at least OUT] float32: motion = x / scale + shift
    inverse_scale,
    out,  # [N, MOTION] float32, rows out_stride apart
    out_stride,
    num_rows,
    padded_rows,
    MOTION: tl.constexpr,
    OUT: tl.constexpr,
    EXPERTS: tl.constexpr,
    WITH_BIAS: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PDL: tl.constexpr,
):
    """The next motion state: the parts added up in a fixed order, the last layer's bias, denormalised."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    wide_rows = rows.to(tl.int64)
    there = rows < num_rows
    columns = tl.arange(0, OUT)
    part = tl.arange(0, PARTS_PAD)
    x_scale = tl.load(inverse_scale + columns)
    x_shift = tl.load(shift + columns)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    x = tl.load(
        parts + (part[:, None, None] * padded_rows + wide_rows[None, :, None]) * OUT + columns[None, None, :],
        mask=(part < PARTS)[:, None, None] & there[None, :, None],
        other=0.0,
    )
    x = tl.sum(x, axis=0)
    if WITH_BIAS:
        for expert in tl.static_range(EXPERTS):
            c = tl.load(coefficients + wide_rows * EXPERTS + expert, mask=there, other=0.0)
            x += c[:, None] * tl.load(bias + expert * OUT + columns)[None, :]
    x = x * x_scale[None, :] + x_shift[None, :]
    target = out + wide_rows[:, None] * out_stride + columns[None, :]
    tl.store(target, x, mask=there[:, None] & (columns < MOTION)[None, :])
