"""What every command line does with wrong options, interrupts while it starts, and a disk that is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_export import verify
from cmg_export.bench import __main__ as bench
from cmg_export.bench import kernels
from cmg_export.compile import plan_layers
from cmg_export.demo import __main__ as demo
from cmg_export.parity import __main__ as parity
from cmg_export.soak import __main__ as soak
from CMG_Ref import eval_cmg, make_bank, train
from CMG_Ref.command_line import LARGEST_SEED, require_seed, run
from CMG_Ref.dataloader import dataset
from CMG_Ref.files.torch_files import write_pt
from cmg_runtime import EngineError
from full_disk import largest_file
from training_case import make_data

HUGE = str(10**20)
LATE = 1 << 32
"""One more than the largest seed."""

REFUSED = (
    (train, f"--seed {LATE}", "seed is"),
    (train, "--learning-rate inf", "learning_rate is inf"),
    (train, "--balance 1e9", "balance is"),
    (train, "--noise inf", "noise is inf"),
    (train, "--num-layers 100000000", "num_layers is"),
    (train, f"--batch-size {HUGE}", "batch_size is"),
    (train, f"--phases {HUGE} 1", "phases are"),
    (train, "--phases 1 1 1 9999", "no sample has 9999 transitions"),
    (dataset, f". --seed {LATE}", "seed is"),
    (dataset, ". --workers 1000000", "workers is"),
    (dataset, ". --sequence-seconds 1e9", "sequence_seconds is"),
    (dataset, ". --speed-range 0.5 1e9", "speed_range is"),
    (dataset, f". --num-candidates {HUGE}", "num_candidates is"),
    (eval_cmg, "x.pt --num-frames 0", "--num-frames is 0"),
    (eval_cmg, f"x.pt --num-rollouts {HUGE}", "--num-rollouts is"),
    (eval_cmg, f"x.pt --seed {LATE}", "--seed is"),
    (make_bank, f"x.pt --num-states {HUGE}", "--num-states is"),
    (make_bank, "x.pt --seed -1", "--seed is -1"),
    (bench, f"--sizes 4 {HUGE}", "--sizes is"),
    (bench, f"--seed {LATE}", "--seed is"),
    (kernels, f"--rows {HUGE}", "--rows is"),
    (kernels, "--seed -1", "--seed is -1"),
    (bench, f"--num-envs {HUGE}", "--num-envs is"),
    (soak, f"--steps {HUGE}", "--steps is"),
    (soak, f"--seed {LATE}", "--seed is"),
    (demo, f"--seed {LATE}", "--seed is"),
    (parity, f". x.pt --seed {LATE}", "--seed is"),
    (verify, ". x.pt --num-envs 0", "--num-envs is 0"),
    (plan_layers, "x.onnx --target fast", "--target is"),
)


def name_of(module: object) -> str:
    return str(getattr(module, "__name__", "")).removesuffix(".__main__")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    write_pt(tmp_path / "cmg_training_data.pt", make_data(rng))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("module", "options", "message"), [*REFUSED])
def test_numbers_that_cannot_be_are_refused_before_any_work(
    module: object,
    options: str,
    message: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = (
        ["--hidden-dim", "8", "--num-experts", "2", "--device", "cpu", "--symmetric-part", "0"]
        if module is train
        else []
    )
    monkeypatch.setattr(sys, "argv", ["", *small, *options.split()])
    try:
        status = module.main()  # type: ignore[attr-defined]
    except SystemExit as end:  # of what is refused while it is parsed
        status = end.code
    said = capsys.readouterr()
    assert status == 2 and said.out == ""
    assert said.err.startswith(name_of(module) + ": ") and message in said.err and said.err.count("\n") == 1, said.err
    assert [path.name for path in workplace.iterdir()] == ["cmg_training_data.pt"]


@pytest.mark.parametrize("module", [train, dataset, eval_cmg, make_bank])
def test_a_wrong_option_is_one_line(
    module: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = name_of(module)
    for words in (["x", "--no-such-option"], ["x", "--seed", "one"]):
        monkeypatch.setattr(sys, "argv", ["", *words])
        with pytest.raises(SystemExit) as end:
            module.main()  # type: ignore[attr-defined]
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1 and said.isascii()
        assert said.startswith(f"{name}: ") and said.endswith(f"(see python -m {name} --help)\n")


def test_seeds_of_several_gpus_are_all_seeds() -> None:
    require_seed(LARGEST_SEED)
    require_seed(LARGEST_SEED - 7, processes=8)
    with pytest.raises(EngineError, match=f"each of 8 GPUs takes the next; expected 0 to {LARGEST_SEED - 7}"):
        require_seed(LARGEST_SEED - 6, processes=8)


@dataclass(frozen=True)
class Options:
    """Nothing to choose."""


def outcome_of(action: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = run(Options, lambda options: action(), [], "some.command")  # type: ignore[operator]
    return status, capsys.readouterr().err


@pytest.mark.parametrize("content", ["tensors", "text"])
def test_a_full_disk_is_one_line_that_names_the_file(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"weights": torch.zeros(5000)} if content == "tensors" else {"text": "1" * 20000}

    def write() -> None:
        with largest_file(1000):
            write_pt(tmp_path / "cmg.pt", data)

    status, said = outcome_of(write, capsys)
    assert status == 2 and said == f"some.command: [Errno 27] File too large: '{tmp_path / 'cmg.pt'}'\n"
    assert not list(tmp_path.iterdir())


def test_what_a_thread_could_not_write_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "curve")

    def begin() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    status, said = outcome_of(begin, capsys)
    assert status == 2 and said == "some.command: [Errno 28] No space left on device: 'curve'\n"


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("Failed to allocate 64 bytes on device 'cuda:0'")]
)
def test_short_memory_is_one_line_and_other_errors_are_not_hidden(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        raise error

    status, said = outcome_of(lambda: fail(error), capsys)
    assert status == 2 and str(error) in said and "memory" in said and said.count("\n") == 1
    with pytest.raises(RuntimeError, match="a fault of ours"):
        outcome_of(lambda: fail(RuntimeError("a fault of ours")), capsys)


STARTED = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("module", ["CMG_Ref.train", "cmg_export.soak", "cmg_export.demo", "cmg_gym.train"])
def test_an_interrupt_of_imports_is_one_line(module: str, tmp_path: Path) -> None:
    """It comes as torch is about to be imported."""
    (tmp_path / "sitecustomize.py").write_text(STARTED)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, f"{module}: interrupted\n", "")
