"""The training environment on a small scale: an engine of the bundled checkpoint, few robots, few trajectories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from mjlab.envs import ManagerBasedRlEnv

from cmg_export.checkpoint import load_checkpoint
from cmg_export.graph import one_product_weights
from cmg_export.joints import resolve_joints
from cmg_export.parity import Truth
from cmg_gym.command_line import reference_cfg
from cmg_gym.env_cfg import make_env_cfg
from cmg_runtime.manifest import Artifact, CommandRange, FileEntry, Manifest, file_sha256

CHECKPOINT = Path(__file__).resolve().parents[1] / "CMG_Ref" / "runs" / "g1_neutral" / "cmg_final.pt"


def make_g1_engine(folder: Path) -> Truth:
    """Write an engine folder of the bundled checkpoint with one artifact, torch in float32; returns its truth.

    The artifact says that it passed parity; none was run.
    """
    checkpoint = load_checkpoint(CHECKPOINT)
    joints = resolve_joints(checkpoint, None)
    assert joints.chain is not None and checkpoint.bank is not None
    np.savez(folder / "weights.npz", **one_product_weights(checkpoint))  # pyright: ignore[reportArgumentType]
    np.savez(folder / "bank.npz", motion=checkpoint.bank)
    stats = checkpoint.stats
    weights, passed = file_sha256(folder / "weights.npz"), {"status": "passed", "reason": "made by a test"}
    manifest = Manifest(
        name="g1_test",
        source={"file": CHECKPOINT.name, "sha256": checkpoint.sha256["checkpoint"]},
        sizes=checkpoint.sizes,
        fps=50.0,
        joint_names=joints.names,
        default_dof_pos=checkpoint.card.default_dof_pos,
        stats=stats,
        command_range=checkpoint.card.command_range or CommandRange(stats.command_min, stats.command_max, "stats"),
        robot=joints.chain,
        bank=FileEntry("bank.npz", file_sha256(folder / "bank.npz")),
        artifacts=(Artifact("torch_fp32", "torch", "fp32", "weights.npz", weights, parity=passed),),
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return Truth.from_checkpoint(checkpoint)


def make_env(
    engine: Path,
    num_envs: int,
    seed: int,
    play: bool,
    gravity: bool = True,
    falls: bool = False,
    delay_steps: int = 0,
    **reference: Any,
) -> ManagerBasedRlEnv:
    """The task's environment on the CPU.

    Args:
        play: without noise, randomisation and curriculum.
        gravity: False lets the robots float half a metre above the ground.
        falls: end an episode of ``play`` too.
        delay_steps: of joint targets, at most.
        reference: changes to the reference command's configuration.
    """
    cfg = make_env_cfg(play, delay_steps)
    cfg.scene.num_envs, cfg.seed = num_envs, seed % 2**31
    command = reference_cfg(cfg)
    command.engine, command.num_trajectories = str(engine), 32
    for name, value in reference.items():
        assert hasattr(command, name)
        setattr(command, name, value)
    if play and not falls:
        cfg.terminations = {}
    if not gravity:
        cfg.sim.mujoco.gravity = (0.0, 0.0, 0.0)
        command.start_height = 0.5
    return ManagerBasedRlEnv(dataclasses.replace(cfg), "cpu")
