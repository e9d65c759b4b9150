"""Work beside the main process's: its result, its failures, and that nothing of it stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
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


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a thread, which no signal ends")


def fail() -> None:
    raise ParityError("one line")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "said"), [(fail, "^one line$"), pytest.param(killed, "was killed", marks=linux)])
def test_what_it_raises_is_raised_where_it_is_waited_for(work: Callable[[], None], said: str) -> None:
    with beside(work) as result, pytest.raises(ExportError, match=said) as caught:
        result()
    assert isinstance(caught.value, ParityError) == (work is fail)


@linux
def test_leaving_early_ends_it(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def work() -> None:
        begun.touch()
        time.sleep(600)

    with pytest.raises(KeyboardInterrupt), beside(work):
        while not begun.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


@linux
def test_an_interrupt_is_left_to_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    # As a terminal sends it to every process of the build.
    with beside(lambda: (os.kill(os.getpid(), signal.SIGINT), "done")) as result:
        assert result() == (None, "done")
    assert capfd.readouterr().err == ""
