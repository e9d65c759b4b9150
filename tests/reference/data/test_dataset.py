"""Motion synthesis, samples and stats, on clips whose velocity is known and constant."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.commands import smooth
from CMG_Ref.dataloader.dataset import DatasetConfig, build_dataset, compute_stats
from CMG_Ref.dataloader.library import MotionLibrary, build_library
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.dataloader.synthesis import SynthesisConfig, Synthesiser, draw_target
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from CMG_Ref.training.symmetry import is_symmetric
from synthetic_gait import clip_arrays, stand, walk

VELOCITIES = ((0.5, 0.0, 0.0), (-0.4, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.6), (0.0, 0.0, 0.0))
QUICK = SynthesisConfig(num_sequences=6, sequence_seconds=5.0, num_candidates=400, num_compared=50)
CODE_JOINTS = [JOINT_NAMES.index(f"waist_{axis}_joint") for axis in ("pitch", "roll", "yaw")]
"""Joints that hold vx, vy and yaw rate: mirrored and cross-faded just as the velocity must be."""


def make_arrays(rng: np.random.Generator, velocity: tuple[float, float, float], seconds: float = 8.0) -> dict[str, Any]:
    """A clip at a constant velocity: legs walk at it and arms swing, but for the joints that tell the velocity."""
    frames = round(seconds * 50)
    dof_pos = walk(velocity, seconds) if np.any(velocity) else stand(seconds)
    swing = rng.uniform(0.1, 0.4, 14) * (1 if np.any(velocity) else 0.01)
    t = np.arange(frames)[:, None] / 50
    dof_pos[:, 15:] += swing * np.sin(2 * np.pi * rng.uniform(0.8, 1.3) * t + rng.uniform(0, 6, 14))
    dof_pos[:, CODE_JOINTS] = velocity
    return clip_arrays(dof_pos, velocity)


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def folder(seed: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a clip for each velocity."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng([seed, 5])
    for number, velocity in enumerate(VELOCITIES):
        save(folder / f"clip{number}.npz", make_arrays(rng, velocity))
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    return read_folder(folder).usable()


@pytest.fixture(scope="module")
def library(clips: list[Clip]) -> MotionLibrary:
    return build_library(clips, JOINT_NAMES)


def test_playing_faster_moves_faster(library: MotionLibrary, rng: np.random.Generator) -> None:
    for track in library.tracks:
        speed, start = rng.uniform(0.6, 1.4), rng.uniform(2, 40)
        pose, velocity = track.play(start, 100, speed)
        slow_pose, slow = track.play(start, 199, speed / 2)
        np.testing.assert_allclose(pose, slow_pose[::2], atol=1e-9)  # the same frames in half the time
        np.testing.assert_allclose(velocity, 2 * slow[::2], atol=1e-9)
        recorded = track.play(start, 1, 1.0)[1][0]
        np.testing.assert_allclose(velocity.sum(axis=0) / 50, speed * 100 / 50 * recorded, atol=0.02)


def test_means_are_means_of_the_rows(library: MotionLibrary, rng: np.random.Generator) -> None:
    rows, counts = rng.integers(0, len(library.remaining) - 100, 20), rng.integers(1, 100, 20)
    velocity, speed = library.means(rows, counts)
    expected = [(library.dof_vel[r : r + n] ** 2).mean() for r, n in zip(rows, counts, strict=True)]
    np.testing.assert_allclose(speed, expected, atol=1e-6)
    first = library.track_of == 0
    np.testing.assert_allclose(velocity[first[rows] & first[rows + counts]][:, 0], 0.5, atol=0.01)
    np.testing.assert_array_equal(library.frame_of + library.remaining, np.bincount(library.track_of)[library.track_of])


def test_sequences_are_labelled_with_the_velocity_played(library: MotionLibrary, rng: np.random.Generator) -> None:
    config = dataclasses.replace(QUICK, speed_range=(1.0, 1.0))
    varied = 0
    for index in range(16):
        hold = float(index % 2)  # one target throughout, or a new one at every cut
        sequence = Synthesiser(library, dataclasses.replace(config, hold_probability=hold), None).sequence(rng)
        motion, command = sequence["motion"], sequence["command"]
        assert motion.shape == (251, 58) and command.shape == (250, 3)
        assert motion.dtype == command.dtype == np.float32 and np.isfinite(motion).all()
        positions = motion[:, :29].astype(np.float64)
        np.testing.assert_allclose(motion[1:-1, 29:], (positions[2:] - positions[:-2]) * 25, atol=1e-4)
        played = positions[:, CODE_JOINTS]
        np.testing.assert_allclose(command.mean(axis=0), played.mean(axis=0), atol=0.08)
        if np.ptp(command, axis=0).max() < 1e-3:  # held
            np.testing.assert_allclose(command[0], played.mean(axis=0), atol=2e-3)
        else:
            varied += 1
            assert np.abs(command - smooth(played, 0.7, 50)[:-1]).mean() < 0.1
    assert varied >= 2


class Unsmoothed(Synthesiser):
    """Gives the velocity itself as the command."""

    def _command(self, rng: np.random.Generator, velocity: np.ndarray, target_of: np.ndarray) -> np.ndarray:
        return velocity


def test_cross_fades_fade_the_velocity_too(library: MotionLibrary, rng: np.random.Generator) -> None:
    config = dataclasses.replace(QUICK, speed_range=(1.0, 1.0), hold_probability=0.0)
    spread = 0.0
    for _ in range(10):
        sequence = Unsmoothed(library, config, None).sequence(rng)
        played = sequence["motion"][:-1, CODE_JOINTS]
        spread = max(spread, np.ptp(played, axis=0).max())
        np.testing.assert_allclose(sequence["command"], played, atol=0.01)  # clips end with one-sided differences
    assert spread > 0.1, "the target never changed"


def test_sequences_start_standing_when_told_to(library: MotionLibrary, rng: np.random.Generator) -> None:
    config = dataclasses.replace(QUICK, standing_start_probability=1.0)
    for _ in range(4):
        motion = Synthesiser(library, config, np.array(default_dof_pos())).sequence(rng)["motion"]
        assert np.abs(motion[0, :29] - default_dof_pos()).max() < 0.12  # six times the noise
        np.testing.assert_allclose(motion[1, :29], motion[0, :29], atol=1e-6)
        np.testing.assert_allclose(motion[0, 29:], 0, atol=1e-4)


def test_targets_cover_every_gait(rng: np.random.Generator) -> None:
    targets = np.stack([draw_target(rng) for _ in range(600)])
    assert (targets[:, 0] > 1.0).any() and (targets[:, 0] < -0.5).any()
    assert (targets[:, 1] > 0.5).any() and (targets[:, 1] < -0.5).any()
    still = np.abs(targets).max(axis=1) == 0
    in_place = (np.abs(targets[:, :2]).max(axis=1) == 0) & ~still
    assert still.mean() > 0.05 and in_place.mean() > 0.05


INF, NAN = float("inf"), float("nan")
WRONG: dict[Any, tuple[tuple[str, Any], ...]] = {
    SynthesisConfig: (
        ("num_sequences", 0), ("sequence_seconds", INF), ("chunk_seconds", (NAN, 1.0)), ("speed_range", (0.0, 1.0)),
        ("blend_seconds", (0.5, 0.2)), ("hold_probability", NAN), ("standing_start_probability", -0.1),
        ("chunk_seconds", (0.0, 0.0)),  # would never reach the end of a sequence
        ("num_compared", SynthesisConfig().num_candidates),
    ),
    DatasetConfig: (("playbacks", -1), ("seed", -1), ("smoothing_seconds", (0.3, NAN))),
}  # fmt: skip


def test_numbers_that_cannot_be_are_refused() -> None:
    for config, wrong in WRONG.items():
        for name, value in wrong:
            with pytest.raises(ValueError, match=f"{name} is "):
                config(**{name: value})


def test_stretches_may_be_short_and_clips_may_not(
    library: MotionLibrary, rng: np.random.Generator, tmp_path: Path
) -> None:
    short = dataclasses.replace(QUICK, chunk_seconds=(0.02, 0.02), blend_seconds=(0.02, 0.02))
    sequence = Synthesiser(library, short, None).sequence(rng)
    assert len(sequence["command"]) == 250 and all(np.isfinite(field).all() for field in sequence.values())
    save(tmp_path / "a.npz", make_arrays(rng, (0.5, 0.0, 0.0), seconds=0.5))
    with pytest.raises(ValueError, match="longer clips"):
        Synthesiser(build_library(read_folder(tmp_path).usable(), JOINT_NAMES), QUICK, None).sequence(rng)


def test_samples_depend_on_seed_and_index_alone(clips: list[Clip], seed: int) -> None:
    few = dataclasses.replace(QUICK, num_sequences=3)
    one = build_dataset(clips, DatasetConfig(few, playbacks=1, seed=seed, workers=1))
    two = build_dataset(clips, DatasetConfig(QUICK, playbacks=1, seed=seed, workers=2))
    other = build_dataset(clips, DatasetConfig(few, playbacks=1, seed=seed + 1, workers=1))
    for index in range(3):
        for field in ("motion", "command"):
            np.testing.assert_array_equal(one["samples"][index][field], two["samples"][index][field])
        assert not np.array_equal(one["samples"][index]["motion"], other["samples"][index]["motion"])
    assert len(one["samples"]) == 3 + 10 and len(two["samples"]) == 6 + 10  # five clips and five mirror images


def test_stats_against_samples_with_their_mirror_images(rng: np.random.Generator) -> None:
    names = ("left_knee_joint", "waist_yaw_joint", "right_knee_joint")
    scale = np.array([1, 1, 0.02, 3, 1, 1])
    motion = rng.normal(0.3, 1, (3, 400, 6)) * scale
    motion[..., 1] = 0.3  # a locked joint
    command = rng.uniform((-0.5, -0.2, -1), (1.5, 0.4, 0.6), (3, 399, 3))
    pairs = zip(motion.astype(np.float32), command.astype(np.float32), strict=True)
    stats = compute_stats([{"motion": m, "command": c} for m, c in pairs], names)
    rows = motion.astype(np.float32).astype(np.float64).reshape(-1, 6)
    both = np.concatenate([rows, rows[:, [2, 1, 0, 5, 4, 3]] * [1, -1, 1, 1, -1, 1]])
    np.testing.assert_allclose(stats["motion_mean"], both.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["motion_std"], np.maximum(both.std(axis=0), 0.1), rtol=1e-6)
    assert is_symmetric(stats, names)
    assert -0.5 <= stats["command_min"][0] < -0.48 and 1.48 < stats["command_max"][0] <= 1.5
    assert 0.38 < stats["command_max"][1] <= 0.4 and 0.97 < stats["command_max"][2] <= 1.0
    assert not is_symmetric({**stats, "motion_mean": stats["motion_mean"] + 0.1}, names)

    frames, speed = int(rng.integers(500, 4000)), float(rng.uniform(-1, 1))  # what never varies can be divided by, too
    still = np.tile(rng.uniform(-1, 1, 36), (frames + 1, 1)).astype(np.float32)
    held = np.tile([speed, 0, 0], (frames, 1)).astype(np.float32)
    stats = compute_stats([{"motion": still, "command": held}], tuple(f"joint_{i}" for i in range(18)))
    assert (stats["motion_std"] >= np.float32(0.1)).all()
    assert (stats["command_max"] - stats["command_min"] > 0.19).all()
    assert stats["command_min"][0] < speed < stats["command_max"][0]
