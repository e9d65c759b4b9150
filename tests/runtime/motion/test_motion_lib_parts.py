"""MotionLibCMG in parts: joints, bodies, sampling, time, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import FILE_NAME
from cmg_runtime.motion_lib import MotionLibCMG
from dropin_case import MODES, NO_WRISTS, Case, assert_frames, at_times, g1_case, library_truth, plain_bodies

MOTIONS = 40
DT = 0.02


@pytest.fixture
def case() -> Case:
    return g1_case()


def make(case: Case, **changes: Any) -> MotionLibCMG:
    arguments = {"num_motions": MOTIONS, "motion_length": 4, "horizon": 8, "num_envs": 5, "device": "cpu", **changes}
    return MotionLibCMG(case.folder, backend="torch", **arguments)


def test_23_joints_are_29_without_the_wrists(case: Case) -> None:
    whole, part = make(case), make(case, dof_dim=23)
    assert part.joint_names == NO_WRISTS
    ids, times = torch.arange(MOTIONS), torch.linspace(0, 0.08, MOTIONS)
    kept = [JOINT_NAMES.index(name) for name in NO_WRISTS]
    expected, out = whole.calc_motion_frame(ids, times), part.calc_motion_frame(ids, times)
    assert out[4].shape == out[5].shape == (MOTIONS, 23)
    assert torch.equal(out[4], expected[4][:, kept]) and torch.equal(out[5], expected[5][:, kept])
    for index in (0, 1, 2, 3, 6):  # the wrists still move the hands
        assert torch.equal(out[index], expected[index])


def test_a_checkpoint_with_23_joints_gives_23() -> None:
    case = g1_case(23)
    lib = make(case, dof_dim=23)
    out = lib.calc_motion_frame(torch.arange(MOTIONS), torch.full((MOTIONS,), 0.07))
    expected = at_times(library_truth(case, lib, 5), np.arange(MOTIONS), np.full(MOTIONS, 0.07), 50.0)
    assert_frames(out, expected)
    with pytest.raises(EngineError, match=r"dof_dim is 29, but .* has 23 joints; expected 23$"):
        make(case, dof_dim=29)


def test_a_turn_goes_the_short_way_through_half_a_circle(case: Case) -> None:
    high = case.truth.high.float()
    frames = max(240, math.ceil(1.1 * math.pi / float(high[2]) * 50))  # so that any turn passes half a circle
    lib = make(case, num_motions=1, motion_length=frames, horizon=2, commands=high[None])
    times = torch.arange(0, 480) / 480 * (frames / 48.7)
    rot = lib.calc_motion_frame(torch.zeros(480, dtype=torch.long), times)[1].double()
    yaw = 2 * torch.atan2(rot[:, 2], rot[:, 3])
    error = torch.remainder(yaw - times * float(high[2]) + math.pi, 2 * math.pi) - math.pi
    assert float(high[2] * times[-1]) > math.pi
    assert error.abs().max() < 1e-3
    assert torch.allclose(rot.norm(dim=1), torch.ones(480, dtype=torch.float64), atol=1e-6)


def test_links_that_the_engine_does_not_know_read_nan(case: Case) -> None:
    names = ("imu_link", "torso_link", "left_elbow_link", "logo_link", "head_link")
    lib = make(case, body_names=names)
    out = lib.calc_motion_frame(torch.arange(MOTIONS), torch.zeros(MOTIONS))
    expected, _ = plain_bodies(case.chain, out[4].double().numpy(), ("torso_link", "left_elbow_link", "head_link"))
    np.testing.assert_allclose(out[6][:, [1, 2, 4]].numpy(), expected, atol=1e-5)
    assert torch.isnan(out[6][:, [0, 3]]).all()
    assert lib.get_key_body_idx(["head_link", "torso_link"]) == [4, 1]
    with pytest.raises(EngineError, match="body 'imu_link' is unknown here; expected some of torso_link"):
        lib.get_key_body_idx(["imu_link"])


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_out_is_the_callers(case: Case, mode: str) -> None:
    with torch.inference_mode():  # where it was made is nothing to the caller either
        lib = make(case, mode=mode)
        lib.reset([1])
    ids, times = torch.tensor([0, 3, 3]), torch.tensor([0.02, 0.033, 0.06])
    lib.reset([0, 3])
    lib.step()
    first = lib.calc_motion_frame(ids, times)
    kept = [field.clone() for field in first]
    for field in first:
        assert field.is_contiguous() and torch.isfinite(field).all()
        field.fill_(7.0)
    for field, before in zip(lib.calc_motion_frame(ids.tolist(), times.numpy().astype(np.float64)), kept):
        assert torch.equal(field, before)
    assert times.tolist() == pytest.approx([0.02, 0.033, 0.06]) and lib.report() == (0, 0, 0, 0)
    env_ids = torch.tensor([3, 1])
    lib.reset(env_ids).zero_()
    assert env_ids.tolist() == [3, 1]
    none = lib.calc_motion_frame(torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert [tuple(field.shape) for field in none] == [(0, 3), (0, 4), (0, 3), (0, 3), (0, 29), (0, 29), (0, 9, 3)]


def test_difficulty_weights_the_draw_and_a_seed_repeats_it(case: Case, seed: int) -> None:
    lib = make(case, seed=seed % 1000)
    weights = torch.zeros(MOTIONS)
    weights[[3, 7, 39]] = torch.tensor([1.0, 2.0, 5.0])
    counts = torch.bincount(lib.sample_motions(8000, motion_difficulty=weights), minlength=MOTIONS)
    assert counts[[3, 7, 39]].sum() == 8000
    assert torch.allclose(counts[[3, 7, 39]] / 8000, torch.tensor([0.125, 0.25, 0.625]), atol=0.03)
    even = torch.bincount(lib.sample_motions(8000), minlength=MOTIONS)
    assert (even > 100).all() and (even < 320).all()
    assert lib.sample_motions(0).shape == (0,)
    one, same, other = (make(case, seed=seed) for seed in (4, 4, 5))
    ids = [lib.sample_motions(50).tolist() for lib in (one, same, other)]
    times = [lib.sample_time(torch.arange(20)).tolist() for lib in (one, same, other)]
    assert ids[0] == ids[1] != ids[2] and times[0] == times[1] != times[2]


def test_the_curriculum_begins_with_small_commands(case: Case) -> None:
    lib = make(case)
    commands = lib.get_motion_command(torch.arange(MOTIONS)).abs()
    effort = (commands / commands.amax(dim=0)).amax(dim=1)
    easiest = set(effort.argsort()[: MOTIONS // 4].tolist())
    assert set(lib.sample_motions(2000, curriculum_level=0.0).tolist()) == easiest
    assert len(set(lib.sample_motions(4000, curriculum_level=1.0).tolist())) == MOTIONS
    hard = torch.ones(MOTIONS)
    hard[list(easiest)[:-1]] = 0
    assert set(lib.sample_motions(50, hard, 0.0).tolist()) == {list(easiest)[-1]}  # both at once
    times = make(case, motion_length=50).sample_time(torch.zeros(4000, dtype=torch.long))  # spread over the motion
    assert times.shape == (4000,) and times.dtype == torch.float32
    assert 0 <= times.min() < 0.01 and 0.99 < times.max() < 1.0 and abs(float(times.mean()) - 0.5) < 0.03
    assert (make(case, mode="realtime").sample_time(torch.arange(5)) == 0).all()


def test_times_outside_are_clamped_and_counted(case: Case) -> None:
    lib = make(case)
    first = lib.calc_motion_frame([1], [0.0])
    for field, expected in zip(lib.calc_motion_frame([1, 1], [-0.5, 0.0]), first):
        assert torch.equal(field[:1], expected)
    with pytest.warns(RuntimeWarning, match="before_start=1"):
        assert lib.report() == (0, 1, 0, 0)

    realtime = make(case, mode="realtime")
    ids = realtime.reset([2])
    last = realtime.calc_motion_frame(ids.repeat(2), [0.0, 7 * DT])
    past = realtime.calc_motion_frame(ids.repeat(3), [0.0, 8 * DT, 3.0])  # looked ahead further than the window
    for field, expected in zip(past, last):
        assert torch.equal(field[:1], expected[:1])
        assert torch.equal(field[1:2], expected[1:]) and torch.equal(field[2:], expected[1:])
    realtime.step()
    assert torch.equal(realtime.calc_motion_frame(ids, [7 * DT])[4], last[4][1:])
    with pytest.warns(RuntimeWarning, match="past_end=2") as told:
        assert realtime.report() == realtime.report() == (0, 0, 2, 0)
    assert len(told) == 1  # once


def test_a_reset_touches_only_its_environments(case: Case) -> None:
    lib = make(case, mode="realtime")
    ids, now = lib.reset(None), torch.full((5,), DT)
    before = lib.calc_motion_frame(ids, now)
    commands = lib.get_motion_command(ids)
    ids[[3, 1]] = lib.reset(torch.tensor([3, 1]), commands=[0.1, 0.0, 0.0])
    assert len(ids.unique()) == 5 and (lib.get_motion_command(ids)[[3, 1], 0] == torch.tensor(0.1)).all()
    after = lib.calc_motion_frame(ids, now)
    for field, old in zip(after, before):
        assert torch.equal(field[[0, 2, 4]], old[[0, 2, 4]])
    assert not torch.equal(after[4][3], before[4][3])
    assert (after[0][[1, 3], :2] == 0).all()
    lib.update_commands([0.0, 0.1, 0.0], env_ids=torch.tensor([False, True, False, False, True]))
    lib.update_commands([[0.0, 0.0, 0.1]], motion_ids=ids[:1])
    commands[:] = torch.stack([torch.tensor([0.0, 0.0, 0.1]), torch.tensor([0.0, 0.1, 0.0])])[[0, 1, 0, 0, 1]]
    assert torch.allclose(lib.get_motion_command(ids)[[0, 1, 4]], commands[[0, 1, 4]])
    own, others = lib.get_motion_names(), lib.sample_motions(5)
    lib.calc_motion_frame(others, now)
    again = lib.sample_motions(5)  # what was let go of, with commands of their own again
    assert set(again.tolist()) == set(ids.tolist()) == set(range(10)) - set(others.tolist())
    assert set(lib.sample_motions(5).tolist()) == set(others.tolist())  # too many: those asked for longest ago
    assert [own[i][9:] for i in again] == [
        f"vx{vx:+.2f}_vy{vy:+.2f}_yaw{yaw:+.2f}" for vx, vy, yaw in lib.get_motion_command(again).tolist()
    ]
    assert lib.reset([]).shape == (0,)


def test_environments_never_share_a_motion_by_resets(case: Case, seed: int) -> None:
    """Once all have been asked for, whoever is reset how often: each environment's commands are its own motion's."""
    random = np.random.default_rng(seed)
    lib = make(case, mode="realtime", horizon=2)
    ids, commands, range_ = torch.arange(5), lib.motion_commands[:5], case.truth.high.numpy()
    lib.calc_motion_frame(ids, torch.zeros(5))
    for _ in range(40):
        some = random.permutation(5)[: random.integers(1, 4)]
        ids[some] = lib.reset(some)
        assert len(ids.unique()) == 5
        if random.random() < 0.3:
            lib.calc_motion_frame(ids, torch.zeros(5))
        commands[some] = lib.get_motion_command(ids[some])
        steered, new = torch.tensor(random.random(5) < 0.5), torch.tensor(random.random((5, 3)) * range_).float()
        commands[steered] = new[steered]
        lib.update_commands(new, steered) if random.random() < 0.5 else lib.update_commands(commands)
        torch.testing.assert_close(lib.get_motion_command(ids), commands)


def test_bad_queries_are_refused(case: Case) -> None:
    lib, realtime, ids, times = (
        make(case),
        make(case, mode="realtime"),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(3),
    )
    kept = "pregenerated motions keep their commands"
    refused: list[tuple[Any, tuple[Any, ...], str]] = [
        (lib.calc_motion_frame, (ids + MOTIONS, times), f"motion_ids has {MOTIONS}; expected 0..{MOTIONS - 1}"),
        (lib.calc_motion_frame, (ids.float(), times), "motion_ids has type torch.float32; expected integers"),
        (lib.calc_motion_frame, (ids, times[:2]), r"motion_times has shape \[2\]; expected \[3\]"),
        (lib.calc_motion_frame, (ids, times * math.nan), "motion_times has entries that are NaN"),
        (lib.calc_motion_frame, (ids.unsqueeze(1), times), r"motion_ids has shape \[3, 1\]"),
        (lib.calc_motion_frame, (ids, times.to("meta")), "motion_times is on meta; expected cpu"),
        (lib.get_motion_length, (40,), "motion_ids has 40"),
        (lib.sample_motions, (3, -torch.ones(MOTIONS)), "motion_difficulty.*negative"),
        (lib.sample_motions, (3, torch.zeros(MOTIONS)), "motion_difficulty.*zeros"),
        (lib.sample_motions, (3, [1.0]), "motion_difficulty.*shape"),
        (lib.sample_motions, (3, None, 1.5), "curriculum_level is 1.5"),
        (lib.sample_motions, (-3,), "n is -3"),
        (lib.update_commands, ([0, 0, 0],), kept),
        (lambda: lib.reset([0], commands=[0, 0, 0]), (), kept),
        (realtime.sample_motions, (11,), "n is 11; expected at most 10"),
        (realtime.reset, ([5],), "env_ids has 5"),
        (realtime.update_commands, ([0, 0, 0], None, [10]), "motion_ids has 10; expected 0..9"),
        (realtime.update_commands, ([0, 0, 0], [1], [1]), "has env_ids and motion_ids; expected one of them"),
        (realtime.update_commands, ([math.nan, 0, 0],), "commands has entries that are NaN or infinite"),
    ]
    for call, given, message in refused:
        with pytest.raises(EngineError, match=message):
            call(*given)


def test_bad_settings_are_refused(case: Case, tmp_path: Path) -> None:
    no_robot = Path(shutil.copytree(case.folder, tmp_path / "no_robot"))
    (no_robot / FILE_NAME).write_text(dataclasses.replace(case.manifest, robot=None).to_json())
    for changes, message in (
        ({"mode": "live"}, "unknown mode 'live'; expected pregenerated or realtime"),
        ({"fps": 30}, "fps is 30, the engine's frames are 50 a second"),
        ({"dof_dim": 28}, r"dof_dim is 28, but .* has 29 joints; expected 29 or 23 \(no wrists\)"),
        ({"num_motions": 0}, "num_motions is 0"),
        ({"motion_length": 2.5}, "motion_length is 2.5"),
        ({"body_names": ["tail"]}, "has none of the bodies tail; it has pelvis"),
        ({"body_names": ["pelvis", "pelvis"]}, "same name twice"),
        ({"commands": torch.zeros(3, 3)}, r"commands has shape \[3, 3\]"),
        ({"control_dt": 0.0}, "control_dt is 0.0"),
        ({"folder": no_robot}, "has no robot, so no root motion and no bodies"),
        ({"folder": tmp_path / "nothing"}, "neither an engine folder nor a checkpoint"),
    ):
        settings: dict[str, Any] = dict(changes)
        with pytest.raises(EngineError, match=message):
            make(case._replace(folder=settings.pop("folder", case.folder)), **settings)


def test_an_episode_begins_under_its_own_command(case: Case) -> None:
    """Nothing of the old command's ramp, nor of the command before it, is in a new episode's frames."""
    lib = make(case, mode="realtime", command_ramp_s=0.5)
    ids, now = lib.reset(None), torch.zeros(5)
    at_first = lib.calc_motion_frame(ids, now)
    assert torch.allclose(at_first[3][:, 2], lib.get_motion_command(ids)[:, 2], atol=1e-6)
    lib.update_commands(case.truth.high.float(), [1, 2])
    lib.step()
    command = torch.tensor([0.2, -0.1, 0.3])
    motion = lib.reset([1], commands=command)
    for time in (0.0, 0.04, 0.14):
        _, rot, velocity, turning, *_ = lib.calc_motion_frame(motion, [time])
        yaw = 2 * torch.atan2(rot[0, 2], rot[0, 3])
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        expected = torch.stack([cos * command[0] - sin * command[1], sin * command[0] + cos * command[1]])
        assert torch.allclose(velocity[0, :2], expected, atol=1e-5)
        assert float(turning[0, 2]) == pytest.approx(0.3, abs=1e-6)
        assert float(yaw) == pytest.approx(0.3 * time, abs=1e-5)


def test_commands_outside_the_range_are_clamped_and_counted(case: Case) -> None:
    high = case.truth.high.float()
    commands = torch.stack([high, high + 1, 0.5 * high])
    lib = make(case, num_motions=3, commands=commands)
    assert torch.equal(lib.get_motion_command([0, 1, 2]), torch.minimum(commands, high))
    with pytest.warns(RuntimeWarning, match="1 commands were clamped"):
        assert lib.report() == (0, 0, 0, 0)
