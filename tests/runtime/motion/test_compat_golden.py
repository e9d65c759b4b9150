"""Engine folders that earlier versions wrote still load, and still compute what the reference model does.

Each folder in ``tests/golden`` was written once by ``tests/golden/make_golden.py`` and is never made again.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError, load_engine
from cmg_runtime.folder.manifest import SCHEMA_VERSION, read_manifest

FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "golden").glob("*/manifest.json"))
RUNS = ("torch", "torchscript", "onnx")
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}
"""Of one step, relative, in normalised units."""


def relative(folder: Path, found: torch.Tensor, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected|| in normalised units."""
    stats = read_manifest(folder).stats
    mean, std = np.asarray(stats.motion_mean), np.asarray(stats.motion_std)
    a, b = (found.double().numpy() - mean) / std, (expected - mean) / std
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_there_is_one_for_this_schema() -> None:
    assert f"schema_{SCHEMA_VERSION}" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("backend", RUNS)
def test_golden_folder_computes_what_it_did(folder: Path, precision: str, backend: str) -> None:
    if backend == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    with np.load(folder / "expected.npz") as arrays:
        command, motion = arrays["command"], arrays["motion"]
    assert motion.dtype == np.float64 and len(motion) > 10
    frames, envs, width = motion.shape
    engine = load_engine(folder, envs, backend=backend, precision=precision)
    starts = motion[:-1].reshape(-1, width).astype(np.float32)
    stepped = engine.rollout(starts, np.tile(command, (frames - 1, 1)), num_frames=1)[:, 1]
    one_step = relative(folder, stepped, motion[1:].reshape(-1, width))
    rolled = engine.rollout(motion[0].astype(np.float32), command, num_frames=frames - 1).transpose(0, 1)
    free = relative(folder, rolled, motion)
    print(f"one step {one_step:.1e}, {frames - 1} frames {free:.1e}")
    assert one_step < TOLERANCE[precision] and free < 5 * TOLERANCE[precision]
    engine.reset(motion=motion[0].astype(np.float32), command=command, command_at_once=True)
    dof_pos, dof_vel = engine.step()
    assert relative(folder, torch.cat([dof_pos, dof_vel], dim=1), motion[1]) < TOLERANCE[precision]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, SCHEMA_VERSION - 1, "1", None])
def test_another_schema_is_refused_in_one_line(tmp_path: Path, version: object) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(FOLDERS[-1], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["schema_version"] = version
    manifest["a field of another version"] = 1  # the version is what is refused, before any field is looked at
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError) as caught:
        load_engine(folder, 1)
    message = str(caught.value)
    assert "schema version" in message and f"reads {SCHEMA_VERSION}" in message and "\n" not in message
    assert not isinstance(caught.value, BackendUnavailable)
