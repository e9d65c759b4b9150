"""What tiles take of a GPU's memory on the chip, known before anything is compiled.

What the compiler takes in the end depends on its passes, so these are bounds from above: what does not fit by them is
not tried, and what they let through in error the compiler refuses before it is launched. They are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence, Tuple, TypeVar

import torch

from cmg_runtime.backends.fused.packing import Shapes
from cmg_runtime.backends.fused.tiles import (
    CAUTIOUS,
    FIRSTS,
    GATES,
    HOPPER,
    MIDDLES,
    Finish,
    First,
    FrameConfig,
    Gate,
    Middle,
    Part,
    Tiles,
    first_block,
    gate_block,
    tile_columns,
)


@dataclass(frozen=True)
class Device:
    """What launches and tiles have to know about a GPU.

    Attributes:
        shared_memory: bytes that a program may have.
        capability: the compute capability.
        interpreted: Triton's interpreter on a CPU, which does as such a GPU would.
    """

    shared_memory: int
    capability: Tuple[int, int]
    interpreted: bool = False

    @staticmethod
    def of(device: torch.device) -> Device:
        if device.type == "cpu":
            return Device(shared_memory=1 << 30, capability=(9, 0), interpreted=True)
        properties = torch.cuda.get_device_properties(device)
        return Device(properties.shared_memory_per_block_optin, (properties.major, properties.minor))

    @property
    def tuned_by_hand(self) -> bool:
        """Whether its tiles are known."""
        return self.capability == (9, 0)

    @property
    def tma(self) -> bool:
        """Whether it fetches tiles by tensor descriptors."""
        return self.capability >= (9, 0)

    @property
    def pdl(self) -> bool:
        """Whether a kernel can start while the one before it still runs."""
        return self.capability >= (9, 0) and not self.interpreted

    @property
    def operands_in_registers(self) -> bool:
        """Whether products take their operands from registers (``mma.sync``), not from shared or tensor memory."""
        return self.capability[0] not in (9, 10)


OPERAND_BYTES = {"fp16": 2, "fp32": 4}

TENSOR_MEMORY = 512
"""Columns that a multiprocessor of compute capability 10.0 has for its products."""

_RESERVED = 1024
"""Of the shared memory, for barriers and small sums."""


SomePart = TypeVar("SomePart", Gate, First, Middle)


def by_hand(precision: str, shapes: Shapes, device: Device, known: bool = True) -> Tiles:
    """The tiles for a network on a GPU, without timing any. Those that do not fit give way to the first of the
    candidates that do.

    Args:
        known: False for the cautious tiles also where better ones are known.

    Raises:
        ValueError: none do.
    """
    classes = HOPPER[precision].classes
    if not (known and device.tuned_by_hand):
        classes = tuple((most, CAUTIOUS[precision]) for most, _ in classes)
    return Tiles(tuple((most, _fitted(config, precision, shapes, device)) for most, config in classes))


def _fitted(config: FrameConfig, precision: str, shapes: Shapes, device: Device) -> FrameConfig:
    def first_fitting(own: SomePart, others: Sequence[SomePart]) -> SomePart:
        for part in (own, *others):
            if fits(part, precision, shapes, device):
                return part
        least = min(shared_bytes(part, precision, shapes, device) for part in others)
        raise ValueError(
            f"the smallest tiles take {least} bytes of shared memory, and the GPU has {device.shared_memory}"
        )

    return replace(
        config,
        gate=first_fitting(config.gate, GATES),
        first=first_fitting(config.first, FIRSTS),
        middle=first_fitting(config.middle, MIDDLES[precision]),
    )


def fits(part: Part, precision: str, shapes: Shapes, device: Device) -> bool:
    """Whether a program with these tiles has room on the GPU."""
    if device.capability[0] == 10 and _tensor_columns(part, precision, shapes) > TENSOR_MEMORY:
        return False
    return shared_bytes(part, precision, shapes, device) <= device.shared_memory


def shared_bytes(part: Part, precision: str, shapes: Shapes, device: Device) -> int:
    """At most so many bytes of shared memory a program takes; of a middle layer with as many stages as fit."""
    if isinstance(part, Middle):
        return _middle_bytes(part, stages(part, precision, shapes, device), precision, shapes, device)
    if isinstance(part, Finish):
        return 4 * part.block_m * shapes.outputs * part.num_warps + _RESERVED
    several, columns, results = False, 0, 0
    if isinstance(part, Gate):
        columns = gate_block(shapes, part)
    else:
        several, columns = part.tiles > 1, first_block(shapes, part) * shapes.experts
        results = part.block_m * (columns if shapes.experts < 4 else first_block(shapes, part)) * 4
    inputs = part.block_m * shapes.inputs_padded * 4  # float32 before they are operands
    weights = columns * shapes.inputs_padded * OPERAND_BYTES[precision]
    if device.operands_in_registers:
        operands = max(inputs, results) + 2 * weights if several else max(inputs, weights)
    elif precision == "fp32":  # in two parts, see below; those of one tile when the inputs have been read
        operands = 2 * inputs + 3 * weights if several else max(inputs, weights) + weights
    else:
        operands = inputs + (2 if several else 1) * weights
    return max(operands, results) + _RESERVED


def stages(tiles: Middle, precision: str, shapes: Shapes, device: Device) -> int:
    """As many stages of a middle layer's pipeline as fit into shared memory, at most those of the tiles."""
    fitting = (
        count
        for count in range(tiles.num_stages, 1, -1)
        if _middle_bytes(tiles, count, precision, shapes, device) <= device.shared_memory
    )
    return next(fitting, 1)


