"""Tile sizes of the network's kernels, chosen by measurement: see docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Tuple

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
    layer; ``flatten``: in one loop, so that the next tile's first stages are on their way during the last one's end."""

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


HOPPER_SHARED_MEMORY = 200_000
"""Bytes a program must be able to have for the tables of the large tiles."""

# Precision -> (up to this many rows, configuration), ascending; the last one is for any number of rows.
Table = Dict[str, Tuple[Tuple[float, FrameConfig], ...]]

ANY = float("inf")

HOPPER: Table = {
    "fp16": (
        (16, FrameConfig(Gate(64, 32, 4), First(16, 64, 4), Middle(16, 64, 128, 1, 2, 4), Finish(1, 1))),
        (64, FrameConfig(Gate(64, 32, 4), First(16, 128, 4), Middle(16, 64, 128, 1, 2, 4), Finish(1, 1))),
        (256, FrameConfig(Gate(64, 64, 4), First(64, 128, 4), Middle(64, 64, 128, 1, 4, 4), Finish(1, 1))),
        (1024, FrameConfig(Gate(64, 64, 4), First(64, 256, 4), Middle(64, 256, 64, 1, 4, 3), Finish(4, 2))),
        (
            ANY,
            FrameConfig(
                Gate(128, 128, 8), First(64, 256, 4, tiles=2), Middle(128, 256, 64, 2, 8, 3, True), Finish(8, 4), False
            ),
        ),
    ),
    "fp32": (
        (256, FrameConfig(Gate(64, 64, 4), First(64, 64, 4), Middle(64, 64, 64, 1, 4, 4), Finish(1, 4))),
        (ANY, FrameConfig(Gate(64, 64, 4), First(64, 128, 4), Middle(128, 128, 32, 2, 8, 4), Finish(4, 4))),
    ),
}

OTHER: Table = {
    "fp16": ((ANY, FrameConfig(Gate(64, 32, 4), First(64, 64, 8), Middle(64, 128, 32, 2, 8, 3), Finish(4, 4))),),
    "fp32": ((ANY, FrameConfig(Gate(64, 32, 4), First(64, 64, 8), Middle(64, 64, 32, 2, 8, 3), Finish(4, 4))),),
}
"""For GPUs with less shared memory: small tiles. Nothing here was tuned."""


def choose(precision: str, num_rows: int, shared_memory: int) -> FrameConfig:
    """The configuration for so many rows on a device that gives a program so many bytes of shared memory."""
    return up_to(precision, num_rows, shared_memory)[-1][1]


def up_to(precision: str, num_rows: int, shared_memory: int) -> List[Tuple[int, FrameConfig]]:
    """Every configuration that some number of rows up to ``num_rows`` takes, with the most rows that it gets."""
    table = (HOPPER if shared_memory >= HOPPER_SHARED_MEMORY else OTHER)[precision]
    below = [0] + [most for most, _ in table[:-1]]
    return [(int(min(most, num_rows)), config) for start, (most, config) in zip(below, table) if start < num_rows]


def gate_block(shapes: Shapes, tiles: Gate) -> int:
    """Hidden units of a tile of the gate, whose width is a multiple of 64."""
    return tiles.block_n if shapes.gate % tiles.block_n == 0 else min(tiles.block_n, 64)


def tile_columns(width: int, experts: int, columns: int) -> int:
    """Columns of a tile: ``width`` over all experts; it divides ``columns``, a multiple of 64 or a power of two."""
    return max(16, min(width // experts, 64, columns))


def num_parts(shapes: Shapes, tiles: Middle) -> int:
    """Programs that share a row of the last middle layer: each gives a part of the last layer's result."""
    columns = tile_columns(tiles.width, shapes.experts, shapes.hidden)
    return -(-(shapes.hidden // columns) // tiles.tiles)
