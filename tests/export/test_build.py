"""The command line: what it publishes, when it does nothing, and what it leaves behind when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import cmg_export.build
import cmg_export.compile.artifacts
from cmg_export.__main__ import main
from cmg_export.compile.tensorrt import find_flavour
from cmg_runtime.folder.manifest import file_sha256, read_manifest, read_verified
from cmg_runtime.folder.robot import KinematicChain
from make_checkpoint import MadeCheckpoint, make_checkpoint

SMALL: dict[str, Any] = {"num_joints": 5, "hidden_dim": 24}
Capture = pytest.CaptureFixture[str]


class Built(NamedTuple):
    """A checkpoint, the engine built from it in this process, and what was printed."""

    made: MadeCheckpoint
    out: Path
    printed: str

    @property
    def args(self) -> list[str]:
        return [str(self.made.path), "--data", str(self.made.data), "--out", str(self.out)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Built:
    folder = tmp_path_factory.mktemp("built")
    made = make_checkpoint(folder / "walker", "bare+yaml", seed=seed, **SMALL)
    result = Built(made, folder / "engines" / "walker", "")
    done = command_line(*result.args)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return result._replace(printed=done.stdout)


def command_line(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmg_export", *args], cwd=cwd, env=environment(), capture_output=True, text=True
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(capsys: Capture, *args: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line in this process."""
    capsys.readouterr()
    try:
        status = main(args)
    except SystemExit as end:  # from the argument parser
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: times and contents of files, names of folders."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else (0, b"")
        for name, path in paths.items()
    }


def test_engine_is_complete(built: Built) -> None:
    manifest = read_manifest(built.out)
    names = {artifact.name for artifact in manifest.artifacts}
    expected = {f"{backend}_{p}" for backend in ("torch", "torchscript", "onnx", "fused") for p in ("fp32", "fp16")}
    if find_flavour()[0]:
        expected |= {"trt_fp32", "trt_fp16"}
    assert names == expected
    for artifact in manifest.artifacts:
        assert read_verified(built.out, artifact)
        assert artifact.tools
        if artifact.backend not in ("fused", "trt"):
            assert artifact.parity["status"] == "passed"
            assert artifact.parity["one_step_relative"] < (1e-5 if artifact.precision == "fp32" else 2e-3)
    listed = {artifact.file for artifact in manifest.artifacts} | {"bank.npz", "manifest.json", "parity.json"}
    assert {path.name for path in built.out.iterdir()} == listed
    assert [path.name for path in built.out.parent.iterdir()] == [built.out.name]


def test_manifest_says_what_it_was_made_from(built: Built) -> None:
    manifest = read_manifest(built.out)
    assert manifest.name == "walker"
    assert manifest.source["sha256"] == file_sha256(built.made.path)
    assert built.made.data is not None
    assert manifest.source["data_sha256"] == file_sha256(built.made.data)
    assert manifest.source["stats_from"] == "stats.yaml"
    assert manifest.source["tools"]["torch"] == torch.__version__
    assert manifest.fps == 50
    assert manifest.sizes.motion_dim == 10
    np.testing.assert_array_equal(np.asarray(manifest.stats.motion_mean, np.float32), built.made.stats["motion_mean"])
    np.testing.assert_array_equal(np.asarray(manifest.command_range.max, np.float32), built.made.stats["command_max"])
    text = (built.out / "manifest.json").read_text()
    assert str(built.made.path.parent) not in text
    assert str(built.out.parent) not in text


def test_prints_stages_and_table(built: Built) -> None:
    for word in ("checkpoint", "onnx fp16", "parity", "torch_fp32", "PASS", "is ready"):
        assert word in built.printed


def test_every_field_of_the_manifest_is_documented(built: Built) -> None:
    reference = (Path(__file__).resolve().parents[2] / "engines" / "README.md").read_text()
    manifest = json.loads((built.out / "manifest.json").read_text())
    manifest["robot"] = dict.fromkeys(KinematicChain.__dataclass_fields__)

    def check(value: Any, where: str) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if where not in ("source.tools", "artifacts.tools"):  # these are names of packages
                assert f"`{key}`" in reference, f"{where}.{key}"
                check(inner, f"{where}.{key}".lstrip("."))
        for inner in value if isinstance(value, list) else ():
            check(inner, where)

    check(manifest, "")


