"""Queries at times between frames, motions that follow times, and draws of motions: the kernels against their plain
torch forms, which the motion library's tests hold against trajectories of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from python_process import run_python

ROOT = Path(__file__).resolve().parents[3]
INTERPRETED = [str(ROOT / "tests" / "cases" / f"interpreted_{name}.py") for name in ("queries", "clocks", "draws")]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_in_tritons_interpreter() -> None:
    words = *["-m", "pytest", "-q", "-p", "no:cacheprovider"], *INTERPRETED
    done = run_python(*words, cwd=ROOT, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("ring", [True, False])
def test_queries_on_a_gpu(ring: bool, rng: np.random.Generator) -> None:
    from queries_case import CASES, run

    for case in [*CASES, (81920, 96, 29, list(range(29)), list(range(9)))]:
        run(case, ring, "cuda", rng)


@pytest.mark.gpu
@pytest.mark.parametrize("most_steps", [1, 3])
def test_clocks_on_a_gpu(most_steps: int, rng: np.random.Generator) -> None:
    from clocks_case import check_calls

    check_calls("cuda", most_steps, rng)


@pytest.mark.gpu
@pytest.mark.parametrize("num_motions", [12, 700, 8192])
def test_draws_on_a_gpu(num_motions: int, rng: np.random.Generator) -> None:
    from draws_case import check_alike, check_draws

    check_draws("cuda", num_motions, rng)
    check_alike("cuda", num_motions, rng)
