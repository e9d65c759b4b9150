"""Tiles of the ``fused`` backend on GPUs that are not here: what fits them, by formula and by the compiler."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cmg_runtime.backends.fused.capacity import Device, by_hand, fits, shared_bytes, stages
from cmg_runtime.backends.fused.packing import Shapes
from cmg_runtime.backends.fused.tiles import FINISHES, FIRSTS, GATES, HOPPER, MIDDLES, First, Gate, Middle, Tiles

# Shared memory that a thread block may have: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability", KB.
SHARED_KB = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
DEVICES = {capability: Device(1024 * size, capability) for capability, size in SHARED_KB.items()}

G1 = Shapes(motion=58, inputs=61, inputs_padded=64, experts=4, gate=512, hidden=512, outputs=64, num_layers=3)
NETWORKS = (
    G1,
    Shapes(10, 12, 16, 1, 64, 64, 16, 3),
    Shapes(58, 61, 64, 8, 256, 128, 64, 3),
    Shapes(140, 143, 256, 2, 64, 64, 256, 3),
    Shapes(58, 61, 64, 4, 512, 512, 64, 2),
    Shapes(58, 61, 64, 2, 192, 192, 64, 4),
)


def candidates(precision: str) -> dict[str, tuple[Any, ...]]:
    return {"gate": GATES, "first": FIRSTS, "middle": MIDDLES[precision], "finish": FINISHES}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("capability", DEVICES, ids=str)
def test_what_is_chosen_or_tried_fits_and_something_does(capability: tuple[int, int], precision: str) -> None:
    device = DEVICES[capability]
    for shapes in NETWORKS:
        for known in (True, False):
            for _, config in by_hand(precision, shapes, device, known).classes:
                for part in (config.gate, config.first, config.middle, config.finish):
                    assert fits(part, precision, shapes, device)
                    assert shared_bytes(part, precision, shapes, device) <= 1024 * SHARED_KB[capability]
        for parts in candidates(precision).values():
            assert any(fits(part, precision, shapes, device) for part in parts)


def test_shapes_of_large_cards_are_not_tried_on_small_ones() -> None:
    """By hand, for the G1's network in half precision: 128 rows and 4 x 64 columns of 64 values are 48 KB a stage."""
    large = Middle(128, 256, 64, 2, 8, 3, True)
    fitting = {capability for capability, device in DEVICES.items() if fits(large, "fp16", G1, device)}
    assert fitting == {(8, 0), (9, 0)}  # 10.0 has no tensor memory for two accumulators and the last layer's
    half = Middle(64, 256, 64, 1, 4, 3)  # 40 KB a stage, and 32 KB of the last layer
    assert [stages(half, "fp16", G1, DEVICES[capability]) for capability in ((8, 6), (9, 0))] == [2, 3]
    assert shared_bytes(large, "fp16", G1, DEVICES[9, 0]) >= 3 * 48 * 1024 + 32 * 1024
    wide = First(64, 256, 4, tiles=2)  # two tiles of 4 x 64 columns of 64 values, 4 bytes each: 128 KB
    assert not fits(wide, "fp32", G1, DEVICES[8, 6]) and fits(wide, "fp32", G1, DEVICES[9, 0])


def test_a_network_that_no_tile_fits_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^the smallest tiles take \d+ bytes of shared memory, and the GPU has 2048$"):
        by_hand("fp16", G1, Device(2048, (8, 6)))


def test_hopper_has_the_tiles_chosen_for_it() -> None:
    for precision, tiles in HOPPER.items():
        assert by_hand(precision, G1, DEVICES[9, 0]) == tiles
        assert by_hand(precision, G1, DEVICES[9, 0], known=False) != tiles
        assert by_hand(precision, G1, DEVICES[10, 0]) != tiles


def test_rows_take_the_smallest_class_that_holds_them() -> None:
    tiles = HOPPER["fp16"]
    assert [tiles.of(rows) for rows in (1, 16, 17, 64, 1024, 1025, 10**6)] == [
        tiles.classes[index][1] for index in (0, 0, 1, 1, 3, 4, 4)
    ]
    assert tiles.up_to(300) == [(16, tiles.of(1)), (64, tiles.of(64)), (256, tiles.of(256)), (300, tiles.of(300))]
    assert Tiles(tiles.classes[-1:]).up_to(5) == [(5, tiles.of(10**6))]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", [capability for capability in DEVICES if capability >= (8, 0)], ids=str)
def test_the_compiler_takes_no_more_than_was_worked_out(
    capability: tuple[int, int], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles drawn from all candidates, and one of each kernel for the network that most have."""
    from compiled_kernels import KERNELS, compiled, launches

    device = DEVICES[capability]
    for shapes in (G1, NETWORKS[rng.integers(len(NETWORKS))]):
        precision = ("fp16", "fp32")[rng.integers(2)] if shapes is G1 else "fp16"
        config = by_hand(precision, shapes, device).classes[-1][1]
        for name, parts in candidates(precision).items():
            fitting = [part for part in parts if fits(part, precision, shapes, device)]
            config = replace(config, **{name: fitting[rng.integers(len(fitting))]})
        for kernel, arguments in launches(shapes, precision, config, device, monkeypatch):
            part = getattr(config, KERNELS[kernel.__name__])
            result = compiled(kernel, arguments, device)
            taken = result.metadata.shared
            assert taken <= shared_bytes(part, precision, shapes, device) <= device.shared_memory, (shapes, part)
            assert (getattr(result.metadata, "tmem_size", None) or 0) <= 512, (shapes, part)
            if isinstance(part, Middle) and capability < (9, 0):  # several values a load, behind which products run
                assert "cp.async.cg.shared.global" in result.asm["ptx"] or arguments["num_stages"] == 1
                assert "ld.global.b16" not in result.asm["ptx"]
            if isinstance(part, (Gate, First)) and capability < (9, 0):
                assert "ld.global.b16" not in result.asm["ptx"]
