"""The weights of the kernel that keeps them on the chip, CTA by CTA, as fragments of the matrix unit."""

from __future__ import annotations

import torch

from cmg_runtime.backends.fused.cluster_weights import EXPERTS, HIDDEN, TILE, WIDTH, padded_to
from cmg_runtime.backends.fused.packing import GRANULE, Packed

CTAS = 16

SIDE = 4
"""The middle layer lies on a square of SIDE x SIDE CTAs."""

FRAGMENT_BYTES = GRANULE * GRANULE * 2

MIDDLE_BYTES = HIDDEN * EXPERTS * HIDDEN * 2 // CTAS
"""Of a CTA: what it keeps in registers."""

SHARED_WEIGHTS_BYTES = (
    HIDDEN * EXPERTS * WIDTH * 2 // SIDE  # first layer, for the inputs of a column of the square
    + TILE * HIDDEN * 2 // CTAS  # last layer
    + HIDDEN * (WIDTH * 2 + EXPERTS * 4) // CTAS  # gate, and its second layer in float32
    + HIDDEN * EXPERTS * 4 // SIDE  # bias of the middle layer, for the outputs of a row of the square
    + TILE * 4  # bias of the last layer
)
"""Of a CTA: what it keeps in shared memory."""

STREAM_BYTES = MIDDLE_BYTES + SHARED_WEIGHTS_BYTES


def resident_weights(packed: Packed) -> torch.Tensor:
    """[16, STREAM_BYTES] uint8: what each CTA keeps, in the order of ``resident.cu``.

    CTA ``rank`` has inputs 128 (rank % 4).. and outputs 128 (rank // 4).. of the middle layer, with the first layer's
    128 outputs that are these inputs; and units 32 rank.. of the gate and of the last layer's inputs. A bias has its
    values in one of the CTAs whose parts are added, and zeros in the others.
    """
    first, middle, last = (padded_to(weight, rows, columns) for (weight, _), rows, columns in zip(
        packed.layers, (HIDDEN * EXPERTS, HIDDEN * EXPERTS, TILE), (WIDTH, HIDDEN, HIDDEN)
    ))  # fmt: skip
    gate = padded_to(packed.gate_weight, HIDDEN, WIDTH)
    gate_out = padded_to(packed.gate_out_weight, EXPERTS, HIDDEN)
    bias = padded_to(packed.layers[1][1], HIDDEN * EXPERTS)
    last_bias = padded_to(packed.layers[2][1], TILE)
    columns, units = HIDDEN * EXPERTS // SIDE, HIDDEN // CTAS
    streams = []
    for rank in range(CTAS):
        inputs, outputs = rank % SIDE, rank // SIDE
        of_inputs = slice(inputs * HIDDEN // SIDE, (inputs + 1) * HIDDEN // SIDE)
        of_outputs = slice(outputs * columns, (outputs + 1) * columns)
        own = slice(rank * units, (rank + 1) * units)
        parts = [
            _by_step(middle[of_outputs, of_inputs]),
            _by_step(first[inputs * columns : (inputs + 1) * columns]),
            _by_step(last[:, own]),
            _fragments(gate[own]),
            gate_out[:, own].T,
            bias[of_outputs] * (inputs == 0),
            last_bias * (rank == 0),
        ]
        streams.append(torch.cat([part.contiguous().view(-1).view(torch.uint8) for part in parts]))
    return torch.stack(streams)


def _by_step(weight: torch.Tensor) -> torch.Tensor:
    """[16 E n, 16 k] -> [n, k, E, 32, 8]: the fragments of each 16 outputs, a step of inputs after the other."""
    fragments = _fragments(weight)
    return fragments.view(-1, EXPERTS, *fragments.shape[1:]).transpose(1, 2)


def _fragments(weight: torch.Tensor) -> torch.Tensor:
    """[16 m, 16 k] half precision -> [m, k, 32 lanes, 8]: each lane's values of ``mma.m16n8k16``'s first operand.

    Lane ``4 g + t`` has rows g and g + 8 of columns 2 t, 2 t + 1, then of columns 2 t + 8, 2 t + 9.
    """
    rows, columns = weight.shape
    split = weight.reshape(rows // 16, 2, 8, columns // 16, 2, 4, 2)
    return split.permute(0, 3, 2, 5, 4, 1, 6).reshape(rows // 16, columns // 16, 32, 8)
