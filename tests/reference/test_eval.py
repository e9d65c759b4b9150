"""The evaluation, on motions whose truth is known: synthetic walks, frozen, exploding and mirrored ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.checkpoint.reader import Stats
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.eval_cmg import MIN_FRAMES, evaluate, main
from CMG_Ref.evaluation import velocity_reader
from CMG_Ref.evaluation.calibration import BUILT_IN, Calibration, StandingFoot, calibration_from_dict
from CMG_Ref.evaluation.grid import Case, Command, command_grid, make_starts
from CMG_Ref.evaluation.results import Evaluation
from CMG_Ref.evaluation.rollouts import LIMIT_MARGIN, measure, roll_out
from CMG_Ref.evaluation.velocity_reader import VelocityReader, fit_reader, read_reader, write_reader
from CMG_Ref.files.torch_files import save_checkpoint
from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import default_dof_pos
from CMG_Ref.robot_g1.chain import g1_chain
from CMG_Ref.robot_g1.gait import StanceVelocity, leg_speed
from synthetic_gait import clip_arrays, mirror, stand, walk

UNITY = Calibration(1.0, 1.0, 1.0, 1.0)
FOOT = StandingFoot(UNITY)
EXACT_FOOT = StandingFoot(UNITY, dtype=torch.float64)
FORWARD, TURN_LEFT, TURN_RIGHT = (Case("forward", (0.6, 0.0, yaw)) for yaw in (0.0, 0.4, -0.4))


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
    """Of single walks, leaning ones too; of a batch, and of the same in the mirror."""
    stance = StanceVelocity(dtype=torch.float64)
    for lean, tolerance in ((0.0, 0.02), (0.08, 0.12), (-0.08, 0.12)):
        truth = rng.uniform((-0.8, -0.4, -0.7), (1.0, 0.4, 0.7))
        dof_pos = torch.tensor(walk(tuple(truth), seconds=4, stride=rng.choice([0.6, 0.8, 0.9]), lean=lean))
        assert stance.mean(dof_pos).numpy() == pytest.approx(truth, abs=tolerance), f"lean {lean}"
    motions = np.stack([walk((0.7, 0.2, -0.5), 2), walk((-0.3, -0.3, 0.2), 2)], axis=1)
    motions = motions + rng.normal(0, 0.01, motions.shape)
    plain, mirrored = (stance.mean(torch.tensor(m)) for m in (motions, mirror(motions)))
    # The feet of the model differ by a millimetre from left to right.
    torch.testing.assert_close(mirrored, plain * torch.tensor([1, -1, -1]), atol=0.01, rtol=0)
    torch.testing.assert_close(stance.mean(torch.tensor(motions[:, 1])), plain[1])


def test_leg_speed_is_of_the_legs(rng: np.random.Generator) -> None:
    rate, ramp = rng.uniform(0.1, 1.0), np.zeros((120, 29))
    ramp[:, 4] = rate * np.arange(120) / 50  # one leg joint of twelve
    ramp[:, 20] = np.arange(120)  # an arm does not count
    assert leg_speed(torch.tensor(ramp)).numpy() == pytest.approx(np.full(70, rate / np.sqrt(12)))


def test_measures_tell_good_from_frozen_wild_and_out_of_limits(rng: np.random.Generator) -> None:
    good = walk((0.6, 0.0, 0.0))
    frozen = np.concatenate([good[:350], np.repeat(good[349:350], 150, axis=0)])
    wild = good * (1 + 0.05 * np.exp(np.linspace(0, 12, 500)))[:, None]
    broken = good.copy()
    broken[400, 3] = np.nan
    joint = int(rng.integers(12, 29))
    upper = g1_chain().joint_upper[joint]
    inside, outside = good.copy(), good.copy()
    inside[100, joint], outside[100, joint] = upper + LIMIT_MARGIN - 0.01, upper + LIMIT_MARGIN + 0.01
    motions = np.stack([good, frozen, wild, broken, inside, outside], axis=1)
    velocities = np.gradient(motions, axis=0) * 50
    velocities[:, 4:] = 0  # one frame out of line, as such, is no blow-up here
    found = measure((FORWARD,), torch.tensor(motions)[:, None], torch.tensor(velocities)[:, None], EXACT_FOOT)
    assert found.stable[0].tolist() == [True, True, False, False, True, True]
    assert found.within_limits[0].tolist() == [True, True, False, False, True, False]
    assert found.lively[0, :2].tolist() == [True, False]
    assert found.ok[0].tolist() == [True, False, False, False, True, False]


def test_stopping_means_walking_before_and_standing_after() -> None:
    moving = walk((0.6, 0.0, 0.0))
    # One stands 1 s after the command, the other after 2.6 s.
    stops, late = (np.concatenate([moving[:stop], stand((500 - stop) / 50)]) for stop in (250, 330))
    dof_pos = torch.tensor(np.stack([stops, late, moving, stand()], axis=1))[:, None]
    for case, lively in (
        (Case("stopping", (0.6, 0.0, 0.0)), [True, False, False, False]),
        (Case("standing", (0.0, 0.0, 0.0)), [False, False, False, True]),
    ):
        assert measure((case,), dof_pos, torch.zeros_like(dof_pos), EXACT_FOOT).lively[0].tolist() == lively


def test_rollout_against_a_plain_loop(rng: np.random.Generator, stats: Stats) -> None:
    torch.manual_seed(int(rng.integers(1 << 30)))
    model, cases = CMG(hidden_dim=24, num_experts=3, num_layers=2), (TURN_LEFT, Case("stopping", (0.8, 0.0, 0.8)))
    starts = torch.tensor(rng.normal(0, 0.3, (3, 58)), dtype=torch.float32)
    dof_pos, dof_vel = roll_out(model, stats, cases, starts, 230)
    assert dof_pos.shape == (230, 2, 3, 29)
    for c, case in enumerate(cases):
        motion = (starts[2:] - stats.motion_mean) / stats.motion_std
        for frame in range(230):
            command = torch.tensor([case.command if c == 0 or frame < 200 else (0.0, 0.0, 0.0)])
            scaled = 2 * (command - stats.command_min) / (stats.command_max - stats.command_min) - 1
            with torch.no_grad():
                motion = model(motion, scaled)
            physical = (motion * stats.motion_std + stats.motion_mean)[0]
            found = torch.cat([dof_pos[frame, c, 2], dof_vel[frame, c, 2]])
            torch.testing.assert_close(found, physical, atol=1e-3, rtol=0)


def test_evaluation_passes_a_good_generator_and_mirrors(stats: Stats) -> None:
    still = (0.0, 0.0, 0.0)
    cases, left = (FORWARD, TURN_LEFT, TURN_RIGHT, Case("standing", still)), walk(TURN_LEFT.command)
    motions = {FORWARD.command: walk(FORWARD.command), TURN_LEFT.command: left, TURN_RIGHT.command: mirror(left)}
    motions[still] = stand()

    def judged(cases: tuple[Case, ...]) -> tuple[Evaluation, list[str]]:
        found = evaluate(Replay(motions, stats), stats, velocity=FOOT, cases=cases, num_rollouts=4)
        return found, [criterion.name for criterion in found.criteria if not criterion.passed]

    good, missed = judged(cases)
    assert good.passed and not missed and good.velocity_mismatch < 0.3
    found = {r.command: r.all for r in good.cases}
    for turn in (TURN_LEFT.command, TURN_RIGHT.command):
        assert found[turn].velocity[2] == pytest.approx(turn[2], abs=0.03)
        assert found[turn].frequency == pytest.approx(1.25, abs=0.03)
    assert found[still].frequency == 0
    motions[TURN_RIGHT.command] = mirror(walk((0.6, 0.0, 0.27)))  # turns less to the right
    assert judged(cases)[1] == ["left mirrors right"]
    motions[FORWARD.command] = walk((0.4, 0.0, 0.2))  # too slow, and veers
    assert judged(cases[:1])[1] == ["forward speed", "forward veer at yaw 0"]


def test_one_bad_rollout_in_sixteen_fails_its_group_only(rng: np.random.Generator, stats: Stats) -> None:
    bank = with_velocities(walk(FORWARD.command, 2))
    replay = Replay({FORWARD.command: walk(FORWARD.command)}, stats)
    spoilt = int(rng.integers(16))  # the first half of the rollouts starts from the bank

    def model(motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        out = replay(motion, command)
        out[spoilt] = np.inf
        return out

    result = evaluate(model, stats, bank=bank, velocity=FOOT, cases=(FORWARD,), num_rollouts=32)
    assert [c.name for c in result.criteria if not c.passed] == ["forward, from bank"]
    assert result.cases[0].groups["bank"].ok == pytest.approx(15 / 16)
    assert result.cases[0].all.velocity[0] == pytest.approx(0.6, abs=0.03)


def test_calibration_comes_as_a_checkpoint_carries_it() -> None:
    factors = {"vx_forward": 0.9, "vx_backward": 0.8, "vy": 0.5, "yaw": 0.7}
    assert calibration_from_dict({**factors, "yaw_per_vy": 0.3}, "there").yaw_per_vy == 0.3
    assert calibration_from_dict(factors, "old").yaw_per_vy == 0
    with pytest.raises(ValueError, match="vy"):
        calibration_from_dict({name: factors[name] for name in ("vx_forward", "vx_backward", "yaw")}, "there")


@pytest.mark.slow
def test_a_reader_learns_what_leaning_side_steps_mean(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of walks that it has not seen, in between those it has; what the standing foot says of leaning ones is off."""
    monkeypatch.setattr(velocity_reader, "_STEPS", 1500)
    lean = 0.08
    walks = [(vx, vy, yaw) for vx in (-0.4, 0.0, 0.5) for vy in (-0.3, 0.0, 0.3) for yaw in (-0.5, 0.0, 0.5)]
    for number, velocity in enumerate(walks):
        arrays: dict[str, Any] = clip_arrays(walk(velocity, 3.0, lean=lean), velocity)
        np.savez(tmp_path / f"clip{number}.npz", **arrays)
    values = fit_reader(read_folder(tmp_path, accept=("velocity",)).usable())
    write_reader(tmp_path / "velocity.npz", values)
    reader = VelocityReader(read_reader(tmp_path / "velocity.npz"))
    for _ in range(4):
        truth = tuple(rng.uniform((-0.3, -0.25, -0.4), (0.4, 0.25, 0.4)))
        dof_pos = torch.tensor(walk(truth, 4.0, lean=lean), dtype=torch.float32)
        assert reader.mean(dof_pos).numpy() == pytest.approx(truth, abs=0.08)
        batch = torch.stack([dof_pos, torch.tensor(mirror(dof_pos.numpy()), dtype=torch.float32)], dim=1)
        torch.testing.assert_close(reader.mean(batch)[0], reader.mean(dof_pos), atol=1e-4, rtol=0)
    whole = (tmp_path / "velocity.npz").read_bytes()
    (tmp_path / "velocity.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="velocity reader"):
        read_reader(tmp_path / "velocity.npz")


def test_implied_velocity_is_divided_and_the_bias_taken_off(rng: np.random.Generator) -> None:
    implied = torch.tensor(rng.normal(size=(5, 4, 3)))
    vx, vy, yaw = implied.unbind(-1)
    expected = [torch.where(vx > 0, vx / 0.9, vx / 0.8), vy / 0.7, yaw / 0.6 - 0.5 * vy / 0.7]
    torch.testing.assert_close(Calibration(0.9, 0.8, 0.7, 0.6, 0.5)(implied), torch.stack(expected, dim=-1))
    assert BUILT_IN.yaw_per_vy == pytest.approx(0.586) and 0.7 < BUILT_IN.vx_forward < 1
    with pytest.raises(ValueError, match="vy"):
        Calibration(1.0, 1.0, 0.0, 1.0)


def test_starts_come_from_bank_and_poses(rng: np.random.Generator) -> None:
    bank = torch.tensor(rng.normal(size=(5, 58)), dtype=torch.float32)
    poses = [torch.tensor(default_dof_pos()), torch.full((29,), 0.1)]
    starts = make_starts(bank, poses, 17, torch.Generator().manual_seed(1))
    assert [len(rows) for rows in starts.groups.values()] == [8, 9]
    assert all((row == bank).all(1).any() for row in starts.motion[starts.groups["bank"]])
    standing = starts.motion[starts.groups["standing"]]
    assert (standing[:, 29:] == 0).all() and torch.equal(standing[:2, :29], torch.stack(poses))
    assert len(standing.unique(dim=0)) == 9 and (standing[2, :29] - poses[0]).abs().max() < 0.15
    assert list(make_starts(None, poses, 6, torch.Generator()).groups) == ["standing"]


def test_grid_is_as_wide_as_the_range_and_holds_mirror_images(rng: np.random.Generator) -> None:
    whole = command_grid((-1.0, -0.8, -1.5), (2.5, 0.8, 1.5))
    assert {c.family for c in whole if c.moves} == {"forward", "backward", "sideways", "turning", "diagonal"}
    for axis, (least, most) in enumerate(((-1.0, 2.5), (-0.8, 0.8), (-1.5, 1.5))):
        assert {min(c.command[axis] for c in whole), max(c.command[axis] for c in whole)} == {least, most}
    low, high = rng.uniform(-1.2, -0.3, 3), rng.uniform(0.3, 1.5, 3)
    low[1:] = -high[1:]
    cases = command_grid(low.tolist(), high.tolist())
    assert set(cases) == {c for c in whole if (low <= c.command).all() and (c.command <= high).all()}
    commands = {(case.family, *case.command) for case in cases}
    assert all((case.family, *case.mirrored) in commands for case in cases if case.moves)


def test_impossible_requests_are_refused(stats: Stats) -> None:
    small = Stats(torch.zeros(46), torch.ones(46), stats.command_min, stats.command_max)
    narrow = {"bank": torch.zeros(3, 46)}
    cases: Any = ("frames", stats, {"num_frames": MIN_FRAMES - 1}), ("bank", stats, narrow), ("29 joint", small, {})
    for said, of, options in cases:
        with pytest.raises(ValueError, match=said):
            evaluate(Replay({FORWARD.command: stand()}, stats), of, **options)


@pytest.mark.slow
def test_command_line(
    tmp_path: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eval_cmg", str(tmp_path / "c.pt"), *arguments])
        status, said = main(), capsys.readouterr()
        return status, said.out, said.err

    values = {name: getattr(stats, name).numpy() for name in Stats.__annotations__}
    save_checkpoint(tmp_path / "c.pt", CMG(hidden_dim=16, num_experts=2, num_layers=2).state_dict(), values)
    status, out, _ = run("--num-rollouts", "4", "--num-frames", str(MIN_FRAMES), "--device", "cpu")
    assert status == 1 and "FAIL" in out  # untrained
    assert [line for line in out.splitlines() if len(line) > 120 and not line.startswith("written")] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "evaluation.json", "evaluation.md", "evaluation.png"]
    within_stats = command_grid(stats.command_min.tolist(), stats.command_max.tolist())
    report, table = (json.loads((tmp_path / "evaluation.json").read_text()), (tmp_path / "evaluation.md").read_text())
    assert report["passed"] is False and len(report["cases"]) == len(within_stats) and "FAIL" in table
    status, _, err = run("--device", "abacus")
    assert status == 2 and "abacus" in err
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    status, _, err = run("--out", str(tmp_path / "out"))
    assert status == 2 and len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_clips_teach_how_to_read_velocities_and_bad_ones_are_named(
    tmp_path: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(velocity_reader, "_STEPS", 3)
    clips = tmp_path / "clips"
    (clips / "deep").mkdir(parents=True)
    arrays: dict[str, Any] = clip_arrays(walk((0.5, 0.0, 0.3), 4.0), (0.5, 0.0, 0.3))
    np.savez(clips / "good.npz", **arrays)
    np.savez(clips / "deep" / "bad.npz", **arrays | {"dof_positions": np.degrees(arrays["dof_positions"])})
    values = {name: getattr(stats, name).numpy() for name in Stats.__annotations__}
    save_checkpoint(tmp_path / "c.pt", CMG(hidden_dim=16, num_experts=2, num_layers=2).state_dict(), values)
    short = ("--num-rollouts", "4", "--num-frames", str(MIN_FRAMES), "--device", "cpu")
    for more in (("--clips", str(clips)), ()):  # what was learnt lies beside the checkpoint from then on
        monkeypatch.setattr(sys, "argv", ["eval_cmg", str(tmp_path / "c.pt"), *short, *more])
        assert main() == 1
        said = capsys.readouterr()
        assert "learnt it from clips" in said.out
        named = [line for line in said.err.splitlines() if line.startswith("velocity without ")]
        assert len(named) == bool(more) and all("deep/bad" in line and "limits" in line for line in named)
