"""Shared by all tests: one seed for everything random, printed at the top of the run, and the ``gpu`` marker."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from CMG_Ref.mujoco_import import OFF, choose_renderer

if TYPE_CHECKING:
    from engine_folder import Truth

SEED_VARIABLE = "CMG_TEST_SEED"

NO_GPU = "needs a CUDA device: `pytest -m gpu` on a machine with one"
NO_RENDERER = "MuJoCo cannot draw here: apt-get install libosmesa6"


def pytest_configure(config: pytest.Config) -> None:
    # Before any test imports mujoco, for all tests of the process: some draw, and others read models before them.
    choose_renderer(("osmesa",))
    with contextlib.suppress(ImportError):
        importlib.import_module("mujoco")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(SEED_VARIABLE, str(secrets.randbelow(2**31)))  # worker processes inherit it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped: here all of them should run")


def pytest_report_header(config: pytest.Config) -> str:
    return f"{SEED_VARIABLE}={os.environ[SEED_VARIABLE]} (set it to repeat this run's random inputs)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {} if torch.cuda.is_available() else {"gpu": NO_GPU}
    if os.environ["MUJOCO_GL"] in OFF:
        missing["draws"] = NO_RENDERER
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def skip_reasons(reporter: Any) -> Counter[str]:
    """Why tests were skipped, and how many for each reason; of all worker processes."""
    reports = reporter.stats.get("skipped", [])
    return Counter(" ".join(report.longrepr[2].split()).replace("Skipped: ", "", 1) for report in reports)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    strict = reporter is not None and session.config.getoption("--no-skips")
    if strict and session.exitstatus == pytest.ExitCode.OK and skip_reasons(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Reasons say what to do, so that those tests run too."""
    reasons = skip_reasons(terminalreporter)
    if reasons:
        terminalreporter.section("not run here")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} skipped: {reason}")


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
