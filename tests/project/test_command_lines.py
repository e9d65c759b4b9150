"""What every command line does with wrong options, interrupts while it starts, and a disk that is full."""

from __future__ import annotations

import errno
import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.command_line import LARGEST_SEED, require_seed, run
from CMG_Ref.files.torch_files import write_pt
from cmg_runtime import EngineError
from full_disk import largest_file
from python_process import run_python
from training_case import make_data

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

HUGE = str(10**20)
LATE = 1 << 32
"""One more than the largest seed."""

WRONG = {
    "CMG_Ref.train": (f"--seed {LATE}", "--learning-rate inf", "--num-layers 100000000", f"--batch-size {HUGE}"),
    "CMG_Ref.dataloader.dataset": (
        f". --seed {LATE}",
        ". --workers 1000000",
        ". --speed-range 0.5 1e9",
        f". --num-candidates {HUGE}",
    ),
    "CMG_Ref.dataloader.retarget": (
        "x.bvh --rate 0",
        "x.bvh --rate nan",
        "x.bvh --start -1",
        "x.bvh --start 3 --end 2",
    ),
    "CMG_Ref.eval_cmg": ("x.pt --num-frames 0", f"x.pt --num-rollouts {HUGE}", f"x.pt --seed {LATE}"),
    "CMG_Ref.make_bank": (f"x.pt --num-states {HUGE}", "x.pt --seed -1"),
    "cmg_export.bench": (f"--sizes 4 {HUGE}", f"--num-envs {HUGE}", f"--seed {LATE}"),
    "cmg_export.bench.kernels": (f"--rows {HUGE}", "--seed -1"),
    "cmg_export.soak": (f"--steps {HUGE}", f"--seed {LATE}"),
    "cmg_export.demo": (f"--seed {LATE}",),
    "cmg_export.parity": (f". x.pt --seed {LATE}",),
    "cmg_export.verify": (". x.pt --num-envs 0",),
    "cmg_export.plan_layers": ("x.onnx --target fast",),
}
"""Each names its wrong option first."""

REFUSED = (
    *(
        (module, words, words[words.index("--") :].split()[0][2:] + " is ")
        for module in WRONG
        for words in WRONG[module]
    ),
    ("CMG_Ref.train", f"--phases {HUGE} 1", "phases are"),
    ("CMG_Ref.train", "--phases 1 1 1 9999", "no sample has 9999 transitions"),
    *(
        (module, f"x {words}", f" (see python -m {module} --help)\n")
        for module in ("CMG_Ref.train", "CMG_Ref.dataloader.dataset", "CMG_Ref.eval_cmg", "CMG_Ref.make_bank")
        for words in ("--no-such-option", "--seed one")
    ),
)


@pytest.mark.parametrize(("module", "options", "said"), REFUSED)
def test_options_that_cannot_be_are_refused_in_one_line_before_any_work(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: Patch, capsys: Capture, module: str, options: str, said: str
) -> None:
    found = importlib.import_module(module)
    main = importlib.import_module(f"{module}.__main__").main if hasattr(found, "__path__") else found.main
    write_pt(tmp_path / "cmg_training_data.pt", make_data(rng))
    monkeypatch.chdir(tmp_path)
    small = "--hidden-dim 8 --num-experts 2 --device cpu --symmetric-part 0" if module == "CMG_Ref.train" else ""
    monkeypatch.setattr(sys, "argv", ["", *small.split(), *options.split()])
    try:
        status = main()
    except SystemExit as end:  # of what is refused while it is parsed
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert err.startswith(f"{module}: ") and err.count("\n") == 1, err
    assert said in err or said in err.replace("_", "-")
    assert err.isascii() and [path.name for path in tmp_path.iterdir()] == ["cmg_training_data.pt"]


def test_seeds_of_several_gpus_are_all_seeds() -> None:
    require_seed(LARGEST_SEED)
    require_seed(LARGEST_SEED - 7, processes=8)
    with pytest.raises(EngineError, match=f"each of 8 GPUs takes the next; expected 0 to {LARGEST_SEED - 7}"):
        require_seed(LARGEST_SEED - 6, processes=8)


@dataclass(frozen=True)
class Options:
    """Nothing to choose."""


def fail(error: Exception) -> None:
    raise error


def write_beyond_the_disk(content: Any) -> None:
    with largest_file(1000):
        write_pt(Path("cmg.pt"), {"content": content})


def write_in_a_thread() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "curve")
    thread = threading.Thread(target=fail, args=(error,))
    thread.start()
    thread.join()


TOO_LARGE, NO_ROOM = "[Errno 27] File too large: 'cmg.pt'\n", "Failed to allocate 64 bytes on device 'cuda:0'"
FAILURES: dict[str, tuple[Callable[[], None], str]] = {
    "tensors on a full disk": (lambda: write_beyond_the_disk(torch.zeros(5000)), TOO_LARGE),
    "text on a full disk": (lambda: write_beyond_the_disk("1" * 20000), TOO_LARGE),
    "a thread's write": (write_in_a_thread, "[Errno 28] No space left on device: 'curve'\n"),
    "short memory": (lambda: fail(MemoryError("no room")), "memory is short (no room); "),
    "a GPU's short memory": (lambda: fail(RuntimeError(NO_ROOM)), f"memory is short ({NO_ROOM}); "),
}


def test_what_a_machine_lacks_is_one_line(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    """And a fault of ours is not hidden."""
    monkeypatch.chdir(tmp_path)
    for action, said in FAILURES.values():
        assert run(Options, lambda _, action=action: action(), [], "some.command") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"some.command: {said}") and err.count("\n") == 1, err
        assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run(Options, lambda _: fail(RuntimeError("a fault of ours")), [], "some.command")


INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("module", ["CMG_Ref.train", "cmg_export.soak", "cmg_export.demo", "cmg_gym.train"])
def test_an_interrupt_of_imports_is_one_line(module: str, tmp_path: Path, monkeypatch: Patch) -> None:
    """It comes as torch is about to be imported."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    done = run_python("-m", module, "--help")
    assert (done.returncode, done.stderr, done.stdout) == (130, f"{module}: interrupted\n", "")
