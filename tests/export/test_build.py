"""The command line: what it publishes, when it does nothing, and what it leaves behind when it fails."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cmg_export.build
import cmg_export.compile.artifacts
from built_case import SMALL, Built, built_engine
from cmg_export.__main__ import main
from cmg_export.compile.tensorrt import find_flavour
from cmg_runtime.folder.manifest import Manifest, file_sha256, read_manifest, read_verified
from cmg_runtime.folder.robot import KinematicChain
from make_checkpoint import make_checkpoint
from python_process import environment, run_python

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


built = pytest.fixture(built_engine)

pytestmark = pytest.mark.slow  # nearly every one needs an engine that is built


def run(capsys: Capture, *args: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line in this process."""
    capsys.readouterr()
    try:
        status = main([*map(str, args)])
    except SystemExit as end:  # from the argument parser
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: times and contents of files, names of folders."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else (0, b"")
        for path in sorted(folder.rglob("*"))
    }


def test_an_engine_is_complete_and_says_what_it_was_made_from(built: Built) -> None:
    manifest = read_manifest(built.out)
    expected = {f"{backend}_{p}" for backend in ("torch", "torchscript", "onnx", "fused") for p in ("fp32", "fp16")}
    if find_flavour()[0]:
        expected |= {"trt_fp32", "trt_fp16"}
    assert {artifact.name for artifact in manifest.artifacts} == expected
    for artifact in manifest.artifacts:
        assert read_verified(built.out, artifact) and artifact.tools
        if artifact.backend not in ("fused", "trt"):
            assert artifact.parity["status"] == "passed"
            assert artifact.parity["one_step_relative"] < (1e-5 if artifact.precision == "fp32" else 2e-3)
    listed = {artifact.file for artifact in manifest.artifacts} | {"bank.npz", "manifest.json", "parity.json"}
    assert {path.name for path in built.out.iterdir()} == listed
    assert [path.name for path in built.out.parent.iterdir()] == [built.out.name]

    assert (manifest.name, manifest.fps, manifest.sizes.motion_dim) == ("walker", 50, 10)
    assert manifest.source["sha256"] == file_sha256(built.made.path)
    assert built.made.data and manifest.source["data_sha256"] == file_sha256(built.made.data)
    assert manifest.source["stats_from"] == "stats.yaml"
    assert manifest.source["tools"]["torch"] == torch.__version__
    np.testing.assert_array_equal(np.asarray(manifest.stats.motion_mean, np.float32), built.made.stats["motion_mean"])
    np.testing.assert_array_equal(np.asarray(manifest.command_range.max, np.float32), built.made.stats["command_max"])
    text = (built.out / "manifest.json").read_text()
    assert str(built.made.path.parent) not in text and str(built.out.parent) not in text
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
    for word in ("--num-envs", "fp16", "Exit status", "card.json"):
        assert word in run(capsys, "--help")[1]
    before = tree(built.out.parent)
    status, out, err = run(capsys, *built.args)
    assert (status, err) == (0, "") and "up to date" in out
    assert built.printed[built.printed.index("Parity of") : built.printed.rindex("\n\n")] in out  # the table
    assert tree(built.out.parent) == before


class Rebuilt(Exception):
    """Raised in place of a build."""


def copied(built: Built, folder: Path) -> tuple[Path, Path, Path]:
    """The checkpoint with its data, and the engine's place."""
    shutil.copytree(built.made.path.parent, folder / "walker")
    return folder / "walker" / built.made.path.name, folder / "walker" / "train" / "stats.yaml", folder / "engine"


CHANGES = (
    "weights", "stats", "card", "num_envs", "precision", "code", "damaged file", "lost file", "no parity.json",
    "no artifacts",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_means_a_new_build(built: Built, tmp_path: Path, monkeypatch: Patch, change: str) -> None:
    path, data, out = copied(built, tmp_path)
    shutil.copytree(built.out, out)
    args = [str(path), "--data", str(data), "--out", str(out)]

    def refuse(*_: Any) -> None:
        raise Rebuilt

    monkeypatch.setattr(cmg_export.build, "staging", refuse)
    assert main(args) == 0  # the copies are as good as the originals
    if change == "weights":
        state = torch.load(path)
        state["layers.0.expert_biases.0"][0] += 1
        torch.save(state, path)
    elif change == "stats":
        data.write_text(data.read_text() + "# looked at\n")
    elif change == "card":
        path.with_name("card.json").write_text('{"name": "another"}')
    elif change in ("num_envs", "precision"):
        args += ["--num-envs", "17"] if change == "num_envs" else ["--precision", "fp32"]
    elif change == "code":
        record = cmg_export.build.source_record
        monkeypatch.setattr(cmg_export.build, "source_record", lambda *a: {**record(*a), "code_sha256": "other"})
    elif change == "damaged file":
        (out / "weights.npz").write_bytes((out / "weights.npz").read_bytes()[:-1])
    elif change == "no artifacts":
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps({**manifest, "artifacts": []}))
        assert not read_manifest(out).artifacts
    else:
        (out / ("bank.npz" if change == "lost file" else "parity.json")).unlink()
    with pytest.raises(Rebuilt):
        main(args)


