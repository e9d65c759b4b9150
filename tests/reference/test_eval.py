"""The evaluation, on motions whose truth is known: synthetic walks, frozen, exploding and mirrored ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from cmg_export.read.robot import g1_model
from CMG_Ref.checkpoint.reader import Stats, as_reference, read_checkpoint
from CMG_Ref.eval_cmg import MIN_FRAMES, evaluate, main
from CMG_Ref.evaluation.calibration import BUILT_IN, Calibration, calibrate
from CMG_Ref.evaluation.gait import StanceVelocity, estimate_velocity, leg_speed, step_frequency
from CMG_Ref.evaluation.grid import Case, Command, command_grid, make_starts
from CMG_Ref.evaluation.rollouts import LIMIT_MARGIN, measure, roll_out
from CMG_Ref.files.torch_files import save_checkpoint
from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from synthetic_gait import clip_arrays, mirror, stand, walk

UNITY = Calibration(1.0, 1.0, 1.0, 1.0)
FORWARD, TURN_LEFT, TURN_RIGHT = (Case("forward", (0.6, 0.0, yaw)) for yaw in (0.0, 0.4, -0.4))


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture
def stats(rng: np.random.Generator) -> Stats:
    mean, std = rng.normal(0, 0.2, 58), rng.uniform(0.1, 2.0, 58)
    values = (mean, std, np.array([-1.0, -0.9, -2.0]), np.array([1.7, 1.0, 2.1]))
    return Stats(*(torch.tensor(v, dtype=torch.float32) for v in values))


def with_velocities(dof_pos: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.concatenate([dof_pos, np.gradient(dof_pos, axis=0) * 50], axis=1), dtype=torch.float32)


class Replay:
    """A generator that ignores its own output and plays a given motion for each command."""

    def __init__(self, motions: dict[Command, np.ndarray], stats: Stats) -> None:
        self._motions = [stats.normalise_motion(with_velocities(m)) for m in motions.values()]
        self._commands = stats.normalise_command(torch.tensor(list(motions)))
        self._frame = 0

    def __call__(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        which = torch.cdist(command, self._commands).argmin(1)
        frames = torch.stack([m[self._frame] for m in self._motions])
        self._frame += 1
        return frames[which]


def test_velocity_of_synthetic_walks(rng: np.random.Generator) -> None:
    for lean, tolerance in ((0.0, 0.02), (0.08, 0.12), (-0.08, 0.12)):
        truth = rng.uniform((-0.8, -0.4, -0.7), (1.0, 0.4, 0.7))
        dof_pos = torch.tensor(walk(tuple(truth), seconds=4, stride=rng.choice([0.6, 0.8, 0.9]), lean=lean))
        found = torch.stack(estimate_velocity(dof_pos))
        assert found.numpy() == pytest.approx(truth, abs=tolerance), f"lean {lean}"


def test_velocity_is_mirrored_with_the_motion_and_batched(rng: np.random.Generator) -> None:
    motions = np.stack([walk((0.7, 0.2, -0.5), 2), walk((-0.3, -0.3, 0.2), 2)], axis=1)
    motions = motions + rng.normal(0, 0.01, motions.shape)
    stance = StanceVelocity(dtype=torch.float64)
    plain = stance.mean(torch.tensor(motions))
    mirrored = stance.mean(torch.tensor(mirror(motions)))
    # The feet of the model differ by a millimetre from left to right.
    torch.testing.assert_close(mirrored, plain * torch.tensor([1, -1, -1]), atol=0.01, rtol=0)
    torch.testing.assert_close(stance.mean(torch.tensor(motions[:, 1])), plain[1])


def test_velocity_is_differentiable() -> None:
    dof_pos = torch.tensor(walk((0.5, 0.0, 0.0), 1), requires_grad=True)
    StanceVelocity(dtype=torch.float64).mean(dof_pos)[0].backward()
    assert dof_pos.grad is not None and dof_pos.grad.isfinite().all() and dof_pos.grad.abs().max() > 0


def test_step_frequency_and_leg_speed(rng: np.random.Generator) -> None:
    frequency, rate = rng.uniform(0.5, 2.5), rng.uniform(0.1, 1.0)
    time = np.arange(400) / 50
    dof_pos = np.zeros((400, 29))
    dof_pos[:, 0] = 0.3 * np.sin(2 * np.pi * frequency * time) + rng.normal()
    dof_pos[:, 6] = -0.3 * np.sin(2 * np.pi * frequency * time)
    assert step_frequency(torch.tensor(dof_pos)).item() == pytest.approx(frequency, abs=0.03)
    ramp = np.zeros((120, 29))
    ramp[:, 4] = rate * np.arange(120) / 50  # one leg joint of twelve
    ramp[:, 20] = np.arange(120)  # an arm does not count
    speed = leg_speed(torch.tensor(ramp))
    assert speed.shape == (70,)
    assert speed.numpy() == pytest.approx(rate / np.sqrt(12))
    assert step_frequency(torch.zeros(200, 29)).item() == 0


def test_measures_tell_good_from_frozen_wild_and_out_of_limits(rng: np.random.Generator) -> None:
    good = walk((0.6, 0.0, 0.0))
    frozen = np.concatenate([good[:350], np.repeat(good[349:350], 150, axis=0)])
    wild = good * (1 + 0.05 * np.exp(np.linspace(0, 12, 500)))[:, None]
    broken = good.copy()
    broken[400, 3] = np.nan
    model = mujoco.MjModel.from_xml_path(str(g1_model()))  # pyright: ignore[reportAttributeAccessIssue]
    joint = int(rng.integers(12, 29))
    upper = model.jnt_range[model.joint(JOINT_NAMES[joint]).id, 1]
    inside, outside = good.copy(), good.copy()
    inside[100, joint], outside[100, joint] = upper + LIMIT_MARGIN - 0.01, upper + LIMIT_MARGIN + 0.01
    motions = np.stack([good, frozen, wild, broken, inside, outside], axis=1)
    velocities = np.gradient(motions, axis=0) * 50
    velocities[:, 4:] = 0  # one frame out of line, as such, is no blow-up here
    found = measure((FORWARD,), torch.tensor(motions)[:, None], torch.tensor(velocities)[:, None], UNITY)
    assert found.stable[0].tolist() == [True, True, False, False, True, True]
    assert found.within_limits[0].tolist() == [True, True, False, False, True, False]
    assert found.lively[0, :2].tolist() == [True, False]
    assert found.ok[0].tolist() == [True, False, False, False, True, False]


def test_stopping_means_walking_before_and_standing_after(stats: Stats) -> None:
    moving = walk((0.6, 0.0, 0.0))
    stops = np.concatenate([moving[:250], stand(5)])
    late = np.concatenate([moving[:330], stand(3.4)])  # 2.6 s after the command
    motions = np.stack([stops, late, moving, stand()], axis=1)
    dof_pos = torch.tensor(motions)[:, None]
    found = measure((Case("stopping", (0.6, 0.0, 0.0)),), dof_pos, torch.zeros_like(dof_pos), UNITY)
    assert found.lively[0].tolist() == [True, False, False, False]
    found = measure((Case("standing", (0.0, 0.0, 0.0)),), dof_pos, torch.zeros_like(dof_pos), UNITY)
    assert found.lively[0].tolist() == [False, False, False, True]


def test_rollout_against_a_plain_loop(rng: np.random.Generator, stats: Stats) -> None:
    torch.manual_seed(int(rng.integers(1 << 30)))
    model, cases = (
        CMG(hidden_dim=24, num_experts=3, num_layers=2).eval(),
        (TURN_LEFT, Case("stopping", (0.8, 0.0, 0.8))),
    )
    starts = torch.tensor(rng.normal(0, 0.3, (3, 58)), dtype=torch.float32)
    dof_pos, dof_vel = roll_out(model, stats, cases, starts, 230)
    assert dof_pos.shape == (230, 2, 3, 29)
    for c, case in enumerate(cases):
        motion = (starts[2:] - stats.motion_mean) / stats.motion_std
        for frame in range(230):
            command = torch.tensor([case.command if c == 0 or frame < 200 else (0.0, 0.0, 0.0)])
            span = stats.command_max - stats.command_min
            with torch.no_grad():
                motion = model(motion, 2 * (command - stats.command_min) / span - 1)
            physical = (motion * stats.motion_std + stats.motion_mean)[0]
            torch.testing.assert_close(
                torch.cat([dof_pos[frame, c, 2], dof_vel[frame, c, 2]]), physical, atol=1e-3, rtol=0
            )


def test_evaluation_passes_a_good_generator_and_mirrors(stats: Stats) -> None:
    cases = (FORWARD, TURN_LEFT, TURN_RIGHT, Case("standing", (0.0, 0.0, 0.0)))
    left = walk(TURN_LEFT.command)
    motions = {FORWARD.command: walk(FORWARD.command), TURN_LEFT.command: left}
    motions |= {TURN_RIGHT.command: mirror(left), (0.0, 0.0, 0.0): stand()}
    good = evaluate(Replay(motions, stats), stats, calibration=UNITY, cases=cases, num_rollouts=4)
    assert good.passed and good.velocity_mismatch < 0.3
    turns = {r.command: r.all for r in good.cases}
    assert turns[TURN_LEFT.command].velocity[2] == pytest.approx(0.4, abs=0.03)
    assert turns[TURN_RIGHT.command].velocity[2] == pytest.approx(-0.4, abs=0.03)
    assert turns[TURN_LEFT.command].frequency == pytest.approx(1.25, abs=0.03)

    motions[TURN_RIGHT.command] = mirror(walk((0.6, 0.0, 0.2)))  # turns too little to the right
    lopsided = evaluate(Replay(motions, stats), stats, calibration=UNITY, cases=cases, num_rollouts=4)
    assert [c.name for c in lopsided.criteria if not c.passed] == ["left mirrors right"]

    motions[FORWARD.command] = walk((0.4, 0.0, 0.2))  # too slow, and veers
    slow = evaluate(Replay(motions, stats), stats, calibration=UNITY, cases=cases[:1], num_rollouts=4)
    assert [c.name for c in slow.criteria if not c.passed] == ["forward speed", "forward veer at yaw 0"]


def test_one_bad_rollout_in_sixteen_fails_its_group_only(rng: np.random.Generator, stats: Stats) -> None:
    bank = with_velocities(walk(FORWARD.command, 2))
    replay = Replay({FORWARD.command: walk(FORWARD.command)}, stats)
    spoilt = int(rng.integers(16))  # the first half of the rollouts starts from the bank

    def model(motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        out = replay(motion, command)
        out[spoilt] = np.inf
        return out

    result = evaluate(model, stats, bank=bank, calibration=UNITY, cases=(FORWARD,), num_rollouts=32)
    assert [c.name for c in result.criteria if not c.passed] == ["forward, from bank"]
    assert result.cases[0].groups["bank"].ok == pytest.approx(15 / 16)
    assert result.cases[0].all.velocity[0] == pytest.approx(0.6, abs=0.03)


def test_calibration_recovers_a_known_factor(rng: np.random.Generator, tmp_path: Path) -> None:
    factor = rng.uniform(0.6, 0.95)
    for i, velocity in enumerate([(0.6, 0.0, 0.0), (-0.5, 0.0, 0.0), (0.0, 0.35, 0.0), (0.5, 0.0, 0.5)]):
        true = (velocity[0] / factor, velocity[1] / factor, velocity[2] / factor)
        arrays: dict[str, Any] = clip_arrays(walk(velocity, 6.0), true)
        np.savez(tmp_path / f"clip{i}.npz", **arrays)
    found = calibrate(tmp_path)
    for name in ("vx_forward", "vx_backward", "vy", "yaw"):
        assert getattr(found, name) == pytest.approx(factor, rel=0.03), name
        assert found.scatter[name] < 0.02
    implied = torch.tensor([[factor, -factor, factor], [-factor, factor, 0.0]])
    torch.testing.assert_close(found(implied), torch.tensor([[1.0, -1, 1], [-1, 1, 0]]), atol=0.05, rtol=0)
    (tmp_path / "clip1.npz").unlink()
    with pytest.raises(ValueError, match="vx_backward"):
        calibrate(tmp_path)


def test_starts_come_from_bank_and_poses(rng: np.random.Generator) -> None:
    bank = torch.tensor(rng.normal(size=(5, 58)), dtype=torch.float32)
    poses = [torch.tensor(default_dof_pos()), torch.full((29,), 0.1)]
    starts = make_starts(bank, poses, 17, torch.Generator().manual_seed(1))
    assert [len(rows) for rows in starts.groups.values()] == [8, 9]
    assert all((row == bank).all(1).any() for row in starts.motion[starts.groups["bank"]])
    standing = starts.motion[starts.groups["standing"]]
    assert (
        (standing[:, 29:] == 0).all()
        and torch.equal(standing[0, :29], poses[0])
        and torch.equal(standing[1, :29], poses[1])
    )
    assert len(standing.unique(dim=0)) == 9 and (standing[2, :29] - poses[0]).abs().max() < 0.15
    assert list(make_starts(None, poses, 6, torch.Generator()).groups) == ["standing"]


def test_grid_holds_what_the_bars_speak_of() -> None:
    commands = {(case.family, *case.command) for case in command_grid()}
    for case in command_grid():
        if case.family not in ("stopping", "standing"):
            assert (case.family, *case.mirrored) in commands
    assert {c[1] for c in commands if c[0] == "forward"} == {0.4, 0.6, 0.8, 1.0, 1.2, 1.4}
    assert {c[1] for c in commands if c[0] == "backward"} == {-0.4, -0.5, -0.6, -0.7}
    assert {c[2] for c in commands if c[0] == "sideways"} == {0.4, -0.4, 0.5, -0.5, 0.6, -0.6}


def test_impossible_requests_are_refused(stats: Stats) -> None:
    replay = Replay({FORWARD.command: stand()}, stats)
    with pytest.raises(ValueError, match="frames"):
        evaluate(replay, stats, num_frames=MIN_FRAMES - 1)
    with pytest.raises(ValueError, match="bank"):
        evaluate(replay, stats, bank=torch.zeros(3, 46))
    with pytest.raises(ValueError, match="29 joint"):
        evaluate(replay, Stats(torch.zeros(46), torch.ones(46), stats.command_min, stats.command_max))
    with pytest.raises(ValueError, match="vy"):
        Calibration(1.0, 1.0, 0.0, 1.0)
    assert 0.7 < BUILT_IN.vx_forward < 1


def write_checkpoint(path: Path, stats: Stats) -> dict[str, torch.Tensor]:
    state = CMG(hidden_dim=16, num_experts=2, num_layers=2).state_dict()
    values = {name: getattr(stats, name).numpy() for name in Stats.__annotations__}
    save_checkpoint(path, state, {**values, "num_joints": 29, "motion_dim": 58, "command_dim": 3})
    return state


def test_reference_from_checkpoint_and_from_bare_state_with_data(tmp_path: Path, stats: Stats) -> None:
    state = write_checkpoint(tmp_path / "whole.pt", stats)
    torch.save(state, tmp_path / "bare.pt")
    inputs = torch.randn(5, 58, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    whole, bare_file = tmp_path / "whole.pt", tmp_path / "bare.pt"
    model, found = as_reference(read_checkpoint(whole), dtype=torch.float64)
    bare, from_data = as_reference(read_checkpoint(bare_file, data=whole), dtype=torch.float64)
    torch.testing.assert_close(model(*inputs), bare(*inputs))
    assert torch.equal(found.motion_std.float(), stats.motion_std) and torch.equal(
        from_data.motion_std, found.motion_std
    )
    with pytest.raises(ValueError, match="stats"):
        read_checkpoint(bare_file)


def test_command_line(
    tmp_path: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eval_cmg", *arguments])
        status = main()
        out, err = capsys.readouterr()
        return status, out, err

    write_checkpoint(tmp_path / "c.pt", stats)
    status, out, _ = run(
        str(tmp_path / "c.pt"), "--num-rollouts", "4", "--num-frames", str(MIN_FRAMES), "--device", "cpu"
    )
    assert status == 1  # untrained
    assert "FAIL" in out
    assert [line for line in out.splitlines() if len(line) > 120 and not line.startswith("written")] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "evaluation.json", "evaluation.md", "evaluation.png"]
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["passed"] is False and len(report["cases"]) == len(command_grid())
    assert "FAIL" in (tmp_path / "evaluation.md").read_text()

    status, _, err = run(str(tmp_path / "c.pt"), "--device", "abacus")
    assert status == 2 and "abacus" in err
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    status, _, err = run(str(tmp_path / "c.pt"), "--out", str(tmp_path / "out"))
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