def _middle_bytes(tiles: Middle, count: int, precision: str, shapes: Shapes, device: Device) -> int:
    """With ``count`` stages.

    A stage holds a tile of x and one of the weights. The last layer's tile lies beside them where it is read first or
    the loops are flattened; where one stage is all of K, the compiler pipelines the loop over tiles instead, and each
    stage has one. "tf32x3" splits operands in two: the last layer's tile, and a tile of the weights at a time.
    """
    size, split = OPERAND_BYTES[precision], precision == "fp32"
    columns = tile_columns(tiles.width, shapes.experts, shapes.hidden)
    products = columns * shapes.experts
    last_products = shapes.outputs * shapes.experts if shapes.fuses_last else 0
    weights = products * tiles.block_k * size
    stage = tiles.block_m * tiles.block_k * size + weights
    last = last_products * columns * size * (2 if split else 1)
    if shapes.hidden == tiles.block_k and tiles.tiles > 1:
        stage, last = stage + last, 0
    # Where there is no last layer behind it, results are on their way out instead.
    results = tiles.block_m * columns * (8 if device.operands_in_registers else 4)
    beside = (last if shapes.fuses_last else results) if tiles.flatten or tiles.tiles == 1 else 0
    if not device.operands_in_registers:
        return max(count * stage + beside + (weights if split else 0), last) + _RESERVED
    # A stage is free as soon as it has been read. Warps exchange products to mix experts; of four or more, they may do
    # it half by half.
    exchanged = tiles.block_m * max(products, last_products) * 4
    if shapes.experts >= 4 and 16 * tiles.num_warps <= tiles.block_m and not (split and tiles.num_warps > 4):
        exchanged //= 2
    pipeline = max(count - 1, 1) * stage
    if tiles.flatten:
        return pipeline + max(exchanged, beside) + _RESERVED
    return max(pipeline, exchanged, last) + beside + _RESERVED


def _tensor_columns(part: Part, precision: str, shapes: Shapes) -> int:
    """Columns of tensor memory, where products are made there. "tf32x3" keeps operands there too, and of a middle
    layer's accumulators three. Tiles of fewer than 64 rows do without."""
    split = precision == "fp32"
    if part.block_m < 64 or not isinstance(part, (First, Middle)):
        return 0
    if isinstance(part, First):
        products = first_block(shapes, part) * shapes.experts
        return 2 * products + shapes.inputs_padded if split and part.tiles > 1 else products
    products = tile_columns(part.width, shapes.experts, shapes.hidden) * shapes.experts
    last_products = shapes.outputs * shapes.experts if shapes.fuses_last else 0
    if split:
        return 3 * (products + last_products) + part.block_k
    return products * (2 if part.flatten else 1) + last_products
