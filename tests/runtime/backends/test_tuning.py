"""The tuner of the ``fused`` backend's tiles: on cards whose times are a known function, and on a GPU."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime import EngineError
from cmg_runtime.backends.fused import tuning
from cmg_runtime.backends.fused.capacity import Device, by_hand, fits
from cmg_runtime.backends.fused.launch import OPERANDS, FrameNetwork
from cmg_runtime.backends.fused.packing import Shapes, pack
from cmg_runtime.backends.fused.tiles import FINISHES, FIRSTS, GATES, MIDDLES, FrameConfig, Tiles
from cmg_runtime.backends.fused.tuning import FrameTimer, Tuned, choose_tiles, kept_or_timed, tune
from engine_folder import TOLERANCE, Truth
from make_checkpoint import make_checkpoint

G1 = Shapes(motion=58, inputs=61, inputs_padded=64, experts=4, gate=512, hidden=512, outputs=64, num_layers=3)
CARDS = {(8, 0): 166_912, (8, 6): 101_376, (9, 0): 232_448, (12, 0): 101_376}
ABOUT = {"gpu": "a card", "driver": "1.2", "precision": "fp16"}


class FakeCard:
    """Frames on it take the sum of what each kernel's tiles cost, random numbers, and noise."""

    def __init__(self, rng: np.random.Generator, noise: float = 0.0) -> None:
        self._rng, self._noise = rng, noise
        self._costs: dict[Any, float] = {}
        self.tried: list[tuple[int, FrameConfig]] = []

    def cost(self, rows: int, config: FrameConfig) -> float:
        return sum(self.of(rows, name.name, getattr(config, name.name)) for name in fields(config))

    def of(self, rows: int, kernel: str, part: Any) -> float:
        key = (rows, kernel, part)
        if key not in self._costs:
            self._costs[key] = float(self._rng.uniform(1.0, 10.0))
        return self._costs[key]

    def __call__(self, rows: int, configs: Sequence[FrameConfig]) -> list[float]:
        self.tried += [(rows, config) for config in configs]
        return [self.cost(rows, config) * self._rng.uniform(1.0, 1.0 + self._noise) for config in configs]


def candidates(rows: int, precision: str, device: Device) -> dict[str, list[Any]]:
    kernels = {"middle": MIDDLES[precision], "first": FIRSTS, "gate": GATES, "finish": FINISHES}
    return {
        name: [part for part in parts if fits(part, precision, G1, device) and part.block_m <= max(64, rows)]
        for name, parts in kernels.items()
    }


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("capability", CARDS, ids=str)
def test_it_finds_the_fastest_of_all_combinations_or_one_within_five_per_cent(
    capability: tuple[int, int], precision: str, rng: np.random.Generator
) -> None:
    device = Device(CARDS[capability], capability)
    start = by_hand(precision, G1, device, known=False)
    for noise in (0.0, 0.004):
        card = FakeCard(rng, noise)
        tuned = tune(start, precision, G1, device, card)
        for (most, before), config in zip(start.classes, tuned.configs, strict=True):
            rows = int(min(most, 4096))
            parts = candidates(rows, precision, device)
            pdl = (True, False) if device.pdl else (True,)
            best = sum(min(card.of(rows, name, part) for part in options) for name, options in parts.items())
            best += min(card.of(rows, "pdl", choice) for choice in pdl)
            assert card.cost(rows, config) <= 1.05 * best
            assert card.cost(rows, config) <= card.cost(rows, before) * (1 + noise)
        assert max(
            abs(after / card.cost(int(min(most, 4096)), config) - 1)
            for (most, _), config, after in zip(start.classes, tuned.configs, tuned.after, strict=True)
        ) <= noise + 1e-9  # fmt: skip
        for rows, config in card.tried:
            assert all(
                getattr(config, name) in options for name, options in candidates(rows, precision, device).items()
            )


