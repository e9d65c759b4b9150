"""The network for one frame: packed weights, scratch memory and the launches of the kernels."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Dict, Tuple

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from cmg_runtime.backends.fused import layers
from cmg_runtime.backends.fused.capacity import Device, stages
from cmg_runtime.backends.fused.packing import Packed
from cmg_runtime.backends.fused.tiles import FrameConfig, Tiles, first_block, gate_block, num_parts, tile_columns
from cmg_runtime.device.scratch import Scratch

OPERANDS = {"fp16": (torch.float16, "ieee"), "fp32": (torch.float32, "tf32x3")}
"""Precision -> type of the products' operands, and how float32 ones are multiplied: "tf32x3" is three TF32 products,
as exact as float32 ones (docs/performance.md). Sums are float32 in both."""

MAX_ROWS = 16384
"""Rows that go through the network together: what passes between the kernels then stays in the L2 cache."""

ROW_BLOCK = 128
"""Scratch memory has room for whole blocks of the largest tile, so that kernels need no masks between them. What they
compute of rows past the last is never read: rows do not mix."""

SMALLEST_GATE_BLOCK = 32

_Descriptors = Dict[Any, TensorDescriptor]


@dataclass(frozen=True)
class _Scratch:
    """What passes between the kernels: the gate's logits in parts, coefficients [rows, E], activations [rows, H] of
    even and of odd layers, the last layer's result in parts. Parts are [rows in use, ..] each, one behind the other.
    Descriptors are of the activations, made once for each tile."""

    logits: torch.Tensor
    coefficients: torch.Tensor
    activations: torch.Tensor
    parts: torch.Tensor
    descriptors: _Descriptors = field(default_factory=dict)

    def tensors(self) -> Tuple[torch.Tensor, ...]:
        return self.logits, self.coefficients, self.activations, self.parts


class FrameNetwork:
    """The generator's network, compiled for its sizes. See :mod:`cmg_runtime.backends.fused.layers`.

    Calls share scratch memory, see :class:`cmg_runtime.device.scratch.Scratch`: they must be ordered on the device, as
    calls on one stream are.

    Args:
        packed: weights on the device, of the type that ``OPERANDS`` says.
        precision: "fp16" or "fp32".
        num_rows: most rows that calls will usually have.
        device: CUDA, or the CPU in Triton's interpreter.
        tiles: those that fit the network and the device.
    """

    def __init__(
        self,
        packed: Packed,
        precision: str,
        num_rows: int,
        device: torch.device,
        tiles: Tiles,
    ) -> None:
        self._packed = packed
        self._precision = precision
        self._device = device
        self._limits = Device.of(device)
        self._tiles = tiles
        self._descriptors: _Descriptors = {}  # of the weights
        self._scratch = Scratch(
            functools.partial(_new_scratch, packed, precision, tiles, device), _Scratch.tensors, MAX_ROWS
        )
        self._scratch_for(num_rows)

    def __call__(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        """Enqueue one frame. All [N, ...] float32 with contiguous rows, which may be any distance apart."""
        for first in range(0, len(motion), MAX_ROWS):
            part = slice(first, first + MAX_ROWS)
            self._pass(motion[part], command[part], out[part])

    def _pass(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        num_rows = len(motion)
        config = self._tiles.of(num_rows)
        scratch, shapes = self._scratch_for(num_rows), self._packed.shapes
        self._gate(motion, command, scratch, config)
        source, parts = self._first(motion, command, scratch, config), 1
        middle_end = shapes.num_layers - 1 if shapes.fuses_last else shapes.num_layers
        for layer in range(1, middle_end):
            source, parts = self._middle(layer, source, num_rows, scratch, config)
        self._finish(source, parts, out, scratch, config)

    def _gate(self, motion: torch.Tensor, command: torch.Tensor, scratch: _Scratch, config: FrameConfig) -> None:
        packed, shapes, tiles = self._packed, self._packed.shapes, config.gate
        block_n = gate_block(shapes, tiles)
        layers.gate_layer[(triton.cdiv(len(motion), tiles.block_m), shapes.gate // block_n)](
            **self._inputs(motion, command),
            weight=self._matrix(packed.gate_weight, block_n, shapes.inputs_padded, self._descriptors),
            out_weight=packed.gate_out_weight,
            logits=scratch.logits,
            MOTION=shapes.motion,
            INPUT=shapes.inputs,
            INPUT_PAD=shapes.inputs_padded,
            GATE=shapes.gate,
            EXPERTS=shapes.experts,
            BLOCK_M=tiles.block_m,
            BLOCK_N=block_n,
            **self._options(tiles.num_warps, config),
        )

    def _first(
        self, motion: torch.Tensor, command: torch.Tensor, scratch: _Scratch, config: FrameConfig
    ) -> torch.Tensor:
        """Returns where the result is."""
        packed, shapes, tiles = self._packed, self._packed.shapes, config.first
        last = shapes.num_layers == 1
        columns = shapes.outputs if last else shapes.hidden
        weight, _ = packed.layers[0]
        block_n = first_block(shapes, tiles)
        parts = shapes.gate // gate_block(shapes, config.gate)
        out = scratch.parts if last else scratch.activations[0]
        num_tiles = min(tiles.tiles, columns // block_n)
        grid = (triton.cdiv(len(motion), tiles.block_m), triton.cdiv(columns // block_n, num_tiles))
        layers.first_layer[grid](
            **self._inputs(motion, command),
            logits=scratch.logits,
            gate_bias=packed.gate_out_bias,
            weight=self._matrix(weight, block_n * shapes.experts, shapes.inputs_padded, self._descriptors),
            coefficients=scratch.coefficients,
            y=out,
            MOTION=shapes.motion,
            INPUT=shapes.inputs,
            INPUT_PAD=shapes.inputs_padded,
            EXPERTS=shapes.experts,
            PARTS=parts,
            PARTS_PAD=triton.next_power_of_2(parts),
            OUT=columns,
            LAST=last,
            BLOCK_M=tiles.block_m,
            BLOCK_N=block_n,
            TILES=num_tiles,
            num_stages=2,
            **self._options(tiles.num_warps, config),
        )
        return out

    def _middle(
        self, layer: int, source: torch.Tensor, num_rows: int, scratch: _Scratch, config: FrameConfig
    ) -> Tuple[torch.Tensor, int]:
        """Returns where the result is, and in how many parts."""
        packed, shapes, tiles = self._packed, self._packed.shapes, config.middle
        last = layer == shapes.num_layers - 1
        fused = shapes.fuses_last and layer == shapes.num_layers - 2
        columns = shapes.outputs if last else shapes.hidden
        weight, bias = packed.layers[layer]
        block_n = tile_columns(tiles.width, shapes.experts, columns)
        groups = triton.cdiv(columns // block_n, tiles.tiles)
        out = scratch.parts if last or fused else scratch.activations[layer % 2]
        last_weight = packed.layers[-1][0]
        last_block = (shapes.outputs * shapes.experts, block_n) if fused else (16, 16)
        layers.middle_layer[(triton.cdiv(num_rows, tiles.block_m), groups)](
            x=self._matrix(source, tiles.block_m, tiles.block_k, scratch.descriptors),
            coefficients=scratch.coefficients,
            weight=self._matrix(weight, block_n * shapes.experts, tiles.block_k, self._descriptors),
            bias=bias,
            last_weight=self._matrix(last_weight, *last_block, self._descriptors),
            y=out,
            padded_rows=_whole_blocks(num_rows),
            IN=shapes.hidden,
            OUT=columns,
            LAST_OUT=shapes.outputs,
            EXPERTS=shapes.experts,
            LAST=last,
            FUSED=fused,
            BLOCK_M=tiles.block_m,
            BLOCK_N=block_n,
            BLOCK_K=tiles.block_k,
            TILES=tiles.tiles,
            FLATTEN=tiles.flatten,
            num_stages=stages(tiles, self._precision, shapes, self._limits),
            **self._options(tiles.num_warps, config),
        )
        return out, num_parts(shapes, tiles) if fused else 1

    def _finish(
        self, parts: torch.Tensor, count: int, out: torch.Tensor, scratch: _Scratch, config: FrameConfig
    ) -> None:
        packed, shapes, tiles = self._packed, self._packed.shapes, config.finish
        layers.finish[(triton.cdiv(len(out), tiles.block_m),)](
            parts=parts,
            coefficients=scratch.coefficients,
            bias=packed.last_bias,
            shift=packed.shift,
            inverse_scale=packed.motion_std,
            out=out,
            out_stride=out.stride(0),
            num_rows=len(out),
            padded_rows=_whole_blocks(len(out)),
            MOTION=shapes.motion,
            OUT=shapes.outputs,
            EXPERTS=shapes.experts,
            WITH_BIAS=shapes.fuses_last,
            PARTS=count,
            PARTS_PAD=triton.next_power_of_2(count),
            BLOCK_M=tiles.block_m,
            num_warps=tiles.num_warps,
            **self._launch(config),
        )

    def _matrix(self, matrix: torch.Tensor, rows: int, columns: int, known: _Descriptors) -> Any:
        """What kernels read tiles of: a descriptor, made once for each matrix and tile, and kept among the ``known``
        ones, which live as long as the matrix; without TMA the matrix itself."""
        if not self._limits.tma:
            return matrix
        key = (matrix.data_ptr(), rows, columns)
        if key not in known:
            known[key] = TensorDescriptor.from_tensor(matrix, [rows, columns])
        return known[key]

    def _inputs(self, motion: torch.Tensor, command: torch.Tensor) -> Dict[str, Any]:
        """What the two kernels that read them have in common."""
        packed, num_rows = self._packed, len(motion)
        return {
            "motion": motion, "motion_stride": motion.stride(0), "shift": packed.shift, "num_rows": num_rows,
            "command": command, "command_stride": command.stride(0), "scale": packed.scale,
            "padded_rows": _whole_blocks(num_rows),
        }  # fmt: skip

    def _options(self, num_warps: int, config: FrameConfig) -> Dict[str, Any]:
        """What the kernels with products have in common."""
        return {
            "PRECISION": OPERANDS[self._precision][1], "TMA": self._limits.tma, "num_warps": num_warps,
            **self._launch(config),
        }  # fmt: skip

    def _launch(self, config: FrameConfig) -> Dict[str, Any]:
        return {"PDL": True, "launch_pdl": True} if self._limits.pdl and config.pdl else {"PDL": False}

    def _scratch_for(self, num_rows: int) -> _Scratch:
        return self._scratch.of(_whole_blocks(min(num_rows, MAX_ROWS)))


def _new_scratch(packed: Packed, precision: str, tiles: Tiles, device: torch.device, rows: int) -> _Scratch:
    shapes = packed.shapes
    part_rows = rows
    if shapes.fuses_last:  # all parts together, for any number of rows up to ``rows``
        part_rows = max(_whole_blocks(most) * num_parts(shapes, chosen.middle) for most, chosen in tiles.up_to(rows))
    empty = functools.partial(torch.empty, device=device)
    # The second one is written by the first middle layer that is not the last to be computed on its own.
    alternate = shapes.num_layers - shapes.fuses_last >= 3
    return _Scratch(
        logits=empty((shapes.gate // SMALLEST_GATE_BLOCK, rows, shapes.experts), dtype=torch.float32),
        coefficients=empty((rows, shapes.experts), dtype=torch.float32),
        activations=empty((1 + alternate, rows, shapes.hidden), dtype=OPERANDS[precision][0]),
        parts=empty((part_rows, shapes.outputs), dtype=torch.float32),
    )


def _whole_blocks(rows: int) -> int:
    return triton.cdiv(rows, ROW_BLOCK) * ROW_BLOCK