def test_the_same_input_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    """In another process, into the folder in which the user stands, which is replaced."""
    path, data, out = copied(built, tmp_path)
    out.mkdir()
    done = run_python("-m", "cmg_export", str(path), "--data", str(data), "--out", ".", cwd=out)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in built.out.iterdir()}
    # Parity figures depend on how a CPU and its threads add up; this process and the first one need not agree.
    for file in {path.name for path in out.iterdir()} - {"manifest.json", "parity.json"}:
        assert (out / file).read_bytes() == (built.out / file).read_bytes(), file
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (built.out, out)]
    for artifact in (artifact for manifest in manifests for artifact in manifest["artifacts"]):
        artifact["parity"] = artifact["parity"]["status"]
    assert manifests[0] == manifests[1]


def test_an_artifact_that_fails_parity_is_withheld(
    tmp_path: Path, seed: int, capsys: Capture, monkeypatch: Patch
) -> None:
    """One of an engine of odd sizes, in the default place."""
    sizes: dict[str, Any] = {"num_joints": 23, "hidden_dim": 32, "num_experts": 6, "num_layers": 4}
    made = make_checkpoint(tmp_path / "odd", "bare+data", seed=seed, **sizes)
    export = cmg_export.compile.artifacts.export_onnx

    def broken(weights: dict[str, np.ndarray], precision: str, about: Manifest, path: Path, _: Any) -> None:
        export({**weights, "layers.1.weight": weights["layers.1.weight"] * np.float32(1.01)}, precision, about, path)

    monkeypatch.setattr(cmg_export.compile.artifacts, "export_onnx", broken)
    monkeypatch.chdir(tmp_path)
    for word in ("is ready", "up to date"):
        status, out, err = run(capsys, made.path, "--data", made.data, "--precision", "fp32")
        assert status == 1 and word in out
        assert err.count("\n") == 1 and "onnx_fp32" in err
    manifest = read_manifest(tmp_path / "engines" / "odd")
    assert (manifest.sizes.motion_dim, manifest.sizes.num_experts, manifest.sizes.num_layers) == (46, 6, 4)
    expected = {"torch": "passed", "torchscript": "passed", "onnx": "failed", "fused": "not_run", "trt": "not_run"}
    for artifact in manifest.artifacts:
        assert artifact.precision == "fp32" and artifact.parity["status"] == expected[artifact.backend]
        assert artifact.backend != "onnx" or (artifact.file is None and not artifact.usable)
        assert artifact.backend != "torch" or artifact.usable
    assert not (tmp_path / "engines" / "odd" / "cmg_fp32.onnx").exists()


def test_user_errors_leave_nothing_behind(tmp_path: Path, seed: int, capsys: Capture) -> None:
    path = make_checkpoint(tmp_path / "in", seed=seed, **SMALL).path
    engine, new, beside = tmp_path / "engine", ["--out", tmp_path / "new" / "engine"], tmp_path / "engine" / path.name
    contents = {"file": "x", "full/notes.txt": "x", "web/manifest.json": '{"name": "a web page"}'}
    contents["engine/manifest.json"] = '{"schema_version": 0, "artifacts": []}'
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    shutil.copy(path, engine)
    cases: list[tuple[list[Any], str]] = [
        (["absent.pt", *new], "absent.pt"),
        ([path, *new, "--data", "absent.yaml"], "absent.yaml"),
        ([path, *new, "--robot", "absent.xml"], "absent.xml"),
        ([path, *new, "--precision", "fp8"], "fp8"),
        ([path, *new, "--num-envs", "0"], "num-envs"),
        ([path, *new, "--tensorrt.targets", "ninety"], "ninety"),
        ([path, *new, "--fast"], "--fast"),
        ([path, path, *new], "Unrecognized"),
        ([], "CHECKPOINT"),
        ([path, "--out", tmp_path / "file"], "file"),
        ([path, "--out", tmp_path / "file" / "below" / "engine"], "file"),
        ([path, "--out", tmp_path / "full"], "full"),
        ([path, "--out", tmp_path / "web"], "web"),
        ([path, "--out", path.parent], "not empty"),
        ([beside, "--out", engine], "lies in"),
    ]
    before = tree(tmp_path)
    for args, word in cases:
        status, _, err = run(capsys, *args)
        assert status == 2, (args, err)
        assert err.startswith("cmg_export: ") and word in err and err.count("\n") == 1, err
        assert tree(tmp_path) == before


def test_a_failure_half_way_leaves_nothing_behind(built: Built, tmp_path: Path, monkeypatch: Patch) -> None:
    """A fault of ours is not hidden. What the machine lacks: test_faults.py."""
    old, before = tmp_path / "old", tree(shutil.copytree(built.out, tmp_path / "old"))

    def fail(weights: Any, precision: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("a bug")

    monkeypatch.setattr(cmg_export.compile.artifacts, "export_torchscript", fail)
    for out in (old, tmp_path / "deep" / "down" / "engine"):
        with pytest.raises(RuntimeError, match="a bug"):
            main([*built.args[:-1], str(out), "--num-envs", "3"])
        assert tree(old) == before and [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing_behind(built: Built, tmp_path: Path, number: int, status: int) -> None:
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
