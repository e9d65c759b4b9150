"""The weights of the cluster kernel, in the order in which it reads them."""

from __future__ import annotations

from typing import List

import torch

from cmg_runtime.backends.fused.packing import Packed

HIDDEN, EXPERTS, WIDTH = 512, 4, 64
"""Hidden units of layers and gate, experts, and hidden units of one chunk. The kernel takes them from here."""

CHUNKS = HIDDEN // WIDTH

TILE = WIDTH * EXPERTS
"""Columns of a block of weights: one chunk's outputs, for every expert."""

BLOCK_BYTES = TILE * WIDTH * torch.finfo(torch.float16).bits // 8


def weight_stream(packed: Packed, ctas: int) -> torch.Tensor:
    """[ctas, blocks, 256, 64] half precision: each CTA's weights in the order in which it reads them.

    A block is 256 rows (output columns for every expert, in the packed order) of 64 inputs, swizzled. First comes the
    gate's, in one block or two, with its second layer's weights behind it: for each 64 inputs 8 rows, which are the
    experts' weights and what rounding them has left; then the first layer's blocks;
    then for each chunk of the CTA's the middle layer's eight, its own inputs first, and the last layer's.
    """
    first, middle, last = (padded_to(weight, rows, columns) for (weight, _), rows, columns in zip(
        packed.layers, (HIDDEN * EXPERTS, HIDDEN * EXPERTS, TILE), (WIDTH, HIDDEN, HIDDEN)
    ))  # fmt: skip
    gate = padded_to(packed.gate_weight, HIDDEN, WIDTH)
    gate_out = padded_to(packed.gate_out_weight, EXPERTS, HIDDEN)
    tiles = CHUNKS // ctas
    return torch.stack(
        [torch.stack(_blocks_of(rank, tiles, gate, gate_out, first, middle, last)) for rank in range(ctas)]
    )


def _blocks_of(
    rank: int,
    tiles: int,
    gate: torch.Tensor,
    gate_out: torch.Tensor,
    first: torch.Tensor,
    middle: torch.Tensor,
    last: torch.Tensor,
) -> List[torch.Tensor]:
    units = slice(rank * tiles * WIDTH, (rank + 1) * tiles * WIDTH)
    own = range(rank * tiles, (rank + 1) * tiles)
    out = gate_out[:, units]
    rounded = out.half()
    both = torch.cat([rounded, (out - rounded.float()).half()])
    gate_block = torch.cat(
        [_swizzled(gate[units]).flatten(), *(_swizzled(part).flatten() for part in both.split(WIDTH, dim=1))]
    )
    blocks = list(torch.nn.functional.pad(gate_block, (0, -len(gate_block) % (TILE * WIDTH))).view(-1, TILE, WIDTH))
    blocks += [_swizzled(_tile(first, tile)) for tile in own]
    for tile in own:
        chunks = [(rank * tiles + k) % CHUNKS for k in range(CHUNKS)]
        blocks += [_swizzled(_tile(middle, tile)[:, chunk * WIDTH : (chunk + 1) * WIDTH]) for chunk in chunks]
        blocks.append(_swizzled(last[:, tile * WIDTH : (tile + 1) * WIDTH]))
    return blocks


def _tile(weight: torch.Tensor, tile: int) -> torch.Tensor:
    return weight[tile * TILE : (tile + 1) * TILE]


def _swizzled(block: torch.Tensor) -> torch.Tensor:
    """[n, 64] half precision with the pieces of 8 values of row r at places p ^ (r % 8), as matrix units read them."""
    pieces = block.reshape(len(block), 8, 8)
    places = torch.arange(8, device=block.device)
    rows = torch.arange(len(block), device=block.device)
    order = places[None, :] ^ (rows % 8)[:, None]
    return pieces.gather(1, order[:, :, None].expand(-1, -1, 8)).reshape(len(block), WIDTH)


def padded_to(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """``tensor`` with zeros behind it up to ``shape``, contiguous."""
    padding = [amount for size, to in zip(reversed(tensor.shape), reversed(shape)) for amount in (0, to - size)]
    return torch.nn.functional.pad(tensor, padding).contiguous()
