"""``python -m cmg_export inspect``: what a folder or a checkpoint says of itself, and what has become of its files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from built_case import built_engine
from cmg_export.__main__ import main
from make_checkpoint import make_checkpoint

Capture = pytest.CaptureFixture[str]
SCREEN = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_engine().out, tmp_path / "walker"))


def shown(path: Path, capsys: Capture, status: int = 0) -> str:
    assert main(["inspect", str(path)]) == status
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) <= SCREEN and max(map(len, lines)) <= 120
    return out


def test_a_folder_on_one_screen(folder: Path, capsys: Capture) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = {"trt_fp16": {"gpu": "NVIDIA Test 9", "status": "passed", "one_step_relative": 2e-4}}
    (folder / "first_load.json").write_text(json.dumps(first))
    said = shown(folder, capsys)
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = {line.split()[0]: line for line in said.splitlines() if line}
    for artifact in manifest["artifacts"]:
        parity, line = artifact["parity"], rows[artifact["name"]]
        assert f" {artifact['file']} " in line and line.endswith(parity["status"].replace("_", " "))
        if parity["status"] == "passed":
            figures = "one_step_relative", "one_step_relative_allowed", "rollout_100_max_rad", "rollout_500_max_rad"
            assert line.split()[-5:-1] == [f"{parity[name]:.1e}" for name in figures]
    for low, high in zip(*(manifest["command_range"][end] for end in ("min", "max")), strict=True):
        assert f"{low:.4g} to {high:.4g} " in said
    expected = (manifest["source"]["sha256"][:12], "5 joints", "hidden 24", "joint_0, joint_1", "on cpu: 8192 states")
    missing = [text for text in (*expected, "trt_fp16: passed one step on NVIDIA Test 9: 2.0e-04") if text not in said]
    assert missing == [], said
    (folder / "first_load.json").unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_has_become_of_files_is_said(folder: Path, capsys: Capture) -> None:
    (folder / "cmg_fp32.onnx").unlink()
    (folder / "bank.npz").write_bytes((folder / "bank.npz").read_bytes()[:-1])
    (folder / "parity.json").write_text("{}")
    (folder / "first_load.json").write_text("[1]")
    said = re.sub(r"\s+", " ", shown(folder, capsys, status=1))
    assert "cmg_fp32.onnx (No such file or directory); the manifest lists it" in said
    assert "bank.npz does not match the hash in its manifest" in said and "bank cannot be read" in said
    assert "parity.json is malformed" in said


def test_a_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    made = make_checkpoint(tmp_path, num_joints=4, hidden_dim=9, num_experts=3, num_layers=2, gating_hidden_dim=7)
    card = {"joint_names": ["a_joint", "b_joint", "c", "d"], "license": "CC0-1.0"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    said = shown(made.path, capsys)
    for text in ("4 joints, command of 3; layers 2, experts 3, hidden 9, gate 7", "a, b, c, d", "CC0-1.0", "none"):
        assert text in said
    assert f"vx {made.stats['command_min'][0]:.4g} to {made.stats['command_max'][0]:.4g} m/s" in said


def test_what_is_neither_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    """Which says what to name instead, where the folder has it."""
    (tmp_path / "note.txt").write_text("nothing")
    for name, file in (("engines", "walker/manifest.json"), ("run", "cmg_last.pt"), ("policy", "policy.json")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "note.txt": "is text", "gone": "no such file", "empty": "make engine", "engines": "in it (walker)",
        "run": "in it (cmg_last.pt)", "policy": "is a policy's folder", "engines/walker": "schema version",
    }.items():  # fmt: skip
        assert main(["inspect", str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("cmg_export inspect: ") and err.count("\n") == 1 and said in err
