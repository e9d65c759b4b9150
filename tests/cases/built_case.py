"""An engine built by ``python -m cmg_export``, once for all tests of a process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from engine_folder import SEED
from make_checkpoint import MadeCheckpoint, make_checkpoint
from python_process import run_python

SMALL: dict[str, Any] = {"num_joints": 5, "hidden_dim": 24}

_kept: list[tempfile.TemporaryDirectory[str]] = []


class Built(NamedTuple):
    """A checkpoint, the engine built from it, and what was printed. Copy them before changing anything."""

    made: MadeCheckpoint
    out: Path
    printed: str

    @property
    def args(self) -> list[str]:
        return [str(self.made.path), "--data", str(self.made.data), "--out", str(self.out)]


@functools.cache
def built_engine() -> Built:
    """With the defaults of all options, from a checkpoint whose stats are in a YAML file."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    made = make_checkpoint(folder / "walker", "bare+yaml", seed=SEED, **SMALL)
    result = Built(made, folder / "engines" / "walker", "")
    done = run_python("-m", "cmg_export", *result.args)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return result._replace(printed=done.stdout)
