"""The shapes in which the network's cluster kernels are compiled, and which rows go in which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple, Union

import torch

from cmg_runtime.backends.fused.cluster_weights import BLOCK_BYTES, CHUNKS, weight_stream
from cmg_runtime.backends.fused.packing import Packed
from cmg_runtime.backends.fused.resident_weights import CTAS, SHARED_WEIGHTS_BYTES, STREAM_BYTES, resident_weights


@dataclass(frozen=True)
class ClusterShape:
    """``ctas`` thread blocks share a row block's columns; each has ``groups`` groups of 64 rows, and a ring of
    ``stages`` blocks of 32 KB of weights."""

    ctas: int
    groups: int
    stages: int

    @property
    def rows(self) -> int:
        return 64 * self.groups

    @property
    def threads(self) -> int:
        return 128 * (self.groups + 1)

    @property
    def tiles(self) -> int:
        return CHUNKS // self.ctas

    @property
    def shared_bytes(self) -> int:
        """As ``cluster.cu`` lays it out, which does not compile for another size."""
        logits = 0 if self.tiles > 1 else self.groups * self.ctas * 1024
        barriers = 8 * (2 * self.stages + self.groups * (CHUNKS + 4))
        return CHUNKS * self.rows * 128 + self.stages * BLOCK_BYTES + self.tiles * 1024 + logits + barriers

    @property
    def source(self) -> str:
        return "cluster.cu"

    @property
    def sizes(self) -> Dict[str, int]:
        """What it is compiled with."""
        return {"C": self.ctas, "R": self.groups, "STAGES": self.stages}

    def weights(self, packed: Packed) -> torch.Tensor:
        return weight_stream(packed, self.ctas)


@dataclass(frozen=True)
class ResidentShape:
    """16 thread blocks keep all weights for as many frames as a launch has, and share ``tiles`` times 8 rows."""

    tiles: int

    ctas = CTAS
    threads = 256
    source = "resident.cu"

    @property
    def rows(self) -> int:
        return 8 * self.tiles

    @property
    def shared_bytes(self) -> int:
        """As ``resident.cu`` lays it out, which does not compile for another size."""
        inputs, units = self.rows * 144, self.tiles * (2048 + 512)
        logits, sums, parts = CTAS * self.rows * 16, self.tiles * 4096, CTAS * 256
        return SHARED_WEIGHTS_BYTES + inputs + units + logits + self.rows * 16 + sums + parts + 8 * 5

    @property
    def sizes(self) -> Dict[str, int]:
        """What it is compiled with."""
        return {"TILES": self.tiles, "STREAM_BYTES": STREAM_BYTES}

    def weights(self, packed: Packed) -> torch.Tensor:
        return resident_weights(packed)


Shape = Union[ClusterShape, ResidentShape]

FEW = ClusterShape(ctas=8, groups=1, stages=4)
"""64 rows at a time, in the shortest frame with weights that stream."""

MANY = ClusterShape(ctas=4, groups=2, stages=3)
"""Each weight that is read serves 128 rows. A frame takes two and a half times as long as one of :data:`FEW`."""

PAIR = ClusterShape(ctas=2, groups=1, stages=4)
"""64 rows in the time that :data:`MANY` takes: for multiprocessors that its clusters leave over."""

RESIDENT = (ResidentShape(tiles=1), ResidentShape(tiles=2))
"""The shortest frames, for few rows; fewest first."""

ROUNDS = (1, 2)
"""How often each shape of :data:`RESIDENT` fills the GPU before the next one, and at last :data:`FEW`, is faster."""


@dataclass(frozen=True)
class Launch:
    """``rows`` rows from ``first`` on; ``beside``: at the same time as the launch before."""

    shape: Shape
    first: int
    rows: int
    beside: bool = False


def full_rounds(resident: Sequence[int]) -> Tuple[int, ...]:
    """Rows that fill whole rounds of the shapes of :data:`RESIDENT`, ascending; ``resident`` as of :func:`plan`."""
    pairs = zip(ROUNDS, resident)
    return tuple(sorted({round_ * rows for rounds, rows in pairs if rows for round_ in range(1, rounds + 1)}))


def plan(num_rows: int, few: int, many: int, pair: int, resident: Sequence[int] = ()) -> List[Launch]:
    """How to divide rows.

    Args:
        few, many: rows that the GPU can hold at once in clusters of these shapes.
        pair: rows that go beside as many as ``many``.
        resident: rows that it can hold at once in each shape of :data:`RESIDENT`.
    """
    for shape, rounds, rows in zip(RESIDENT, ROUNDS, resident):
        if 0 < num_rows <= rounds * rows:
            return [Launch(shape, 0, num_rows)]
    launches: List[Launch] = []
    first = 0
    while num_rows - first > many:
        launches.append(Launch(MANY, first, many))
        first += many
        rows = min(pair, num_rows - first)
        if rows > 0:
            launches.append(Launch(PAIR, first, rows, beside=True))
            first += rows
    rest = num_rows - first
    if rest > 0:
        launches.append(Launch(FEW if rest <= 2 * few else MANY, first, rest))
    return launches
