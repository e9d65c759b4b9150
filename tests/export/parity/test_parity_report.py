"""Parity's report and its command line."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg_export.errors import ParityError
from cmg_export.parity import format_table, read_report, run_parity
from cmg_export.parity.__main__ import main
from cmg_export.parity.report import round_up
from cmg_runtime.folder.manifest import file_sha256, read_manifest
from engine_folder import SEED
from parity_case import JOINTS, Case, shared_case, use_inputs


@pytest.fixture
def case() -> Case:
    return shared_case()


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """A copy of the engine folder, to be changed."""
    return Path(shutil.copytree(case.folder, tmp_path / "engine"))


def test_table_and_json(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_inputs(case, monkeypatch)
    withheld = dataclasses.replace(case.manifest.artifacts[0], name="gone_fp32", file=None, sha256=None)
    chosen = [*case.manifest.artifacts, withheld]
    report = run_parity(case.folder, case.manifest, case.truth, chosen, seed=SEED)
    table = format_table(report, with_joints=True)
    assert max(map(len, table.splitlines())) <= 120 and table.isascii()
    assert table.count("PASS") == 6 and table.count("FAIL: withheld") == 1
    assert f"seed {SEED}" in table and table.count("joint_4") == 6
    first = report.artifacts[0]
    assert first.one_step is not None and f"{first.one_step.relative:.1e}" in table
    (tmp_path / "parity.json").write_text(report.to_json())
    assert read_report(tmp_path) == report
    for text in ("{}", "[]", "nonsense", report.to_json().replace('"seed"', '"sead"')):
        (tmp_path / "parity.json").write_text(text)
        with pytest.raises(ParityError, match="malformed"):
            read_report(tmp_path)


def test_rounding_up_gives_a_tolerance_that_passes() -> None:
    rng = np.random.default_rng(SEED)
    for value in [*(10.0 ** rng.uniform(-9, 1, 200)), 1e-5, 9.99e-6, 2e-3]:
        rounded = float(round_up(float(value)))
        assert value <= rounded <= value * 1.1
    assert round_up(1e-5) == "1.0e-05" and round_up(9.91e-6) == "1.0e-05"


def test_command_line_records_what_it_found(case: Case, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {path.name for path in copy.iterdir()} | {"parity.json"}
    assert main([str(copy), str(case.checkpoint), "--seed", "3", "--per-joint"]) == 0
    output = capsys.readouterr()
    report = read_report(copy)
    assert output.err == "" and output.out.strip() == format_table(report, with_joints=True)
    assert {path.name for path in copy.iterdir()} == kept
    assert report.seed == 3 and report.source_sha256 == file_sha256(case.checkpoint)
    assert all(len(artifact.per_joint) == JOINTS for artifact in report.artifacts)
    for artifact, result in zip(read_manifest(copy).artifacts, report.artifacts, strict=True):
        assert artifact.parity["status"] == "passed" and result.one_step is not None
        assert artifact.parity["one_step_relative"] == result.one_step.relative
        assert artifact.parity["rollout_100_median_rad"] == result.rollouts[0].median


def test_wrong_input_is_one_line_and_changes_nothing(
    case: Case, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(case.checkpoint.read_bytes() + b" ")
    tampered = Path(shutil.copytree(copy, tmp_path / "tampered"))
    (tampered / "weights.npz").write_bytes(b"not this")
    folder, checkpoint = str(copy), str(case.checkpoint)
    wrong = {
        "cannot read": [str(tmp_path / "nowhere"), checkpoint],
        "torch.save file": [folder, str(tmp_path / "nowhere.pt")],
        "was not made from": [folder, str(other)],
        "does not match the hash": [str(tampered), checkpoint],
        "cannot read ": [folder, checkpoint, "--data", str(tmp_path / "no.yaml")],
        "seed is -1": [folder, checkpoint, "--seed", "-1"],
    }
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    for message, arguments in wrong.items():
        assert main(arguments) == 2, message
        output = capsys.readouterr()
        assert output.out == "" and len(output.err.splitlines()) == 1 and message in output.err
        assert output.err.startswith("cmg_export.parity: ")
    for arguments in ([], [folder], [folder, checkpoint, "--device", "abacus"], [folder, checkpoint, "--fast"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        complaint = capsys.readouterr().err
        assert end.value.code == 2 and len(complaint.splitlines()) == 1
        assert complaint.startswith("cmg_export.parity: ") and complaint.isascii()
    if not torch.cuda.is_available():
        assert main([folder, checkpoint, "--device", "cuda"]) == 2
        assert "is not there" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