def test_tiles_that_cannot_run_are_not_chosen_and_where_none_do_it_says_so(rng: np.random.Generator) -> None:
    device = Device(CARDS[8, 6], (8, 6))
    start = by_hand("fp16", G1, device)
    card = FakeCard(rng)
    begin = start.of(1)
    broken = {begin.middle, *(FIRSTS[index] for index in rng.permutation(len(FIRSTS))[:3])} - {begin.first}

    def timer(rows: int, configs: Sequence[FrameConfig]) -> list[float]:
        return [math.inf if broken & {config.middle, config.first} else card.cost(rows, config) for config in configs]

    tuned = tune(start, "fp16", G1, device, timer)
    assert not any(broken & {config.middle, config.first} for config in tuned.configs)
    assert all(map(math.isfinite, tuned.before))
    with pytest.raises(ValueError, match="^no tiles run on this GPU with 16 rows$"):
        tune(start, "fp16", G1, device, lambda rows, configs: [math.inf] * len(configs))


def test_what_is_as_fast_stays_as_it_is() -> None:
    device = Device(CARDS[8, 6], (8, 6))
    start = by_hand("fp16", G1, device)

    def timer(rows: int, configs: Sequence[FrameConfig]) -> list[float]:
        return [100.0 - 0.9 * (config != configs[0]) for config in configs]

    tuned = tune(start, "fp16", G1, device, timer)
    assert list(tuned.configs) == [config for _, config in start.classes]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cmg_runtime"


HAND = by_hand("fp16", G1, Device(101_376, (8, 6)))


def some_tiles(rng: np.random.Generator) -> Tuned:
    def config() -> FrameConfig:
        parts: list[Any] = [
            options[rng.integers(len(options))] for options in (GATES, FIRSTS, MIDDLES["fp16"], FINISHES)
        ]
        return FrameConfig(*parts, pdl=bool(rng.integers(2)))

    count = len(HAND.classes)
    times = [tuple(rng.uniform(1, 100, count).tolist()) for _ in range(2)]
    return Tuned(tuple(config() for _ in range(count)), *times)


def as_tiles(tuned: Tuned) -> Tiles:
    return Tiles(tuple((most, config) for (most, _), config in zip(HAND.classes, tuned.configs, strict=True)))


def never(*arguments: Any) -> Tuned:
    raise AssertionError("timed again")


