"""A small engine folder for the runtime's tests, and an independent float64 model of what it should compute."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.module import CMG
from cmg_runtime import Engine, backends
from cmg_runtime.folder.manifest import (
    Artifact,
    CommandRange,
    FileEntry,
    Manifest,
    Sizes,
    Stats,
    file_sha256,
    read_manifest,
)
from cmg_runtime.folder.robot import KinematicChain

CAN_EXPORT = "CMG_TEST_FOLDERS" not in os.environ
"""Whether engine folders are made here. Where the exporter does not run they are made before: see made_before.py."""

if CAN_EXPORT:
    from cmg_export.compile.onnx import export_onnx
    from cmg_export.compile.torchscript import export_torchscript
    from cmg_export.compile.weights import one_product_weights
    from cmg_export.read.checkpoint import load_checkpoint
    from cmg_export.read.robot import RobotModel
    from make_checkpoint import make_checkpoint
    from random_robot import random_robot

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}
"""Relative, one step, in normalised units."""

BACKENDS = tuple(row.name for row in backends.BACKENDS.values() if "cpu" in row.order)
"""Those that run everywhere."""

SEED = int(os.environ["CMG_TEST_SEED"])
"""This run's, set and printed by conftest.py."""

_kept: list[tempfile.TemporaryDirectory[str]] = []

COMPILED = ("torchscript", "onnx")
"""Backends whose artifacts take seconds to make."""

PASSED = {"status": "passed", "reason": "made by a test"}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, a torch operation that makes the host wait for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


def state(engine: Engine) -> torch.Tensor:
    """[num_envs, motion_dim]: the engine's current motion states, copied."""
    return torch.cat([engine.dof_pos, engine.dof_vel], dim=1)


@functools.lru_cache(maxsize=None)
def shared_engine_folder() -> tuple[Path, Truth]:
    """A folder of odd sizes, made once for the whole run. Copy it before changing anything."""
    if not CAN_EXPORT:
        return made_before("shared")
    folder = _kept_folder()
    # With this gain no error grows: in 120 frames at most 1.8-fold with 150 seeds, and 19-fold with a gain of 0.8.
    return folder, make_engine_folder(folder, SEED, num_joints=5, hidden_dim=37, num_experts=3, num_layers=3, gain=0.6)


def renamed_copy(folder: Path, name: str) -> Path:
    """A copy of the shared engine in ``folder``, under another name."""
    shutil.copytree(shared_engine_folder()[0], folder, ignore=shutil.ignore_patterns("checkpoint"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"test_engine"', f'"{name}"'))
    return folder


@functools.lru_cache(maxsize=None)
def shared_robot_folder() -> tuple[Path, Truth, Path]:
    """As :func:`shared_engine_folder`, but with a random robot; also returns the robot's MJCF file."""
    folder, (shared, truth) = _kept_folder(), shared_engine_folder()
    shutil.copytree(shared, folder, dirs_exist_ok=True)
    robot = random_robot(np.random.default_rng(SEED), folder / "robot.xml", num_bodies=6)
    chain = RobotModel(robot.path).chain(robot.joint_names)
    # It stands on all its bodies but the root, so that its height changes with the joints whatever the tree.
    bodies = tuple(range(1, len(chain.body_names)))
    points = tuple((0.1 * body, -0.05, 0.1) for body in bodies)
    chain = replace(chain, sole_bodies=bodies, sole_points=points, sole_radii=(0.02,) * len(bodies))
    (folder / "manifest.json").write_text(replace(read_manifest(folder), robot=chain).to_json())
    return with_fused(folder), truth, robot.path


def with_fused(folder: Path) -> Path:
    """Add artifacts of the fused backend to an engine folder made by a test."""
    manifest = read_manifest(folder)
    sha256 = file_sha256(folder / "weights.npz")
    added = [
        Artifact(f"fused_{p}", "fused", p, "weights.npz", sha256, {"device": "cuda"}, parity=dict(PASSED))
        for p in ("fp32", "fp16")
    ]
    (folder / "manifest.json").write_text(replace(manifest, artifacts=(*manifest.artifacts, *added)).to_json())
    return folder


def bare_manifest(sizes: Sizes, stats: Stats, **more: Any) -> Manifest:
    """Without a robot, artifacts and hashes of files, but for what is given."""
    fields: dict[str, Any] = {
        "name": "test_engine",
        "source": {"sha256": "0" * 64},
        "fps": 50.0,
        "joint_names": tuple(f"joint_{i}" for i in range(sizes.num_joints)),
        "default_dof_pos": None,
        "command_range": CommandRange(stats.command_min, stats.command_max, "stats"),
        "robot": None,
        "bank": FileEntry("bank.npz", "0" * 64),
        "artifacts": (),
    }
    return Manifest(sizes=sizes, stats=stats, **{**fields, **more})


def made_before(name: str) -> tuple[Path, Truth]:
    """A folder that ``made_before.py`` wrote, and its truth."""
    folder = Path(os.environ["CMG_TEST_FOLDERS"]) / name
    with np.load(folder / "truth.npz") as arrays:
        stats = {key: arrays[key] for key in ("motion_mean", "motion_std", "command_min", "command_max")}
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key not in stats}
    sizes = read_manifest(folder).sizes
    model = CMG(sizes.motion_dim, sizes.command_dim, sizes.hidden_dim, sizes.num_experts, sizes.num_layers)
    model.load_state_dict(state)
    return folder, Truth(model, stats)


def _kept_folder() -> Path:
    _kept.append(tempfile.TemporaryDirectory())
    return Path(_kept[-1].name)


def make_engine_folder(
    folder: Path,
    seed: int,
    precisions: tuple[str, ...] = ("fp32", "fp16"),
    robot: KinematicChain | None = None,
    joint_names: tuple[str, ...] | None = None,
    without: tuple[str, ...] = (),
    **sizes: Any,
) -> Truth:
    """Write an engine folder with every backend but those ``without``, and a bank of 40 states; returns its truth.

    No parity was run: every artifact says that it passed.
    """
    made = make_checkpoint(folder / "checkpoint", seed=seed, **sizes)
    truth = Truth(made.model, made.stats)
    bank = truth.states(40, torch.Generator().manual_seed(seed))
    np.savez(folder / "bank.npz", motion=bank.numpy())
    checkpoint = load_checkpoint(made.path)
    weights = one_product_weights(checkpoint)
    np.savez(folder / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
    bare = bare_manifest(
        checkpoint.sizes,
        checkpoint.stats,
        source={"file": made.path.name, "sha256": file_sha256(made.path)},
        robot=robot,
        bank=FileEntry("bank.npz", file_sha256(folder / "bank.npz")),
        **({"joint_names": joint_names} if joint_names else {}),
    )
    artifacts = []
    for precision in precisions:
        if "onnx" not in without:
            export_onnx(weights, precision, bare, folder / f"cmg_{precision}.onnx")
        if "torchscript" not in without:
            export_torchscript(weights, precision, folder / f"cmg_{precision}.ts")
        for backend in (name for name in BACKENDS if name not in without):
            file = backends.BACKENDS[backend].file.format(precision=precision)
            sha256 = file_sha256(folder / file)
            artifacts.append(Artifact(f"{backend}_{precision}", backend, precision, file, sha256, parity=dict(PASSED)))
    (folder / "manifest.json").write_text(replace(bare, artifacts=tuple(artifacts)).to_json())
    return truth
