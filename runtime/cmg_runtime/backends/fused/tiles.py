"""Tile sizes of the network's kernels, and those chosen by hand, by measurement: see docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Tuple, Union

from cmg_runtime.backends.fused.packing import Shapes


@dataclass(frozen=True)
class Gate:
    """A tile is ``block_m`` rows of ``block_n`` hidden units."""

    block_m: int
    block_n: int
    num_warps: int


@dataclass(frozen=True)
class First:
    """A tile is ``block_m`` rows of ``width`` columns, which are all experts of ``width / E`` outputs. ``tiles``: how
    many a program does one after another."""

    block_m: int
    width: int
    num_warps: int
    tiles: int = 1


@dataclass(frozen=True)
class Middle:
    """Tiles as in :class:`First`, in steps of ``block_k``. A program's ``tiles`` add up their parts of the last
    layer; ``flatten``: in one loop, so that the next tile's first stages are on their way during the last one's end.
    ``num_stages``: at most; as many as fit, see :func:`cmg_runtime.backends.fused.capacity.stages`."""

    block_m: int
    width: int
    block_k: int
    tiles: int
    num_warps: int
    num_stages: int
    flatten: bool = False


@dataclass(frozen=True)
class Finish:
    block_m: int
    num_warps: int


@dataclass(frozen=True)
class FrameConfig:
    """``pdl``: dependent launch where the GPU has it. Large tiles leave the next kernel no room to start early, and
    its waiting programs then only get in the way."""

    gate: Gate
    first: First
    middle: Middle
    finish: Finish
    pdl: bool = True


@dataclass(frozen=True)
class Tiles:
    """(up to this many rows, configuration), ascending; the last one is for any number of rows."""

    classes: Tuple[Tuple[float, FrameConfig], ...]

    def of(self, num_rows: int) -> FrameConfig:
        """The configuration for so many rows."""
        return self.up_to(num_rows)[-1][1]

    def up_to(self, num_rows: int) -> List[Tuple[int, FrameConfig]]:
        """Every configuration that some number of rows up to ``num_rows`` takes, with the most rows that it gets."""
        below = [0] + [most for most, _ in self.classes[:-1]]
        classes = zip(below, self.classes)
        return [(int(min(most, num_rows)), config) for start, (most, config) in classes if start < num_rows]


ANY = float("inf")

HOPPER: Dict[str, Tiles] = {
    "fp16": Tiles(
        (
            (16, FrameConfig(Gate(64, 32, 4), First(16, 64, 4), Middle(16, 64, 128, 1, 2, 4), Finish(1, 1))),
            (64, FrameConfig(Gate(64, 32, 4), First(16, 128, 4), Middle(16, 64, 128, 1, 2, 4), Finish(1, 1))),
            (256, FrameConfig(Gate(64, 64, 4), First(64, 128, 4), Middle(64, 64, 128, 1, 4, 4), Finish(1, 1))),
            (1024, FrameConfig(Gate(64, 64, 4), First(64, 256, 4), Middle(64, 256, 64, 1, 4, 3), Finish(4, 2))),
            (
                ANY,
                FrameConfig(
                    Gate(128, 128, 8),
                    First(64, 256, 4, tiles=2),
                    Middle(128, 256, 64, 2, 8, 3, True),
                    Finish(8, 4),
                    False,
                ),
            ),
        )
    ),
    "fp32": Tiles(
        (
            (256, FrameConfig(Gate(64, 64, 4), First(64, 64, 4), Middle(64, 64, 64, 1, 4, 4), Finish(1, 4))),
            (ANY, FrameConfig(Gate(64, 64, 4), First(64, 128, 4), Middle(128, 128, 32, 2, 8, 4), Finish(4, 4))),
        )
    ),
}
"""Precision -> tiles for compute capability 9.0, timed on an H200."""

CAUTIOUS: Dict[str, FrameConfig] = {
    "fp16": FrameConfig(Gate(64, 32, 4), First(64, 64, 8), Middle(64, 128, 32, 2, 8, 3), Finish(4, 4)),
    "fp32": FrameConfig(Gate(64, 32, 4), First(64, 64, 8), Middle(64, 64, 32, 2, 8, 3), Finish(4, 4)),
}
"""For all other GPUs, and where their tuner begins: small tiles. Nothing here was tuned."""

Part = Union[Gate, First, Middle, Finish]

GATES = (Gate(64, 32, 4), Gate(64, 64, 4), Gate(32, 64, 4), Gate(128, 128, 8), Gate(16, 32, 4))
FIRSTS = (
    First(64, 64, 8), First(64, 64, 4), First(16, 64, 4), First(16, 128, 4), First(32, 128, 4), First(64, 128, 4),
    First(64, 256, 4), First(64, 256, 4, tiles=2),
)  # fmt: skip
MIDDLES = {
    "fp16": (
        Middle(64, 128, 32, 2, 8, 3), Middle(16, 64, 128, 1, 2, 4), Middle(32, 64, 64, 1, 4, 4),
        Middle(64, 64, 64, 1, 4, 4), Middle(64, 64, 128, 1, 4, 4), Middle(64, 128, 64, 1, 4, 3),
        Middle(64, 256, 64, 1, 4, 3), Middle(128, 128, 32, 1, 8, 3), Middle(128, 128, 64, 1, 8, 3),
        Middle(128, 256, 32, 1, 8, 3), Middle(128, 256, 64, 2, 8, 3, True), Middle(16, 64, 32, 2, 4, 2),
    ),
    "fp32": (
        Middle(64, 64, 32, 2, 8, 3), Middle(16, 64, 64, 1, 4, 4), Middle(32, 64, 64, 1, 4, 4),
        Middle(64, 64, 32, 1, 4, 3), Middle(64, 64, 64, 1, 4, 4), Middle(128, 64, 32, 2, 4, 3),
        Middle(128, 128, 32, 2, 8, 4), Middle(16, 64, 32, 2, 4, 2),
    ),
}  # fmt: skip
FINISHES = (Finish(4, 4), Finish(1, 1), Finish(1, 4), Finish(4, 2), Finish(8, 4))
"""The shapes that a tuner may try of each kernel; the small ones, for networks that are large, among them."""


def gate_block(shapes: Shapes, tiles: Gate) -> int:
    """Hidden units of a tile of the gate, whose width is a multiple of 64."""
    return tiles.block_n if shapes.gate % tiles.block_n == 0 else min(tiles.block_n, 64)


def first_block(shapes: Shapes, tiles: First) -> int:
    """Columns of a tile of the first layer. Wide inputs: a tile of weights stays as large as that of 64."""
    columns = shapes.outputs if shapes.num_layers == 1 else shapes.hidden
    return tile_columns(tiles.width * 64 // max(shapes.inputs_padded, 64), shapes.experts, columns)


def tile_columns(width: int, experts: int, columns: int) -> int:
    """Columns of a tile: ``width`` over all experts; it divides ``columns``, a multiple of 64 or a power of two."""
    return max(16, min(width // experts, 64, columns))


def num_parts(shapes: Shapes, tiles: Middle) -> int:
    """Programs that share a row of the last middle layer: each gives a part of the last layer's result."""
    columns = tile_columns(tiles.width, shapes.experts, shapes.hidden)
    return -(-(shapes.hidden // columns) // tiles.tiles)
