"""Queries at times between frames: the kernel against its plain torch form, on random motions."""

from __future__ import annotations

import math

import numpy as np
import torch

from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.geometry import quat_from_yaw
from cmg_runtime.window.plain.queries import FrameQueries, MotionFrames, MotionRows
from cmg_runtime.window.triton.queries import TritonFrameQueries

FPS = 50.0
COLUMNS, NUM_MOTIONS = 13, 12
"""The last column is nobody's, and NaN."""


def random_motions(
    num_frames: int, num_joints: int, num_bodies: int, device: str, generator: torch.Generator, ring: bool
) -> MotionRows:
    """Random frames, as a ring with clocks and places, or as a pool. Headings grow by less than a radian a frame, and
    through half a turn where there are enough frames; the whole is never near a full turn, whose half sine is 0."""
    layout = FrameLayout(num_joints, num_bodies, True)
    rows = torch.randn(num_frames, COLUMNS, layout.width, generator=generator)
    share, most = torch.rand(COLUMNS, generator=generator), min(0.9 * (num_frames - 1), 5.5)
    turns = (0.3 + share * (most - 0.3)) * torch.linspace(0, 1, num_frames).unsqueeze(1)
    turns[:, 0] = 0.0  # straight on
    rows[..., layout.root_rot : layout.root_vel] = quat_from_yaw(turns)
    rows[:, NUM_MOTIONS:] = math.nan
    if not ring:
        return MotionRows(rows.to(device), layout, torch.arange(NUM_MOTIONS, device=device), repeats=True)
    head = COLUMNS * torch.randint(num_frames, (NUM_MOTIONS,), generator=generator) + torch.arange(NUM_MOTIONS)
    clock, origin = torch.randint(200, (NUM_MOTIONS,), generator=generator).float(), torch.randn(NUM_MOTIONS, 3)
    return MotionRows(rows.to(device), layout, head.to(device), clock.to(device), origin.to(device))


def random_times(motions: MotionRows, ids: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Times on frames, next to them, between them, before the first, past the last, and some that are no times."""
    n, last = len(ids), len(motions.rows) - 1
    choices = [
        rng.integers(-1, last + 2, n).astype(np.float64),
        rng.integers(0, last + 1, n) + rng.choice([-9e-4, 9e-4, -2e-3, 2e-3], n),
        rng.random(n) * last,
        rng.random(n) * 5 * last,
        -3 * rng.random(n),
        rng.integers(0, 4, n) * float(last),
        rng.choice([np.nan, np.inf, -np.inf, 1e30, 1e38], n),
    ]
    kind = rng.choice(len(choices), n, p=[0.3, 0.1, 0.25, 0.1, 0.1, 0.1, 0.05])
    position = torch.tensor(np.choose(kind, choices)).to(ids.device)
    clock = 0.0 if motions.clock is None else motions.clock[ids].double()
    return ((position + clock) / FPS).float()


def check_twins(n: int, joints: list[int], bodies: list[int], motions: MotionRows, rng: np.random.Generator) -> None:
    """Both twins' answers to ``n`` queries, and what they count."""
    plain, kernel = (kind(motions, joints, bodies, FPS) for kind in (FrameQueries, TritonFrameQueries))
    ids = torch.tensor(rng.integers(0, NUM_MOTIONS, n), device=motions.rows.device)
    times = random_times(motions, ids, rng)
    spread = times.new_zeros(n, 2)
    spread[:, 0] = times  # times that do not lie side by side
    expected, seen = plain.answer(ids, times), kernel.answer(ids, spread[:, 0])
    # Where a motion has repeated very often, float32 does not tell where in it a time is.
    sane = times.nan_to_num().abs() < 1e4
    for name, value in seen._asdict().items():
        truth = getattr(expected, name)
        assert value.is_contiguous() and value.shape == truth.shape and value.dtype == torch.float32, name
        torch.testing.assert_close(
            value[sane],
            truth[sane],
            rtol=1e-5,
            atol=1e-4,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert len({field.untyped_storage().data_ptr() for field in seen}) == len(seen) or n == 0
    assert torch.equal(kernel.counts, plain.counts)
    if n > 1000:
        assert (plain.counts > 0).all()
    again = kernel.answer(ids, times)
    kept = MotionFrames(*(field.clone() for field in again))
    for field in seen:
        field.fill_(7.0)
    for field, before in zip(again, kept, strict=True):
        torch.testing.assert_close(field, before, rtol=0, atol=0, equal_nan=True)


CASES: list[tuple[int, int, int, list[int], list[int]]] = [
    # queries, frames, joints of a row, those asked for, bodies asked for
    (1, 96, 29, list(range(29)), [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    (33, 96, 29, [j for j in range(29) if j not in (19, 20, 21, 26, 27, 28)], [2, -1, 0, 8]),
    (203, 2, 23, list(range(23)), [-1, 1, -1, 0]),
    (131, 7, 70, list(range(70)), list(range(40)) + [-1]),
    (40, 3, 1, [0], [0]),
    (0, 3, 1, [0], [0]),
]


def run(case: tuple[int, int, int, list[int], list[int]], ring: bool, device: str, rng: np.random.Generator) -> None:
    n, num_frames, num_joints, joints, bodies = case
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    motions = random_motions(num_frames, num_joints, max(bodies) + 1, device, generator, ring)
    check_twins(n, joints, bodies, motions, rng)
