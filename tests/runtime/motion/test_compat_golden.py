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
    engine, starts = load_engine(folder, envs, backend=backend, precision=precision), motion.astype(np.float32)
    stepped = engine.rollout(starts[:-1].reshape(-1, width), np.tile(command, (frames - 1, 1)), num_frames=1)[:, 1]
    rolled = engine.rollout(starts[0], command, num_frames=frames - 1).transpose(0, 1)
    assert relative(folder, stepped, motion[1:].reshape(-1, width)) < TOLERANCE[precision]
    assert relative(folder, rolled, motion) < 5 * TOLERANCE[precision]
    engine.reset(motion=starts[0], command=command)
    assert relative(folder, torch.cat(engine.step(), dim=1), motion[1]) < TOLERANCE[precision]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, SCHEMA_VERSION - 1, "1", None])
def test_another_schema_is_refused_in_one_line(tmp_path: Path, version: object) -> None:
    folder = Path(shutil.copytree(FOLDERS[-1], tmp_path / "engine"))
    manifest = {**json.loads((folder / "manifest.json").read_text()), "schema_version": version}
    manifest["a field of another version"] = 1  # the version is what is refused, before any field is looked at
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError) as caught:
        load_engine(folder, 1)
    assert f"reads {SCHEMA_VERSION}" in str(caught.value) and "\n" not in str(caught.value)
    assert "schema version" in str(caught.value) and not isinstance(caught.value, BackendUnavailable)
