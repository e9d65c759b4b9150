"""Motions that follow times: the kernels against their plain torch form, on random calls."""

from __future__ import annotations

import math

import numpy as np
import torch

from cmg_runtime.window.plain.clocks import MotionClocks
from cmg_runtime.window.triton.clocks import TritonMotionClocks
from queries_case import FPS, NUM_MOTIONS, random_motions


def check_calls(device: str, most_steps: int, rng: np.random.Generator) -> None:
    """Both twins through calls about some motions or all: times that go on, rest, leap, go back, and are none."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    motions = random_motions(5, 3, 2, device, generator, ring=True)
    plain, kernels = (kind(motions, FPS, most_steps, 8) for kind in (MotionClocks, TritonMotionClocks))
    time = torch.zeros(NUM_MOTIONS)
    seen = []
    for call in range(60):
        if call % 9 == 4:
            drawn = torch.tensor(rng.permutation(NUM_MOTIONS)[: rng.integers(1, 5)], device=device)
            for one in (plain, kernels):
                one.begin(drawn)
        steps = rng.choice(
            [0.0, 0.5, 1.0, 2.0, 30.0, -7.3, -0.25], NUM_MOTIONS, p=[0.1, 0.1, 0.5, 0.1, 0.05, 0.05, 0.1]
        )
        time += torch.tensor(steps, dtype=torch.float32)
        ids = torch.tensor(rng.integers(0, NUM_MOTIONS, rng.choice([0, 1, 5, 40])))
        ahead = torch.tensor(rng.choice([0.0, 1.0, 1.5, 3.0, 4.0, 6.0], len(ids))).float()
        times = ((time[ids] + ahead) / FPS).to(device)
        spoiled = torch.tensor(rng.random(len(ids)) < 0.1, device=device)
        times[spoiled] = torch.tensor(rng.choice([math.nan, math.inf, -math.inf]), dtype=torch.float32, device=device)
        ids = ids.to(device)
        expected, moving = plain.follow(ids, times), kernels.follow(ids, times)
        assert torch.equal(moving, expected)
        seen.append(moving.sum(dim=1).cpu())
        for name in ("now", "named", "all_named", "jumped"):
            assert torch.equal(getattr(kernels, name), getattr(plain, name)), name
        for name in ("clock", "origin"):
            pair = (getattr(one.motions, name) for one in (kernels, plain))
            torch.testing.assert_close(
                *pair, rtol=1e-6, atol=1e-6, equal_nan=True, msg=lambda text, name=name: name + text
            )
        # As a step does it: the current frames are some rows further on.
        columns, rows = motions.rows.shape[1], motions.rows.shape[0] * motions.rows.shape[1]
        motions.head.copy_((motions.head + columns * moving.sum(dim=0)) % rows)
    assert (torch.stack(seen).amax(dim=0) > 0).all()
    assert int(plain.jumped) > 3 and int(plain.all_named) > 0
