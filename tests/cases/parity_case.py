"""An engine folder with its reference and its parity inputs, made once for all tests of parity."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from cmg_export.parity import ParityReport, Truth
from cmg_export.parity.states import Inputs, make_inputs
from cmg_export.parity.truth import draw_course
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.folder.manifest import Manifest, read_manifest
from engine_folder import SEED, make_engine_folder
from engine_folder import Truth as IndependentTruth

CPU = torch.device("cpu")
JOINTS = 5

_kept: list[tempfile.TemporaryDirectory[str]] = []


@dataclasses.dataclass(frozen=True)
class Case:
    """An engine folder, what it was made from and the inputs that parity would use."""

    folder: Path
    checkpoint: Path
    manifest: Manifest
    truth: Truth
    independent: IndependentTruth
    inputs: Inputs


@functools.cache
def shared_case() -> Case:
    """Odd sizes, fresh weights, calm rollouts. Copy the folder before changing anything in it."""
    print("CMG_TEST_SEED =", SEED)
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name) / "engine"
    independent = make_engine_folder(folder, SEED, num_joints=JOINTS, hidden_dim=37, num_experts=3, gain=0.5)
    checkpoint = folder.parent / "checkpoint" / "cmg_final.pt"
    shutil.move(folder / "checkpoint", checkpoint.parent)
    manifest = read_manifest(folder)
    truth = Truth.from_checkpoint(load_checkpoint(checkpoint))
    bank = np.load(folder / "bank.npz")["motion"]
    rng = np.random.default_rng(SEED)
    inputs = make_inputs(truth, draw_course(bank, manifest.command_range, rng), manifest.command_range, rng)
    return Case(folder, checkpoint, manifest, truth, independent, inputs)


def statuses(report: ParityReport) -> dict[str, str]:
    return {artifact.name: artifact.status for artifact in report.artifacts}


Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""``step(motion, command, out)``."""


def backend_of(step: Step) -> Any:
    """A backend that does what ``step(motion, command, out)`` does."""
    return SimpleNamespace(step=step)


def exact(case: Case) -> Step:
    """The step of an artifact without fault, from the tests' own model."""

    def step(motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(case.independent.step(motion, command))

    return step