def test_nothing_to_do(built: Built, capsys: Capture) -> None:
    before = tree(built.out.parent)
    status, out, err = run(capsys, *built.args)
    assert (status, err) == (0, "")
    assert "up to date" in out
    table = built.printed[built.printed.index("Parity of") : built.printed.rindex("\n\n")]
    assert table in out
    assert tree(built.out.parent) == before


class Rebuilt(Exception):
    """Raised in place of a build."""


CHANGES = ("weights", "stats", "card", "num_envs", "precision", "code", "damaged file", "lost file", "no parity.json")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_means_a_new_build(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    shutil.copytree(built.made.path.parent, tmp_path / "walker")
    out = tmp_path / "engine"
    shutil.copytree(built.out, out)
    path, data = tmp_path / "walker" / built.made.path.name, tmp_path / "walker" / "train" / "stats.yaml"
    args = [str(path), "--data", str(data), "--out", str(out)]

    def refuse(*_: Any) -> None:
        raise Rebuilt

    monkeypatch.setattr(cmg_export.build, "_build", refuse)
    assert main(args) == 0  # the copies are as good as the originals
    if change == "weights":
        state = torch.load(path)
        state["layers.0.expert_biases.0"][0] += 1
        torch.save(state, path)
    elif change == "stats":
        data.write_text(data.read_text() + "# looked at\n")
    elif change == "card":
        (tmp_path / "walker" / "card.json").write_text('{"name": "another"}')
    elif change == "num_envs":
        args += ["--num-envs", "17"]
    elif change == "precision":
        args += ["--precision", "fp32"]
    elif change == "code":
        monkeypatch.setattr("cmg_export.provenance._code_sha256", lambda: "other")
    elif change == "damaged file":
        weights = out / "weights.npz"
        weights.write_bytes(weights.read_bytes()[:-1])
    elif change == "lost file":
        (out / "bank.npz").unlink()
    elif change == "no parity.json":
        (out / "parity.json").unlink()
    with pytest.raises(Rebuilt):
        main(args)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_input_gives_the_same_bytes(built: Built, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(built.made.path.parent, tmp_path / "walker")
    path, data = tmp_path / "walker" / built.made.path.name, tmp_path / "walker" / "train" / "stats.yaml"
    status, _, err = run(capsys, str(path), "--data", str(data), "--out", str(tmp_path / "deep" / "engine"))
    assert (status, err) == (0, "")
    files = {path.name: path for path in (tmp_path / "deep" / "engine").iterdir()}
    assert files.keys() == {path.name for path in built.out.iterdir()}
    # Parity figures depend on how a CPU and its threads add up; this process and the first one need not agree.
    for name in files.keys() - {"manifest.json", "parity.json"}:
        assert files[name].read_bytes() == (built.out / name).read_bytes(), name
    one, other = (
        json.loads((folder / "manifest.json").read_text()) for folder in (built.out, files["bank.npz"].parent)
    )
    for manifest in (one, other):
        for artifact in manifest["artifacts"]:
            artifact["parity"] = artifact["parity"]["status"]
    assert one == other


def test_odd_sizes_and_a_data_file(tmp_path: Path, seed: int) -> None:
    sizes: dict[str, Any] = {"num_joints": 23, "hidden_dim": 256, "num_experts": 6, "num_layers": 4}
    made = make_checkpoint(tmp_path / "odd", "bare+data", seed=seed, **sizes)
    done = command_line(str(made.path), "--data", str(made.data), "--precision", "fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "engines" / "odd")  # the default place
    assert (manifest.sizes.motion_dim, manifest.sizes.num_experts, manifest.sizes.num_layers) == (46, 6, 4)
    for artifact in manifest.artifacts:
        assert artifact.precision == "fp32"
        assert artifact.parity["status"] == ("not_run" if artifact.backend in ("fused", "trt") else "passed")


def test_an_artifact_that_fails_parity_is_withheld(
    tmp_path: Path, seed: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_checkpoint(tmp_path / "in", seed=seed, **SMALL)
    export = cmg_export.compile.artifacts.export_onnx

    def broken(weights: dict[str, np.ndarray], *rest: Any) -> None:
        precision, about, path, _ = rest
        export({**weights, "layers.1.weight": weights["layers.1.weight"] * np.float32(1.01)}, precision, about, path)

    monkeypatch.setattr(cmg_export.compile.artifacts, "export_onnx", broken)
    args = [str(made.path), "--precision", "fp32", "--out", str(tmp_path / "engine")]
    for word in ("is ready", "up to date"):
        status, out, err = run(capsys, *args)
        assert status == 1
        assert word in out
        assert err.count("\n") == 1
        assert "onnx_fp32" in err
        manifest = read_manifest(tmp_path / "engine")
        found = {artifact.name: artifact for artifact in manifest.artifacts}
        assert found["onnx_fp32"].file is None
        assert not found["onnx_fp32"].usable
        assert found["torch_fp32"].usable
        assert not (tmp_path / "engine" / "cmg_fp32.onnx").exists()


def test_user_errors_leave_nothing_behind(tmp_path: Path, seed: int, capsys: Capture) -> None:
    made = make_checkpoint(tmp_path / "in", seed=seed, **SMALL)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    (tmp_path / "broken.pt").write_bytes(made.path.read_bytes()[:1000])
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "a web page"}')
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "manifest.json").write_text('{"schema_version": 0, "artifacts": []}')
    shutil.copy(made.path, engine)
    path, out = str(made.path), str(tmp_path / "new" / "engine")
    cases = [
        (["absent.pt", "--out", out], "absent.pt"),
        ([str(tmp_path / "broken.pt"), "--out", out], "broken.pt"),
        ([path, "--out", out, "--data", "absent.yaml"], "absent.yaml"),
        ([path, "--out", out, "--robot", "absent.xml"], "absent.xml"),
        ([path, "--out", out, "--robot", path], "cmg_final.pt"),
        ([path, "--out", out, "--precision", "fp8"], "fp8"),
        ([path, "--out", out, "--num-envs", "many"], "many"),
        ([path, "--out", out, "--num-envs", "0"], "num-envs"),
        ([path, "--out", out, "--fast"], "--fast"),
        ([path, path, "--out", out], "Unrecognized"),
        ([], "CHECKPOINT"),
        ([path, "--out", str(tmp_path / "file")], "file"),
        ([path, "--out", str(tmp_path / "file" / "below" / "engine")], "file"),
        ([path, "--out", str(tmp_path / "full")], "full"),
        ([path, "--out", str(tmp_path / "web")], "web"),
        ([path, "--out", str(made.path.parent)], "not empty"),
        ([str(engine / made.path.name), "--out", str(engine)], "lies in"),
    ]
    before = tree(tmp_path)
    for args, word in cases:
        status, _, err = run(capsys, *args)
        assert status == 2, (args, err)
        assert word in err
        assert err.count("\n") == 1
        assert err.startswith("cmg_export: ")
        assert tree(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_half_way_leaves_nothing_behind(
    built: Built, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: Exception, exists: bool
) -> None:
    out = tmp_path / "deep" / "down" / "engine"
    if exists:
        shutil.copytree(built.out, out)
    before = tree(tmp_path)

    def fail(weights: Any, precision: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(cmg_export.compile.artifacts, "export_torchscript", fail)
    args = [*built.args[:-1], str(out), "--num-envs", "3"]
    if isinstance(error, OSError):
        status, _, err = run(capsys, *args)
        assert status == 2
        assert err.count("\n") == 1
        assert "No space left" in err
    else:
        with pytest.raises(RuntimeError, match="a bug"):
            main(args)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing_behind(
    built: Built, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "engine"
    shutil.copytree(built.out, out)
    before = tree(tmp_path)
    command = [sys.executable, "-m", "cmg_export", *built.args[:-1], str(out), "--num-envs", "3"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".engine.building-*/weights.npz")):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == status
    assert len(err.splitlines()) == (1 if number == signal.SIGINT else 0), err
    assert tree(tmp_path) == before


def test_help_is_worth_reading(capsys: Capture) -> None:
    status, out, err = run(capsys, "--help")
    assert (status, err) == (0, "")
    for word in ("--data", "--out", "--num-envs", "--precision", "fp16", "--robot", "Exit status", "card.json"):
        assert word in out
