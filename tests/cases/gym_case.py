"""The training environment on a small scale: an engine of the bundled checkpoint, few robots, few trajectories."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg

from cmg_export.compile.onnx import export_onnx
from cmg_export.compile.weights import one_product_weights
from cmg_export.parity import Truth
from cmg_export.read.checkpoint import load_checkpoint
from cmg_export.read.joints import resolve_joints
from cmg_gym.command_line import POLICIES, reference_cfg
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.mdp.reference_command import ReferenceCommand, reference
from cmg_gym.mdp.start_states import StartStates
from cmg_gym.robots import robot_of
from cmg_runtime import Engine, read_manifest
from cmg_runtime.folder.manifest import Artifact, FileEntry, file_sha256
from engine_folder import PASSED, bare_manifest

RAMP_FRAMES, NUM_TRAJECTORIES = 25, 32
CHECKPOINT = Path(__file__).resolve().parents[2] / "CMG_Ref" / "runs" / "g1_all" / "cmg_final.pt"
BUNDLED_POLICY = POLICIES / "g1_all"

_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def g1_engine() -> tuple[Path, Truth]:
    """An engine folder of the bundled checkpoint by :func:`make_engine`, once in a process. Copy it before changing
    anything."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    return folder, make_engine(folder, CHECKPOINT)


@functools.cache
def deployable_engine() -> Path:
    """The same with the ONNX file that a robot runs, once in a process."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name) / "engine"
    shutil.copytree(g1_engine()[0], folder)
    manifest = read_manifest(folder)
    with np.load(folder / "weights.npz") as weights:
        export_onnx(dict(weights), "fp32", manifest, folder / "cmg_fp32.onnx")
    sha256 = file_sha256(folder / "cmg_fp32.onnx")
    onnx = Artifact("onnx_fp32", "onnx", "fp32", "cmg_fp32.onnx", sha256, {"device": "any"}, parity=PASSED)
    whole = dataclasses.replace(manifest, artifacts=(*manifest.artifacts, onnx))
    (folder / "manifest.json").write_text(whole.to_json())
    return folder


def make_engine(folder: Path, checkpoint_file: Path, robot: Path | None = None) -> Truth:
    """Write an engine folder, float32 for torch and for our kernels, that says it passed parity; returns its truth.

    Args:
        checkpoint_file: with a bank beside it.
        robot: the robot's MJCF, of another one than the G1.
    """
    checkpoint = load_checkpoint(checkpoint_file)
    joints = resolve_joints(checkpoint, robot)
    assert joints.chain is not None and checkpoint.bank is not None
    np.savez(folder / "weights.npz", **one_product_weights(checkpoint))  # pyright: ignore[reportArgumentType]
    np.savez(folder / "bank.npz", motion=checkpoint.bank)
    sha256 = file_sha256(folder / "weights.npz")
    artifacts = [
        Artifact(f"{backend}_fp32", backend, "fp32", "weights.npz", sha256, target, parity=PASSED)
        for backend, target in (("torch", {"device": "any"}), ("fused", {"device": "cuda"}))
    ]
    more: dict[str, Any] = {"command_range": checkpoint.card.command_range} if checkpoint.card.command_range else {}
    manifest = bare_manifest(
        checkpoint.sizes,
        checkpoint.stats,
        source={"file": checkpoint_file.name, "sha256": checkpoint.sha256["checkpoint"]},
        joint_names=joints.names,
        default_dof_pos=checkpoint.card.default_dof_pos,
        robot=joints.chain,
        bank=FileEntry("bank.npz", file_sha256(folder / "bank.npz")),
        artifacts=tuple(artifacts),
        **more,
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return Truth.from_checkpoint(checkpoint)


def refuse_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no command line gets as far as to an environment, a training or an export."""

    def build(*arguments: object) -> None:
        raise AssertionError("an environment is built")

    for place in ("command_line.make_env", "export_checkpoint.export_policy", "train.launch"):
        monkeypatch.setattr(f"cmg_gym.{place}", build)
    monkeypatch.setattr("cmg_export.bench.training_speed.make_env", build)


