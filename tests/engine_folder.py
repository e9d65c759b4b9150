"""A small engine folder for the runtime's tests, and an independent float64 model of what it should compute."""

from __future__ import annotations

import functools
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmg_export.checkpoint import load_checkpoint
from cmg_export.graph import one_product_weights
from cmg_export.onnx_graph import export_onnx
from cmg_export.torchscript import export_torchscript
from CMG_Ref.module import CMG
from cmg_runtime.manifest import Artifact, CommandRange, FileEntry, Manifest, file_sha256
from make_checkpoint import make_checkpoint

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}
"""Relative, one step, in normalised units."""

SEED = int(os.environ["CMG_TEST_SEED"])
"""This run's, set and printed by conftest.py."""

_kept: list[tempfile.TemporaryDirectory[str]] = []

PASSED = {"status": "passed", "reason": "made by a test"}


@dataclass
class Truth:
    """One frame of the reference network in float64, physical units in and out."""

    model: CMG
    stats: dict[str, Any]

    def __post_init__(self) -> None:
        self.model = self.model.double()
        self.mean, self.std, self.low, self.high = (
            torch.tensor(self.stats[key], dtype=torch.float64)
            for key in ("motion_mean", "motion_std", "command_min", "command_max")
        )

    @torch.no_grad()
    def step(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        """[N, motion_dim], [N, command_dim] of any type and device -> [N, motion_dim] float64 on the CPU."""
        x = (motion.double().cpu() - self.mean) / self.std
        c = 2 * (command.double().cpu() - self.low) / (self.high - self.low) - 1
        return self.model(x, c) * self.std + self.mean

    def error(self, motion: torch.Tensor, truth: torch.Tensor) -> float:
        """||a - b|| / ||b|| in normalised units."""
        a, b = ((m.double().cpu() - self.mean) / self.std for m in (motion, truth))
        return float((a - b).norm() / b.norm())

    def states(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """[n, motion_dim] float32: random states, spread as the stats say."""
        normal = torch.randn(n, len(self.mean), dtype=torch.float64, generator=generator)
        return (self.mean + self.std * normal).float()

    def commands(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """[n, command_dim] float32: random commands within the range."""
        return (self.low + (self.high - self.low) * torch.rand(n, len(self.low), generator=generator)).float()


@functools.cache
def shared_engine_folder() -> tuple[Path, Truth]:
    """A folder of odd sizes, made once for the whole run. Copy it before changing anything."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    return folder, make_engine_folder(folder, SEED, num_joints=5, hidden_dim=37, num_experts=3, num_layers=3)


def make_engine_folder(folder: Path, seed: int, precisions: tuple[str, ...] = ("fp32", "fp16"), **sizes: Any) -> Truth:
    """Write an engine folder with every backend and a bank of 40 states; returns its truth.

    No parity was run: every artifact says that it passed.
    """
    made = make_checkpoint(folder / "checkpoint", seed=seed, **sizes)
    truth = Truth(made.model, made.stats)
    bank = truth.states(40, torch.Generator().manual_seed(seed))
    np.savez(folder / "bank.npz", motion=bank.numpy())
    checkpoint = load_checkpoint(made.path)
    weights = one_product_weights(checkpoint)
    np.savez(folder / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
    bare = Manifest(
        name="test_engine",
        source={"file": made.path.name, "sha256": file_sha256(made.path)},
        sizes=checkpoint.sizes,
        fps=50.0,
        joint_names=tuple(f"joint_{i}" for i in range(checkpoint.sizes.num_joints)),
        default_dof_pos=None,
        stats=checkpoint.stats,
        command_range=CommandRange(checkpoint.stats.command_min, checkpoint.stats.command_max, "stats"),
        robot=None,
        bank=FileEntry("bank.npz", file_sha256(folder / "bank.npz")),
        artifacts=(),
    )
    artifacts = []
    for precision in precisions:
        export_onnx(weights, precision, bare, folder / f"cmg_{precision}.onnx")
        export_torchscript(weights, precision, folder / f"cmg_{precision}.ts")
        files = {"torch": "weights.npz", "torchscript": f"cmg_{precision}.ts", "onnx": f"cmg_{precision}.onnx"}
        for backend, file in files.items():
            sha256 = file_sha256(folder / file)
            artifacts.append(Artifact(f"{backend}_{precision}", backend, precision, file, sha256, parity=dict(PASSED)))
    (folder / "manifest.json").write_text(replace(bare, artifacts=tuple(artifacts)).to_json())
    return truth
