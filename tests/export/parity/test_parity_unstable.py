"""Parity of checkpoints whose own rollouts no finite precision can follow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_export.compile.weights import one_product_weights
from cmg_export.errors import ParityError
from cmg_export.parity import ParityReport, Truth, format_table, run_parity
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.module import CMG
from cmg_runtime.folder.manifest import Artifact, CommandRange, FileEntry, Manifest, file_sha256
from engine_folder import SEED
from make_checkpoint import make_stats, save_checkpoint
from parity_case import statuses


def torch_engine(folder: Path, state_dict: dict[str, torch.Tensor], bank: np.ndarray) -> tuple[Manifest, Truth]:
    """An engine folder with the ``torch`` fp32 artifact alone. ``bank`` is in normalised units."""
    joints = bank.shape[1] // 2
    stats = make_stats(joints, 3, SEED)
    path, _ = save_checkpoint(folder / "checkpoint", state_dict, stats, "full")
    checkpoint = load_checkpoint(path)
    np.savez(folder / "weights.npz", **one_product_weights(checkpoint))  # pyright: ignore[reportArgumentType]
    motion = (bank * stats["motion_std"] + stats["motion_mean"]).astype(np.float32)
    np.savez(folder / "bank.npz", motion=motion)
    manifest = Manifest(
        name="unstable",
        source={"sha256": file_sha256(path)},
        sizes=checkpoint.sizes,
        fps=50.0,
        joint_names=tuple(f"joint_{i}" for i in range(joints)),
        default_dof_pos=None,
        stats=checkpoint.stats,
        command_range=CommandRange(checkpoint.stats.command_min, checkpoint.stats.command_max, "stats"),
        robot=None,
        bank=FileEntry("bank.npz", file_sha256(folder / "bank.npz")),
        artifacts=(Artifact("torch_fp32", "torch", "fp32", "weights.npz", file_sha256(folder / "weights.npz")),),
    )
    return manifest, Truth.from_checkpoint(checkpoint)


def tent_map(width: int, slope: float = 1.8, sharpness: float = 50.0) -> dict[str, torch.Tensor]:
    """A network that maps each of its values x in [0, 1] to about slope * min(x, 1 - x): bounded, and chaotic."""
    state = zeros(CMG(width, 3, 2 * width, num_experts=2, num_layers=2))
    eye = torch.eye(width)
    for expert in range(2):
        # elu(k x) / k is nearly relu(x) for a large k; slope * (relu(x) - 2 relu(x - 1/2)) is the tent.
        state[f"layers.0.expert_weights.{expert}"][:width] = torch.cat([eye, eye], 1) * sharpness
        state[f"layers.0.expert_biases.{expert}"][width:] = -sharpness / 2
        state[f"layers.1.expert_weights.{expert}"][:] = torch.cat([eye, -2 * eye]) * slope / sharpness
    return state


def zeros(model: CMG) -> dict[str, torch.Tensor]:
    """A state dict of the model's shapes, all zero."""
    return {name: torch.zeros_like(parameter) for name, parameter in model.state_dict().items()}


def test_a_chaotic_checkpoint_is_reported_not_gated(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    manifest, truth = torch_engine(tmp_path, tent_map(6), rng.uniform(0.1, 0.8, (300, 6)))
    report = run_parity(tmp_path, manifest, truth, seed=SEED)
    result = report.artifacts[0]
    assert not report.stability.stable and report.stability.diverged == 0
    assert (report.stability.growth_median or 0) > 1e4
    one, short = result.gates
    assert one.gated and not short.gated and short.passed
    assert short.needs > short.allowed  # it would have failed
    assert result.status == "passed" and result.reason.startswith("100 frames are reported, not gated: a 1e-6 nudge")
    assert "\n\n100 frames are reported, not gated: a 1e-6 nudge grows" in format_table(report)
    # One step is gated all the same.
    with np.load(tmp_path / "weights.npz") as file:
        weights = dict(file)
    weights["layers.1.weight"] = weights["layers.1.weight"] * np.float32(1.01)
    np.savez(tmp_path / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
    artifact = dataclasses.replace(manifest.artifacts[0], sha256=file_sha256(tmp_path / "weights.npz"))
    assert statuses(run_parity(tmp_path, manifest, truth, [artifact])) == {"torch_fp32": "failed"}


def test_diverging_rollouts_are_left_out_and_counted(tmp_path: Path) -> None:
    state = zeros(CMG(6, 3, 16, num_experts=2, num_layers=1))
    for expert in range(2):
        state[f"layers.0.expert_weights.{expert}"][:6] = 1.5 * torch.eye(6)
    manifest, truth = torch_engine(tmp_path, state, np.full((1, 6), 0.3))
    report = run_parity(tmp_path, manifest, truth, seed=SEED)
    assert report.stability.diverged == 256 and not report.stability.stable
    assert report.num_visited < 4096 and report.num_visited + report.num_random == 8192
    result = report.artifacts[0]
    assert (
        result.status == "passed" and result.rollouts == () and "256 of 256 float64 rollouts diverge" in result.reason
    )
    assert ParityReport.from_json(report.to_json()) == report and " - " in format_table(report)


def test_a_network_that_only_gives_its_mean_pose_is_refused(tmp_path: Path) -> None:
    state = zeros(CMG(6, 3, 16, num_experts=2, num_layers=2))
    manifest, truth = torch_engine(tmp_path, state, np.full((1, 6), 0.3))
    with pytest.raises(ParityError, match="exactly its mean pose"):
        run_parity(tmp_path, manifest, truth)
