"""Where code names a checkpoint: it is compiled once, found again, and compiled anew when a file changes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cmg_export
import cmg_runtime
from cmg_export import provenance
from cmg_runtime import load_engine
from cmg_runtime.device import nvrtc
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.compiled import CACHE_VARIABLE, engine_folder
from cmg_runtime.folder.manifest import file_sha256
from make_checkpoint import make_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What our exporter's command runs instead: it makes a folder with an empty manifest, once."""
    package = tmp_path / "stand_in" / "cmg_export"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    code = "import os, sys; out = sys.argv[sys.argv.index('--out') + 1]; os.makedirs(out)"
    (package / "__main__.py").write_text(f"{code}; open(out + '/manifest.json', 'w').write('{{}}')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    return package / "__main__.py"


@pytest.mark.slow
def test_a_checkpoint_is_compiled_once(tmp_path: Path, cache: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path / "run", "bare+data", num_joints=4, hidden_dim=16, num_layers=2, seed=seed)
    folder = engine_folder(made.path, made.data)
    assert engine_folder(str(folder), "no such data file") == folder  # an engine folder is itself
    manifest = folder / "manifest.json"
    assert json.loads(manifest.read_text())["source"]["sha256"] == file_sha256(made.path)
    engine = load_engine(folder, 3)
    engine.reset()
    engine.step()
    written = manifest.stat().st_mtime_ns
    assert engine_folder(str(made.path), str(made.data)) == folder
    assert manifest.stat().st_mtime_ns == written and list(cache.iterdir()) == [folder]


def test_what_is_compiled_anew_and_what_is_taken_where_the_exporter_cannot_run(
    tmp_path: Path, cache: Path, exporter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folders = tmp_path / "x.pt", []

    def found_again() -> bool:
        """Whether it is compiled once, into another folder than before."""
        folder = engine_folder(model)
        folders.append(folder)
        kept = set(folders)
        return folder == engine_folder(model) and set(cache.iterdir()) == kept and len(kept) == len(folders)

    model.write_bytes(b"weights")
    for exporters in ("one", "another"):
        monkeypatch.setattr(provenance, "fingerprint", lambda exporters=exporters: exporters)
        assert found_again()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 8, 18))
        assert engine_folder(model) == folders[-1]  # the newest of the same files
        model.write_bytes(b"other weights")
        with pytest.raises(EngineError) as caught:
            engine_folder(model)
        assert f"`python -m cmg_export {model} --out {cache}" in str(caught.value)
        assert "Python 3.10" in str(caught.value) and "\n" not in str(caught.value)
        folders.append(Path(str(caught.value).split("--out ")[1].split("`")[0]))
        folders[-1].mkdir()
        (folders[-1] / "manifest.json").write_text("{}")  # what was compiled elsewhere for this place
        assert engine_folder(model) == folders[-1]
    assert found_again()
    for name in ("card.json", "bank.npz", "cmg_training_data.pt", "stats.yaml", "stats.yml"):  # beside it: part of it
        for content in ("a", "b"):
            (tmp_path / name).write_text(content)
            assert found_again(), name


@pytest.mark.slow
def test_a_fingerprint_is_of_everything_that_an_engine_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    copies = {}
    for package in (cmg_export, cmg_runtime):
        copies[package] = tmp_path / package.__name__
        shutil.copytree(Path(str(package.__file__)).parent, copies[package])
        monkeypatch.setattr(package, "__file__", str(copies[package] / "__init__.py"))
    robot = tmp_path / "robot" / "robot.xml"
    (robot.parent / "meshes").mkdir(parents=True)
    (robot.parent / "more").mkdir()
    robot.write_text('<mujoco><compiler meshdir="meshes"/><include file="more/parts.xml"/></mujoco>')
    (robot.parent / "more" / "parts.xml").write_text('<mujoco><asset><mesh file="sole.STL"/></asset></mujoco>')
    (robot.parent / "meshes" / "sole.STL").write_bytes(b"solid")
    monkeypatch.setattr(provenance, "g1_model", lambda: robot)
    seen = [provenance.fingerprint()]
    assert provenance.fingerprint() == seen[0]

    kernels = copies[cmg_runtime] / "backends" / "fused"
    modules = sorted(copies[cmg_export].rglob("*.py"))
    read = [kernels / "cluster.cu", kernels / "hopper.cuh", copies[cmg_runtime] / "guard.py"]
    read += [robot, robot.parent / "more" / "parts.xml", robot.parent / "meshes" / "sole.STL"]
    for path in [*read, modules[rng.integers(len(modules))]]:
        path.write_bytes(path.read_bytes() + b"\n")
        seen.append(provenance.fingerprint())
    monkeypatch.setattr(provenance, "installed_versions", lambda names: dict.fromkeys(names, "1.2"))
    seen.append(provenance.fingerprint())
    monkeypatch.setattr(provenance, "g1_model", lambda: None)
    seen.append(provenance.fingerprint())
    assert len(set(seen)) == len(seen)

    for name in ("__pycache__/guard.cpython-399.pyc", ".guard.py.swp", ".cache/x.py"):  # nobody reads these
        (copies[cmg_runtime] / name).parent.mkdir(exist_ok=True)
        (copies[cmg_runtime] / name).write_bytes(b"?")
    assert provenance.fingerprint() == seen[-1]


@pytest.mark.slow
def test_the_exporter_tells_its_code_by_what_it_imports() -> None:
    """Of the reference, every module that a process which builds has imported, and none of training and evaluation."""
    code = "import sys, cmg_export.build as b; print(*[n for n in sys.modules if n.split('.')[0] == 'CMG_Ref'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    sources = list(Path(str(cmg_export.__file__)).parent.rglob("*.py"))
    found = provenance._imported("CMG_Ref", sources)
    assert "CMG_Ref.module.moe_layer" in done.stdout.split() and set(done.stdout.split()) <= set(found)
    assert not any("train" in name or "evaluation" in name for name in found)


@pytest.mark.slow
def test_what_is_not_compiled_is_named_and_leaves_nothing(
    tmp_path: Path, cache: Path, exporter: Path, seed: int
) -> None:
    with pytest.raises(EngineError, match="nothing.pt is neither an engine folder nor a checkpoint file"):
        engine_folder(tmp_path / "nothing.pt")
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(EngineError, match="stats.pt is not there"):
        engine_folder(text, tmp_path / "stats.pt")
    # Python's exit status after an exception is 1, which is also the exporter's for an artifact withheld.
    exporter.write_text("raise RuntimeError('no room left on the device')\n")
    with pytest.raises(EngineError, match="was not compiled: RuntimeError: no room left"):
        engine_folder(text)
    exporter.unlink()  # our own again
    (exporter.parent / "__init__.py").unlink()
    exporter.parent.rmdir()
    made = make_checkpoint(tmp_path / "run", num_joints=4, hidden_dim=16, seed=seed)
    np.savez(made.path.with_name("bank.npz"), motion=np.zeros((1, 3), np.float32))
    with pytest.raises(EngineError, match="cmg_final.pt was not compiled: .*bank.npz"):
        engine_folder(made.path)
    assert not cache.exists() or not any(cache.iterdir())


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
    monkeypatch.setattr(nvrtc, "_compiler_version", lambda: (13, 0))
    monkeypatch.setattr(nvrtc, "compile_source", lambda source, options: source.encode())
    assert nvrtc.compiled.__wrapped__("source", ()) == b"source"
    assert set(tmp_path.rglob("*")) == before  # no folder named ~
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert nvrtc.compiled.__wrapped__("source", ()) == b"source"
    assert len(list((tmp_path / "kept").rglob("*.kernel"))) == 1