def few_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments that command lines build start from as few trajectories as ours: a thousand take ten seconds."""

    def few(engine: Engine, _: int, *others: int) -> StartStates:
        return StartStates(engine, NUM_TRAJECTORIES, *others)

    monkeypatch.setattr("cmg_gym.mdp.reference_command.StartStates", few)


def make_env(
    engine: Path, num_envs: int, seed: int, *, play: bool, gravity: bool = True, falls: bool = False,
    delay_steps: int = 0, device: str = "cpu", **reference: Any,
) -> ManagerBasedRlEnv:  # fmt: skip
    """The environment of :func:`make_cfg`, as mjlab makes it."""
    cfg = make_cfg(
        engine, num_envs, seed, play=play, gravity=gravity, falls=falls, delay_steps=delay_steps, **reference
    )
    return ManagerBasedRlEnv(cfg, device)


def make_cfg(
    engine: Path, num_envs: int, seed: int, *, play: bool, gravity: bool = True, falls: bool = False,
    delay_steps: int = 0, **reference: Any,
) -> ManagerBasedRlEnvCfg:  # fmt: skip
    """The task's configuration, for the robot of the engine.

    Args:
        play: without noise, randomisation and curriculum.
        gravity: False lets the robots float half a metre above the ground.
        falls: end an episode of ``play`` too.
        delay_steps: of joint targets, at most.
        reference: changes to the reference command's configuration.
    """
    cfg = make_env_cfg(play, delay_steps, robot_of(read_manifest(engine)))
    cfg.scene.num_envs, cfg.seed = num_envs, seed % 2**31
    command = reference_cfg(cfg)
    command.engine, command.num_trajectories = str(engine), NUM_TRAJECTORIES
    for name, value in reference.items():
        assert hasattr(command, name)
        setattr(command, name, value)
    if play and not falls:
        cfg.terminations = {}
    if not gravity:
        cfg.sim.mujoco.gravity = (0.0, 0.0, 0.0)
        command.start_height = 0.5
    return dataclasses.replace(cfg)


def zero(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[N, J] no action."""
    return torch.zeros(env.num_envs, env.action_manager.total_action_dim, device=env.device)


def current_motion(term: ReferenceCommand) -> torch.Tensor:
    """[N, 2 J] the current frame."""
    return torch.cat([term.frames.dof_pos[:, 0], term.frames.dof_vel[:, 0]], dim=1).clone()


def random_commands(term: ReferenceCommand, n: int, generator: torch.Generator) -> torch.Tensor:
    """[n, 3] from the whole command range."""
    low, high = term.engine.command_range
    return low + (high - low) * torch.rand(n, 3, generator=generator).to(low.device)


def follow_rollout(env: ManagerBasedRlEnv, truth: Truth, generator: torch.Generator) -> None:
    """Step the environment under one command and then another, beside a plain rollout in float64."""
    term = reference(env)
    first, second = (random_commands(term, env.num_envs, generator) for _ in range(2))
    term.hold(first)
    env.reset()
    window = term.frames.dof_pos[:, term.places((2, 10))].clone()
    expected = current_motion(term).cpu().double()
    for frame in range(1, 31):
        expected = truth.step(expected, first.cpu())
        env.step(zero(env))
        torch.testing.assert_close(current_motion(term).cpu().double(), expected, atol=2e-3, rtol=2e-3)
        if frame in (2, 10):
            torch.testing.assert_close(window[:, (2, 10).index(frame)], term.frames.dof_pos[:, 0], atol=1e-4, rtol=1e-4)
    term.hold(second)
    env.step(zero(env))
    expected = truth.step(expected, first.cpu())  # the new command's ramp begins at the frame that this step leads to
    for frame in range(1, 31):
        in_force = torch.lerp(first, second, min(frame / RAMP_FRAMES, 1.0))
        expected = truth.step(expected, in_force.cpu())
        env.step(zero(env))
        torch.testing.assert_close(term.command, in_force, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(current_motion(term).cpu().double(), expected, atol=5e-3, rtol=5e-3)
