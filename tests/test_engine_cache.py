"""Where code names a checkpoint: it is compiled once, found again, and compiled anew when a file changes."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import numpy as np
import pytest

from cmg_runtime import load_engine
from cmg_runtime.engine_cache import CACHE_VARIABLE, engine_folder
from cmg_runtime.errors import EngineError
from cmg_runtime.kernels import cuda_source
from cmg_runtime.manifest import file_sha256
from make_checkpoint import make_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_engine_folder_is_itself(tmp_path: Path) -> None:
    assert engine_folder(tmp_path) == tmp_path
    assert engine_folder(str(tmp_path), "no such data file") == tmp_path


def test_a_checkpoint_is_compiled_once(tmp_path: Path, cache: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path / "run", "bare+data", num_joints=4, hidden_dim=16, num_layers=2, seed=seed)
    folder = engine_folder(made.path, made.data)
    assert folder.parent == cache
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["sha256"] == file_sha256(made.path)
    engine = load_engine(folder, 3)
    engine.reset()
    engine.step()
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert engine_folder(str(made.path), str(made.data)) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == written
    # A bank beside the checkpoint goes into the engine, so it makes another one; it is not compiled here.
    np.savez(made.path.with_name("bank.npz"), motion=np.zeros((1, 3), np.float32))
    with pytest.raises(EngineError, match="was not compiled: .*bank.npz"):
        engine_folder(made.path, made.data)
    assert os.listdir(cache) == [folder.name]


def test_old_python_is_told_the_command(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made = make_checkpoint(tmp_path / "run", num_joints=4, hidden_dim=16, seed=seed)
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(EngineError) as caught:
        engine_folder(made.path)
    assert f"`python -m cmg_export {made.path} --out {cache}" in str(caught.value)
    assert "Python 3.10" in str(caught.value) and "\n" not in str(caught.value)
    where = Path(str(caught.value).split("--out ")[1].split("`")[0])
    where.mkdir(parents=True)
    (where / "manifest.json").write_text("{}")  # what was compiled elsewhere for this place
    assert engine_folder(made.path) == where


def test_a_crash_of_the_exporter_is_no_success(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Python's exit status after an exception is 1, which is also the exporter's for an artifact withheld."""
    made = make_checkpoint(tmp_path / "run", num_joints=4, hidden_dim=16, seed=seed)
    package = tmp_path / "broken" / "cmg_export"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise RuntimeError('no room left on the device')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(EngineError, match="was not compiled: RuntimeError: no room left"):
        engine_folder(made.path)


def test_missing_files_are_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(EngineError, match="nothing.pt is neither an engine folder nor a checkpoint file"):
        engine_folder(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(EngineError, match="stats.pt is not there"):
        engine_folder(tmp_path / "text.pt", tmp_path / "stats.pt")
    with pytest.raises(EngineError, match="text.pt was not compiled: .*damaged or not a torch.save file"):
        engine_folder(tmp_path / "text.pt")


def test_a_user_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """As in a container that is started with a user's number: one line for engines, and kernels are not kept."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for variable in ("HOME", "XDG_CACHE_HOME", CACHE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    made = make_checkpoint(tmp_path / "run", num_joints=4, hidden_dim=16, seed=seed)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(EngineError, match=f"set {CACHE_VARIABLE}") as caught:
        engine_folder(made.path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(cuda_source, "_compiler_version", lambda: (13, 0))
    monkeypatch.setattr(cuda_source, "compile_source", lambda source, options: source.encode())
    assert cuda_source._compiled.__wrapped__("source", ()) == b"source"
    assert set(tmp_path.rglob("*")) == before  # no folder named ~
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert cuda_source._compiled.__wrapped__("source", ()) == b"source"
    assert len(list((tmp_path / "kept").rglob("*.cubin"))) == 1
