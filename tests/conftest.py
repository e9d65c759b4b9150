"""Shared by all tests: one seed for everything random, printed at the top of the run, and the ``gpu`` marker."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest
import torch

SEED_VARIABLE = "CMG_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
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
