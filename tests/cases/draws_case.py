"""Draws of motions: the kernels against their plain torch form, on random calls."""

from __future__ import annotations

import math

import numpy as np
import torch

from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.plain.clocks import MotionClocks
from cmg_runtime.window.plain.draws import MotionDraws, Weights
from cmg_runtime.window.plain.queries import MotionRows
from cmg_runtime.window.triton.draws import TritonMotionDraws
from queries_case import FPS

KINDS = (MotionDraws, TritonMotionDraws)


def check_draws(device: str, num_motions: int, rng: np.random.Generator) -> None:
    """Both twins through draws of few or many, for askers or nobody, with all kinds of weights, between queries."""
    clocks, twins = _make(device, num_motions, rng)
    num_askers = num_motions // 2
    beyond_the_free = 0
    for call in range(40):
        if rng.random() < 0.6:
            some = num_askers if call % 3 == 0 else rng.integers(0, num_askers)
            ids = torch.tensor(rng.permutation(num_motions)[:some], device=device)
            times = torch.tensor(rng.random(some), dtype=torch.float32, device=device)
            for one in clocks:
                one.follow(ids, times)
        n = int(rng.integers(0, rng.choice([3, num_askers, num_motions])) + (call == 0))
        waiting = torch.tensor(rng.exponential(size=num_motions), device=device)
        weights = _random_weights(num_motions, rng, device)
        askers = None
        if rng.random() < 0.6:
            askers = torch.tensor(rng.permutation(num_askers)[:n], device=device)
            n = len(askers)
        free = int((clocks[0].named < clocks[0].all_named).sum())
        beyond_the_free += n > free
        (expected, commands), (found, others) = (twin.draw(n, waiting.clone(), weights, askers) for twin in twins)
        assert torch.equal(found, expected) and torch.equal(others, commands)
        assert len(found.unique()) == n
        assert torch.equal(twins[1].motion_of_asker, twins[0].motion_of_asker)
        for name in ("now", "named", "all_named"):
            assert torch.equal(getattr(clocks[1], name), getattr(clocks[0], name)), name
        for name in ("clock", "origin"):
            pair = [getattr(one.motions, name) for one in clocks]
            torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)
    assert 0 < beyond_the_free < 40


def check_alike(device: str, num_motions: int, rng: np.random.Generator) -> None:
    """Where random numbers repeat, no motion does."""
    _, twins = _make(device, num_motions, rng)
    waiting = torch.tensor(rng.integers(1, 4, num_motions), dtype=torch.float64, device=device)
    for n in (num_motions // 3, num_motions):
        expected, found = (twin.draw(n, waiting, Weights(None, num_motions))[0] for twin in twins)
        assert torch.equal(found, expected) and len(found.unique()) == n


def _make(device: str, num_motions: int, rng: np.random.Generator) -> tuple[list[MotionClocks], list[MotionDraws]]:
    layout = FrameLayout(2, 1, True)
    rows = torch.zeros(2, num_motions + 1, layout.width, device=device)
    commands = torch.tensor(rng.random((num_motions, 3)), dtype=torch.float32, device=device)
    rank = torch.tensor(rng.permutation(num_motions), device=device)
    motions, num_askers = MotionRows(rows, layout, torch.arange(num_motions, device=device)), num_motions // 2
    clocks = [MotionClocks(motions, FPS, 1, num_askers) for _ in KINDS]
    for one in clocks:
        assert one.motions.origin is not None
        one.motions.origin.fill_(1.0)
    return clocks, [kind(one, commands, rank, num_askers) for kind, one in zip(KINDS, clocks, strict=True)]


def _random_weights(num_motions: int, rng: np.random.Generator, device: str) -> Weights:
    num_easy = num_motions if rng.random() < 0.5 else int(rng.integers(1, num_motions + 1))
    if rng.random() < 0.4:
        return Weights(None, num_easy)
    values = rng.random(num_motions) * rng.choice([0.0, 1e-30, 1.0, 1e30], num_motions, p=[0.3, 0.1, 0.5, 0.1])
    spoiled = rng.random(num_motions) < 0.1
    values[spoiled] = rng.choice([math.nan, math.inf, -math.inf, -1.0], spoiled.sum())
    return Weights(torch.tensor(values, dtype=torch.float32, device=device), num_easy)
