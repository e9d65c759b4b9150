"""Parity: what it measures is what is there, and what it says of it is what it measured."""

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
from cmg_export.parity.measure import measure, one_step, per_joint, rollout_errors
from cmg_export.parity.report import round_up
from cmg_runtime.folder.manifest import file_sha256, read_manifest
from engine_folder import SEED
from parity_case import CPU, JOINTS, Case, backend_of, exact, shared_case, statuses


@pytest.fixture
def case() -> Case:
    return shared_case()


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """A copy of the engine folder, to be changed."""
    return Path(shutil.copytree(case.folder, tmp_path / "engine"))


@pytest.mark.slow
def test_every_artifact_passes_on_fresh_seeds_and_the_table_says_so(case: Case, tmp_path: Path) -> None:
    withheld = dataclasses.replace(case.manifest.artifacts[0], name="gone_fp32", file=None, sha256=None)
    one = case.manifest.artifacts[:1]
    report = run_parity(case.folder, case.manifest, case.truth, [*case.manifest.artifacts, withheld], seed=SEED)
    *passed, gone = report.artifacts
    assert len(passed) == 6 and all(artifact.status == "passed" for artifact in passed), format_table(report)
    assert gone.status == "failed" and not report.passed
    assert report.stability.stable and report.stability.diverged == 0
    for artifact in passed:
        step = artifact.one_step
        assert step is not None and 0 < step.relative < step.worst_row
        assert [(r.frames, r.num_envs) for r in artifact.rollouts] == [(100, 256), (500, 64)]
        assert all(0 < r.mean < r.median <= r.p99 <= r.max for r in artifact.rollouts)
        assert all(gate.gated and gate.needs <= gate.allowed for gate in artifact.gates) and len(artifact.gates) == 2

    again, other = (run_parity(case.folder, case.manifest, case.truth, one, seed=SEED + more) for more in (0, 1))
    assert again.passed and other.passed and again.seed == SEED
    assert again.artifacts[0] == passed[0] and other.artifacts[0].one_step != passed[0].one_step

    table = format_table(report, with_joints=True)
    assert max(map(len, table.splitlines())) <= 120 and table.isascii()
    assert table.count("PASS") == 6 and table.count("FAIL: withheld") == 1
    assert f"seed {SEED}" in table and table.count("joint_4") == 6
    assert passed[0].one_step is not None and f"{passed[0].one_step.relative:.1e}" in table
    for text in ("{}", "[]", "nonsense", report.to_json().replace('"seed"', '"sead"'), report.to_json()):
        (tmp_path / "parity.json").write_text(text)
        if text == report.to_json():
            assert read_report(tmp_path) == report
        else:
            with pytest.raises(ParityError, match="malformed"):
                read_report(tmp_path)


@pytest.mark.slow
def test_states_are_visited_and_random_under_commands_over_the_whole_range(case: Case) -> None:
    states = case.inputs.states
    assert len(states.motion) == 8192 and states.num_visited == 4096
    expected = case.independent.step(states.motion, states.command)
    torch.testing.assert_close(states.next_motion, expected, rtol=1e-12, atol=1e-12)

    rollouts = case.inputs.rollouts
    frames = torch.cat([rollouts.course.start[None].double(), rollouts.short]).flatten(0, 1)
    visited = {row.numpy().tobytes() for row in torch.cat([frames, rollouts.long.flatten(0, 1)]).float()}
    assert all(row.numpy().tobytes() in visited for row in states.motion[:4096])
    normalised = case.truth.normalise(states.motion[4096:])
    assert abs(float(normalised.mean())) < 0.05 and 1.5 < float(normalised.std()) < 2.0  # 1, and 3 for a quarter

    low, high = (torch.tensor(side) for side in (case.manifest.command_range.min, case.manifest.command_range.max))
    for command in (states.command[:4096], states.command[4096:], rollouts.course.commands.flatten(0, 1)):
        corner = ((command == low) | (command == high)).all(1)
        assert ((command >= low) & (command <= high)).all()
        assert 0.1 < float(corner.float().mean()) < 0.5
        assert len({tuple(row) for row in command[corner].tolist()}) == 2 ** len(low)
        assert torch.histc(command[~corner][:, 0], 10).min() > 0
    changes = (rollouts.course.commands[1:100] != rollouts.course.commands[:99]).any(2).sum(0)
    assert set(changes.tolist()) == {0, 1} and 100 < int(changes.sum()) <= 128


