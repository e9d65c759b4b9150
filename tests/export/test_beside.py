"""Work beside the main process's: its result, its failures, and that nothing of it stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from cmg_export.beside import beside
from cmg_export.errors import ExportError, ParityError


def test_it_runs_elsewhere_and_shares_what_is_there(seed: int) -> None:
    matrix = torch.randn(50, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with beside(lambda: (os.getpid(), torch.get_num_threads(), matrix @ matrix.T)) as result:
        own = matrix @ matrix.T
        pid, threads, product = result()
        assert result()[0] == pid  # it can be asked for again
    torch.testing.assert_close(product, own)
    assert threads == 1
    assert (pid != os.getpid()) == (sys.platform == "linux")


def fail() -> None:
    raise ParityError("one line")


def test_what_it_raises_is_raised_where_it_is_waited_for() -> None:
    with beside(fail) as result, pytest.raises(ParityError, match="^one line$"):
        result()


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a thread, which no signal ends")


@linux
def test_a_killed_process_is_one_line() -> None:
    with beside(lambda: os.kill(os.getpid(), signal.SIGKILL)) as result, pytest.raises(ExportError, match="was killed"):
        result()


@linux
@pytest.mark.parametrize("error", [KeyboardInterrupt, ParityError])
def test_leaving_early_ends_it(tmp_path: Path, error: type[BaseException]) -> None:
    begun = tmp_path / "begun"

    def work() -> None:
        begun.touch()
        time.sleep(600)

    with pytest.raises(error), beside(work):
        while not begun.exists():
            time.sleep(0.01)
        raise error
    assert not multiprocessing.active_children()


@linux
def test_an_interrupt_is_left_to_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> str:
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal sends it to every process of the build
        return "done"

    with beside(work) as result:
        assert result() == "done"
    assert capfd.readouterr().err == ""
