"""An interrupt ends a build wherever it comes, whatever other libraries make of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from CMG_Ref import interrupts
from make_checkpoint import make_checkpoint

BUILD = """
import runpy, signal, sys
import cmg_export.compile.artifacts

def come():
    signal.raise_signal(signal.NUMBER)

def swallowed():
    try:
        come()
    except BaseException:
        pass  # and what is traced is of no use: None

def another_error():
    try:
        come()
    finally:
        raise AttributeError("partially initialized module")

def foreseen_error():
    from cmg_export.errors import ExportError
    try:
        come()
    finally:
        raise ExportError("cannot read what was being read")

def through_exec():
    exec("come()", globals())

cmg_export.compile.artifacts.trace = lambda weights: WAY()
runpy.run_module("cmg_export", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("number", "lines"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("way", ["swallowed", "another_error", "foreseen_error", "through_exec"])
def test_a_build_is_left(tmp_path: Path, seed: int, way: str, number: signal.Signals, lines: int) -> None:
    made = make_checkpoint(tmp_path / "walker", "bare+yaml", seed=seed, num_joints=2, hidden_dim=8)
    before = sorted(tmp_path.rglob("*"))
    script = BUILD.replace("WAY", way).replace("NUMBER", number.name)
    command = [sys.executable, "-c", script, str(made.path), "--data", str(made.data), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.splitlines()) == lines, done.stderr
    assert "torchscript" in done.stdout and "parity" not in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_held_interrupts_come_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.held() as waiting:
        assert not waiting()
        os.kill(os.getpid(), signal.SIGINT)
        assert waiting()
        raise ValueError("what the interrupt made of the work")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_one_nothing_changes() -> None:
    with interrupts.held() as waiting:
        assert not waiting()
    interrupts.raise_if_received()
    with pytest.raises(ValueError, match="passed on"), interrupts.held():
        raise ValueError("passed on")


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    """As a shell starts what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    term = signal.getsignal(signal.SIGTERM)
    try:
        interrupts.note_interrupts()
        with interrupts.held() as waiting:
            os.kill(os.getpid(), signal.SIGINT)
            assert not waiting()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received() is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, term)


def test_another_thread_has_none() -> None:
    said: list[bool] = []

    def work() -> None:
        with interrupts.held() as waiting:
            said.append(waiting())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]
