"""An interrupt ends a build wherever it comes, whatever other libraries make of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cmg_export.compile.artifacts
from cmg_export.__main__ import main
from cmg_export.errors import ExportError
from CMG_Ref import interrupts
from make_checkpoint import make_checkpoint
from python_process import run_python

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

NUMBERS = [(signal.SIGINT, 1), (signal.SIGTERM, 0)]
"""And the lines on stderr that each ends in."""


@pytest.fixture
def kept() -> Iterator[None]:
    """What signals do in this process is as it was afterwards."""
    before = {number: signal.getsignal(number) for number, _ in NUMBERS}
    yield
    interrupts.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "lines"), NUMBERS)
@pytest.mark.parametrize("made_of_it", [None, AttributeError("partly imported"), ExportError("cannot read it")])
def test_a_build_is_left_whatever_a_library_makes_of_the_interrupt(
    tmp_path: Path, seed: int, kept: None, monkeypatch: Patch, capsys: Capture, made_of_it: Any, number: int, lines: int
) -> None:
    """Nothing at all, an error that no one foresees, or one of bad input."""
    interrupts.note_interrupts()

    def trace(weights: Any) -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            if made_of_it:
                raise made_of_it from None

    monkeypatch.setattr(cmg_export.compile.artifacts, "trace", trace)
    made = make_checkpoint(tmp_path / "walker", seed=seed, num_joints=2, hidden_dim=8)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(made.path), "--out", str(tmp_path / "out")]) == 128 + number
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == lines, said.err
    assert "torchscript" in said.out and "parity" not in said.out
    assert sorted(tmp_path.rglob("*")) == before


THROUGH_EXEC = """
import runpy, signal
import cmg_export.compile.artifacts
cmg_export.compile.artifacts.trace = lambda weights: exec("signal.raise_signal(signal.SIGINT)", globals())
runpy.run_module("cmg_export", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_exit_status_is_ours_where_it_came_through_exec(tmp_path: Path, seed: int) -> None:
    """Of a string: then Python itself changes the status of a process that ends."""
    made = make_checkpoint(tmp_path / "walker", seed=seed, num_joints=2, hidden_dim=8)
    before = sorted(tmp_path.rglob("*"))
    done = run_python("-c", THROUGH_EXEC, str(made.path), "--out", str(tmp_path / "out"))
    assert done.returncode == 130 and len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_held_interrupts_come_at_the_end(kept: None) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.held() as waiting:
        assert not waiting()
        os.kill(os.getpid(), signal.SIGINT)
        assert waiting()
        raise ValueError("what the interrupt made of the work")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    # Without one nothing changes.
    with interrupts.held() as waiting:
        assert not waiting()
    interrupts.raise_if_received()
    with pytest.raises(ValueError, match="passed on"), interrupts.held():
        raise ValueError("passed on")
    # What a process ignores stays ignored, as a shell starts what it runs in the background.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.note_interrupts()
    with interrupts.held() as waiting:
        os.kill(os.getpid(), signal.SIGINT)
        assert not waiting()
    os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.received() is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_another_thread_has_none() -> None:
    def work() -> bool:
        with interrupts.held() as waiting:
            return waiting()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(work).result() is False
