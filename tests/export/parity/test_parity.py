"""Parity: what it measures is what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cmg_export.parity import format_table, run_parity
from cmg_export.parity.measure import measure, one_step, per_joint, rollout_errors
from engine_folder import SEED
from parity_case import CPU, JOINTS, Case, backend_of, exact, shared_case, statuses


@pytest.fixture
def case() -> Case:
    return shared_case()


def test_every_artifact_passes_on_fresh_seeds(case: Case) -> None:
    torch_only = [artifact for artifact in case.manifest.artifacts if artifact.backend == "torch"]
    report = run_parity(case.folder, case.manifest, case.truth, seed=SEED)
    other = run_parity(case.folder, case.manifest, case.truth, torch_only, seed=SEED + 1)
    assert set(statuses(report).values()) == {"passed"} and len(report.artifacts) == 6, format_table(report)
    assert report.passed and other.passed, format_table(other)
    assert report.stability.stable and report.stability.diverged == 0
    assert other.artifacts[0].one_step != report.artifacts[0].one_step
    for artifact in report.artifacts:
        step = artifact.one_step
        assert step is not None and 0 < step.relative < step.worst_row
        assert [(r.frames, r.num_envs) for r in artifact.rollouts] == [(100, 256), (500, 64)]
        assert all(0 < r.mean < r.median <= r.p99 <= r.max for r in artifact.rollouts)
        assert all(gate.gated and gate.needs <= gate.allowed for gate in artifact.gates) and len(artifact.gates) == 2


def test_same_seed_gives_the_same_report(case: Case) -> None:
    chosen = case.manifest.artifacts[:1]
    first, second = (run_parity(case.folder, case.manifest, case.truth, chosen, seed=SEED).to_json() for _ in range(2))
    assert first == second
    assert json.loads(first)["seed"] == SEED


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


def test_rollouts_are_the_reference_fed_with_its_own_output(case: Case) -> None:
    rollouts = case.inputs.rollouts
    env = SEED % 64
    state = rollouts.course.start[env : env + 1]
    for t in range(500):
        state = case.independent.step(state, rollouts.course.commands[t, env : env + 1])
        torch.testing.assert_close(rollouts.long[t, env : env + 1], state, rtol=1e-9, atol=1e-9)
        if t < 100:
            assert torch.equal(rollouts.short[t, env], rollouts.long[t, env])


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