def test_a_choice_is_kept_and_a_file_that_is_damaged_is_made_anew(
    cache: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, other = (some_tiles(rng) for _ in range(3))
    assert kept_or_timed(HAND, ABOUT, lambda: first) == as_tiles(first) == kept_or_timed(HAND, ABOUT, never)
    (kept,) = cache.iterdir()
    gains = [record.message for record in caplog.records if "us a frame" in record.message]
    assert len(gains) == 1 and f"up to 16 {first.before[0]:.1f} -> {first.after[0]:.1f}" in gains[0]
    assert kept_or_timed(HAND, {**ABOUT, "driver": "1.3"}, lambda: other) == as_tiles(other)
    whole, (another,) = kept.read_bytes(), {*cache.iterdir()} - {kept}
    flipped = bytearray(whole)
    flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
    for damaged in (whole[:-1], bytes(flipped), b"", another.read_bytes()):
        kept.write_bytes(damaged)
        assert kept_or_timed(HAND, ABOUT, lambda: second) == as_tiles(second) == kept_or_timed(HAND, ABOUT, never)
    assert sorted(cache.iterdir()) == sorted((kept, another))


@pytest.mark.parametrize("place", ["a file", "no home", "a full disk"])
def test_where_nothing_can_be_kept_nothing_is_timed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    if place == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    if place == "a full disk":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(tuning, "replace_file", full)
    for _ in range(2):
        caplog.clear()
        assert kept_or_timed(HAND, ABOUT, never) == HAND
        (said,) = [record.message for record in caplog.records]
        assert "\n" not in said and "nobody tuned for a card" in said and "set XDG_CACHE_HOME" in said


def full(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_of_many_processes_one_times_and_all_take_what_it_found(cache: Path, rng: np.random.Generator) -> None:
    """Each would choose otherwise. The first to begin dies at it."""
    choices = [some_tiles(rng) for _ in range(6)]
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()

    def load(index: int) -> None:
        def timed() -> Tuned:
            results.put(("timed", index))
            time.sleep(0.2)
            if index == 0:
                results.close()
                results.join_thread()
                os._exit(9)
            return choices[index]

        results.put(("chose", astuple(kept_or_timed(HAND, ABOUT, timed))))

    processes = [context.Process(target=load, args=(index,)) for index in range(len(choices))]
    for process in processes:
        process.start()
        if process is processes[0]:
            assert results.get(timeout=60) == ("timed", 0)
    said = [results.get(timeout=60) for _ in range(len(choices))]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [9, 0, 0, 0, 0, 0]
    ((_, winner),) = [entry for entry in said if entry[0] == "timed"]
    assert [entry for entry in said if entry[0] == "chose"] == [("chose", astuple(as_tiles(choices[winner])))] * 5


@pytest.mark.parametrize(
    "capability, wish, timed",
    [((8, 6), "", True), ((8, 6), "1", True), ((8, 6), "0", False)]
    + [((9, 0), "", False), ((9, 0), "1", True), ((9, 0), "0", False)],
)
def test_cards_with_known_tiles_are_timed_only_where_asked(
    capability: tuple[int, int], wish: str, timed: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = [], as_tiles(some_tiles(rng))
    monkeypatch.setenv("CMG_TUNE", wish)
    monkeypatch.setattr(Device, "of", lambda _: Device(CARDS[capability], capability))
    monkeypatch.setattr(tuning, "circumstances", lambda *about: {"gpu": "a card"})
    monkeypatch.setattr(tuning, "kept_or_timed", lambda *arguments: asked.append(arguments) or answer)
    packed: Any = type("Packed", (), {"shapes": G1})
    chosen = choose_tiles({}, packed, "fp16", torch.device("cpu"))
    assert len(asked) == timed
    assert chosen == (answer if timed else by_hand("fp16", G1, Device(CARDS[capability], capability)))


def test_nothing_is_timed_on_a_cpu_and_other_wishes_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: Any = type("Packed", (), {"shapes": G1})
    monkeypatch.setenv("CMG_TUNE", "1")
    cpu = torch.device("cpu")
    assert choose_tiles({}, packed, "fp16", cpu) == by_hand("fp16", G1, Device.of(cpu)) and not cache.exists()
    monkeypatch.setenv("CMG_TUNE", "yes")
    with pytest.raises(EngineError, match="^CMG_TUNE is 'yes'; expected 0, 1, or that it is not set$"):
        choose_tiles({}, packed, "fp16", cpu)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_gpu_that_counts_as_unknown(
    precision: str,
    cache: Path,
    tmp_path: Path,
    seed: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All that is tried runs and is right. What is chosen is kept, and close to the tiles by hand, where there are."""
    monkeypatch.setenv("CMG_TUNE", "1")
    caplog.set_level(logging.INFO)
    device = torch.device("cuda", torch.cuda.current_device())
    made = make_checkpoint(tmp_path, seed=seed, hidden_dim=512, num_experts=4, num_layers=3)
    weights, truth = one_product_weights(load_checkpoint(made.path)), Truth(made.model, made.stats)
    packed = pack(weights, OPERANDS[precision][0], device)
    tuned = choose_tiles(weights, packed, precision, device)
    said = [record.message for record in caplog.records]
    assert not [message for message in said if "cannot run here" in message or "is not used" in message]
    monkeypatch.setattr(tuning, "tune", never)
    assert choose_tiles(weights, packed, precision, device) == tuned
    network = FrameNetwork(packed, precision, 64, device, tuned)
    for rows in (5, 64, 200, 300, 1000, 1300):
        motion, command = truth.states(rows, generator), truth.commands(rows, generator)
        out = torch.full_like(motion, math.nan, device=device)
        network(motion.to(device), command.to(device), out)
        assert truth.error(out, truth.step(motion, command)) < TOLERANCE[precision]
    if Device.of(device).tuned_by_hand:
        hand, timer = (
            by_hand(precision, packed.shapes, Device.of(device)),
            FrameTimer(weights, packed, precision, device),
        )
        for (most, best), (_, config) in zip(hand.classes, tuned.classes, strict=True):
            by_hand_us, tuned_us = timer(int(min(most, 4096)), (best, config))
            assert tuned_us <= 1.05 * by_hand_us, (most, config)
