"""Shared by all tests: one seed for everything random, printed at the top of the run, and the ``gpu`` marker."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from engine_folder import Truth

SEED_VARIABLE = "CMG_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
    # mjlab would choose EGL, for every test of the process; a machine without a GPU may not have it.
    os.environ.setdefault("MUJOCO_GL", "osmesa" if ctypes.util.find_library("OSMesa") else "disable")
    # Before any test imports mujoco: the LLVM inside its OSMesa, loaded first, crashes the one inside Triton.
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(SEED_VARIABLE, str(secrets.randbelow(2**31)))  # worker processes inherit it


def pytest_report_header(config: pytest.Config) -> str:
    return f"{SEED_VARIABLE}={os.environ[SEED_VARIABLE]} (set it to repeat this run's random inputs)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(scope="session")
def seed() -> int:
    """This run's seed; captured output shows it where a test fails."""
    print(f"{SEED_VARIABLE}={os.environ[SEED_VARIABLE]}")
    return int(os.environ[SEED_VARIABLE])


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> np.random.Generator:
    """A random generator of this run's seed and of the test's own name."""
    return np.random.default_rng([seed, *request.node.name.encode()])


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """A torch generator of this run's seed."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def made() -> tuple[Path, Truth]:
    """The engine folder that tests share, and its truth."""
    from engine_folder import shared_engine_folder  # only now: it reads the run's seed when imported

    return shared_engine_folder()


@pytest.fixture
def truth(made: tuple[Path, Truth]) -> Truth:
    """The truth of the engine folder that tests share."""
    return made[1]