@pytest.mark.slow
def test_rollouts_are_the_reference_fed_with_its_own_output(case: Case) -> None:
    rollouts = case.inputs.rollouts
    env = SEED % 64
    state = rollouts.course.start[env : env + 1]
    for t in range(500):
        state = case.independent.step(state, rollouts.course.commands[t, env : env + 1])
        torch.testing.assert_close(rollouts.long[t, env : env + 1], state, rtol=1e-9, atol=1e-9)
        if t < 100:
            assert torch.equal(rollouts.short[t, env], rollouts.long[t, env])


@pytest.mark.slow
def test_figures_are_those_of_an_error_put_in_on_purpose(case: Case) -> None:
    """Joint 3 is off by 0.01 rad and joint 1 by 0.5 rad/s; what follows from it is worked out in plain numpy."""
    offset = torch.zeros(2 * JOINTS)
    offset[3], offset[JOINTS + 1] = 0.01, -0.5
    plain = exact(case)

    def step(motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        plain(motion, command, out)
        out += offset

    errors = measure(backend_of(step), CPU, case.inputs.rollouts.course, lambda: case.inputs)
    names = tuple("abcde")
    figures = one_step(errors, case.truth, case.inputs, names)
    std = np.asarray(case.manifest.stats.motion_std)
    expected = case.truth.normalise(case.inputs.states.next_motion).numpy()
    size = float(np.linalg.norm(offset.numpy() / std))
    assert figures.relative == pytest.approx(size * 8192**0.5 / np.linalg.norm(expected), rel=1e-3)
    assert figures.worst_row == pytest.approx(size / np.linalg.norm(expected, axis=1).min(), rel=1e-3)
    assert (figures.max_rad, figures.max_rad_s) == pytest.approx((0.01, 0.5), rel=1e-3)
    assert (figures.max_rad_joint, figures.max_rad_s_joint) == ("d", "b")

    rollouts = case.inputs.rollouts
    state, frames = rollouts.course.start, []
    for t in range(100):
        state = (case.independent.step(state, rollouts.course.commands[t]).float() + offset).float()
        frames.append(np.abs(state.double().numpy() - rollouts.short[t].numpy())[:, :JOINTS])
    error = np.stack(frames)
    short, long = rollout_errors(errors, names)
    worst = error.max(axis=(0, 2))
    found = (short.mean, short.median, short.p99, short.max)
    assert found == pytest.approx((error.mean(), np.median(worst), np.quantile(worst, 0.99), worst.max()), rel=1e-4)
    assert short.max_joint == names[int(error.max(axis=(0, 1)).argmax())]
    assert (long.frames, long.num_envs) == (500, 64) and long.median > 0

    joints = per_joint(errors, names)
    assert [joint.joint for joint in joints] == list(names)
    assert joints[3].one_step_rad == figures.max_rad and joints[1].one_step_rad_s == figures.max_rad_s
    assert joints[2].rollout_100_median_rad == pytest.approx(np.median(error.max(axis=0)[:, 2]), rel=1e-3)
    assert max(joint.rollout_100_max_rad or 0 for joint in joints) == short.max


def test_rounding_up_gives_a_tolerance_that_passes() -> None:
    rng = np.random.default_rng(SEED)
    for value in [*(10.0 ** rng.uniform(-9, 1, 200)), 1e-5, 9.99e-6, 2e-3]:
        rounded = float(round_up(float(value)))
        assert value <= rounded <= value * 1.1
    assert round_up(1e-5) == "1.0e-05" and round_up(9.91e-6) == "1.0e-05"


@pytest.mark.slow
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
    wrong = {
        "was not made from": (copy, other),
        "does not match the hash": (tampered, case.checkpoint),
        "cannot read ": (copy, case.checkpoint, "--data", tmp_path / "no.yaml"),
    }
    if not torch.cuda.is_available():
        wrong["is not there"] = (copy, case.checkpoint, "--device", "cuda")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    for message, arguments in wrong.items():
        assert main([*map(str, arguments)]) == 2, message
        said = capsys.readouterr()
        assert said.err.startswith("cmg_export.parity: ") and said.err.count("\n") == 1 and message in said.err
        assert said.out == "" and {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.gpu
def test_on_cuda_with_tf32_switched_on_by_the_caller(case: Case) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as mjlab does
    try:
        report = run_parity(case.folder, case.manifest, case.truth, device="cuda", seed=SEED)
    finally:
        torch.set_float32_matmul_precision(before)
    assert report.device.startswith("cuda, ")
    assert "failed" not in statuses(report).values(), format_table(report)
    assert {"torch_fp32", "torch_fp16"} <= {a.name for a in report.artifacts if a.status == "passed"}
