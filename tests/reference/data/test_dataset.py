"""Motion synthesis, samples and stats, on clips whose velocity is known; the data file, and what is said of clips."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMG_Ref.dataloader import dataset
from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.commands import smooth
from CMG_Ref.dataloader.dataset import DatasetConfig, build_dataset, compute_stats
from CMG_Ref.dataloader.library import MotionLibrary, build_library
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.dataloader.synthesis import SynthesisConfig, Synthesiser, draw_any_target, draw_walking_target
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from CMG_Ref.training.symmetry import is_symmetric
from synthetic_gait import clip_arrays, stand, walk

NAN = float("nan")
VELOCITIES = ((0.5, 0.0, 0.0), (-0.4, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.6), (0.0, 0.0, 0.0))
QUICK = SynthesisConfig(num_sequences=6, sequence_seconds=5.0, num_candidates=400, num_compared=50)
CODE_JOINTS = [JOINT_NAMES.index(f"waist_{axis}_joint") for axis in ("pitch", "roll", "yaw")]
"""Joints that hold vx, vy and yaw rate: mirrored and cross-faded just as the velocity must be."""


def walking(*velocity: float) -> dict[str, Any]:
    vx, vy, yaw = velocity
    return clip_arrays(walk((vx, vy, yaw), 8.0), (vx, vy, yaw))


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def as_csv(path: Path, arrays: dict[str, Any]) -> None:
    quat = arrays["body_rotations"][:, 0][:, [1, 2, 3, 0]]
    np.savetxt(path, np.hstack([arrays["body_positions"][:, 0], quat, arrays["dof_positions"]]), delimiter=",")


@pytest.fixture(scope="module")
def clips(seed: int, tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """One for each velocity: legs walk at it and arms swing, but for the joints that tell the velocity."""
    folder, rng, t = tmp_path_factory.mktemp("clips"), np.random.default_rng([seed, 5]), np.arange(400)[:, None] / 50
    for number, velocity in enumerate(VELOCITIES):
        dof_pos, swing = (walk(velocity, 8.0), 1.0) if any(velocity) else (stand(8.0), 0.01)
        wave = np.sin(2 * np.pi * rng.uniform(0.8, 1.3) * t + rng.uniform(0, 6, 14))
        dof_pos[:, 15:] += swing * rng.uniform(0.1, 0.4, 14) * wave
        dof_pos[:, CODE_JOINTS] = velocity
        save(folder / f"clip{number}.npz", clip_arrays(dof_pos, velocity))
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
    velocity, speed, paused = library.means(rows, counts)
    expected = [(library.dof_vel[r : r + n] ** 2).mean() for r, n in zip(rows, counts, strict=True)]
    np.testing.assert_allclose(speed, expected, atol=1e-6)
    stands = library.track_of >= 2 * VELOCITIES.index((0.0, 0.0, 0.0))
    within = stands[rows] == stands[rows + counts]
    np.testing.assert_array_equal(paused[within], stands[rows][within])
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


def test_cross_fades_fade_the_velocity_too(
    library: MotionLibrary, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sequences whose command is the velocity itself."""
    monkeypatch.setattr(Synthesiser, "_command", lambda self, rng, velocity, target_of: velocity)
    synthesiser = Synthesiser(library, dataclasses.replace(QUICK, speed_range=(1.0, 1.0), hold_probability=0.0), None)
    spread = 0.0
    for _ in range(10):
        sequence = synthesiser.sequence(rng)
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


def test_slow_walking_is_not_half_standing(rng: np.random.Generator) -> None:
    slow, fast = (0.25, 0.0, 0.0), (0.5, 0.0, 0.0)
    halting = np.concatenate([walk(fast, 1.6), np.repeat(walk(fast, 1.6)[-1:], 80, axis=0)] * 4)
    velocity = np.tile(np.repeat([fast, (0.0, 0.0, 0.0)], 80, axis=0), (4, 1))
    root_pos = np.cumsum(velocity * (1, 1, 0), axis=0) / 50
    quat = np.tile((1.0, 0.0, 0.0, 0.0), (len(halting), 1))
    steady = walk(slow, 12.8)
    clips = [
        Clip("halting", 50.0, JOINT_NAMES, halting, root_pos, quat),
        Clip("steady", 50.0, JOINT_NAMES, steady, np.arange(len(steady))[:, None] / 50 * slow, quat),
    ]
    library, still = build_library(clips, JOINT_NAMES), {}
    for steadiness in (0.0, 20.0):
        synthesiser = Synthesiser(library, dataclasses.replace(QUICK, steadiness=steadiness), None)
        sequences = [synthesiser.sequence(rng) for _ in range(25)]
        legs = np.concatenate([np.abs(s["motion"][:-1, 29:41]).max(axis=1) for s in sequences])
        slowly = np.concatenate([(s["command"][:, 0] > 0.15) & (s["command"][:, 0] < 0.35) for s in sequences])
        still[steadiness] = (legs[slowly] < 0.02).mean()
    assert still[0.0] > 0.05 and still[20.0] < 0.5 * still[0.0], still


@pytest.mark.parametrize(
    ("draw", "fastest"), [(draw_walking_target, (-0.5, 1.0, 0.5, 0.5)), (draw_any_target, (-0.9, 2.4, 0.7, 1.2))]
)
def test_targets_cover_every_gait(
    draw: Callable[[np.random.Generator], np.ndarray], fastest: tuple[float, ...], rng: np.random.Generator
) -> None:
    targets = np.stack([draw(rng) for _ in range(1500)])
    least, most = targets.min(axis=0), targets.max(axis=0)
    assert least[0] < fastest[0] and most[0] > fastest[1]
    assert most[1] > fastest[2] and least[1] < -fastest[2] and most[2] > fastest[3] and least[2] < -fastest[3]
    walks, turns = np.any(targets[:, :2], axis=1), targets[:, 2] != 0
    assert (~walks & ~turns).mean() > 0.05 and (~walks & turns).mean() > 0.05


WRONG: list[tuple[str, Any]] = [
    ("num_sequences", 0), ("chunk_seconds", (NAN, 1.0)), ("blend_seconds", (0.5, 0.2)), ("hold_probability", NAN),
    ("chunk_seconds", (0.0, 0.0)),  # would never reach the end of a sequence
    ("num_compared", QUICK.num_candidates * 100), ("playbacks", -1), ("smoothing_seconds", (0.3, NAN)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_numbers_that_cannot_be_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        (DatasetConfig if hasattr(DatasetConfig, name) else SynthesisConfig)(**{name: value})


def test_stretches_may_be_short_and_clips_may_not(
    library: MotionLibrary, rng: np.random.Generator, tmp_path: Path
) -> None:
    short = dataclasses.replace(QUICK, chunk_seconds=(0.02, 0.02), blend_seconds=(0.02, 0.02))
    sequence = Synthesiser(library, short, None).sequence(rng)
    assert len(sequence["command"]) == 250 and all(np.isfinite(field).all() for field in sequence.values())
    save(tmp_path / "a.npz", clip_arrays(walk((0.5, 0.0, 0.0), 0.5), (0.5, 0.0, 0.0)))
    with pytest.raises(ValueError, match="longer clips"):
        Synthesiser(build_library(read_folder(tmp_path).usable(), JOINT_NAMES), QUICK, None).sequence(rng)


def test_samples_depend_on_seed_and_index_alone(clips: list[Clip], seed: int) -> None:
    few = dataclasses.replace(QUICK, num_sequences=3)
    one, two, other = (
        build_dataset(clips, DatasetConfig(synthesis, playbacks=1, seed=of, workers=workers))["samples"]
        for synthesis, of, workers in ((few, seed, 1), (QUICK, seed, 2), (few, seed + 1, 1))
    )
    for index in range(3):
        for field in ("motion", "command"):
            np.testing.assert_array_equal(one[index][field], two[index][field])
        assert not np.array_equal(one[index]["motion"], other[index]["motion"])
    assert len(one) == 3 + 10 and len(two) == 6 + 10  # five clips and five mirror images


def test_stats_against_samples_with_their_mirror_images(rng: np.random.Generator) -> None:
    names = ("left_knee_joint", "waist_yaw_joint", "right_knee_joint")
    motion = (rng.normal(0.3, 1, (3, 400, 6)) * [1, 1, 0.02, 3, 1, 1]).astype(np.float32)
    motion[..., 1] = 0.3  # a locked joint
    command = rng.uniform((-0.5, -0.2, -1), (1.5, 0.4, 0.6), (3, 399, 3)).astype(np.float32)
    stats = compute_stats([{"motion": m, "command": c} for m, c in zip(motion, command, strict=True)], names)
    rows = motion.astype(np.float64).reshape(-1, 6)
    both = np.concatenate([rows, rows[:, [2, 1, 0, 5, 4, 3]] * [1, -1, 1, 1, -1, 1]])
    np.testing.assert_allclose(stats["motion_mean"], both.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["motion_std"], np.maximum(both.std(axis=0), 0.1), rtol=1e-6)
    np.testing.assert_allclose((stats["command_min"][0], *stats["command_max"]), (-0.49, 1.49, 0.39, 0.985), atol=0.015)
    samples = [{"motion": m, "command": c} for m, c in zip(motion, command, strict=True)]
    wide = compute_stats(samples, names, ((-2.0, -0.1, -3.0), (1.0, 0.1, 3.0)))
    np.testing.assert_allclose((wide["command_min"][0], *wide["command_max"]), (-2.0, 1.49, 0.39, 3.0), atol=0.015)
    assert is_symmetric(stats, names) and is_symmetric(wide, names)
    assert not is_symmetric({**stats, "motion_mean": stats["motion_mean"] + 0.1}, names)

    frames, speed = int(rng.integers(500, 4000)), float(rng.uniform(-1, 1))  # what never varies can be divided by, too
    still = np.tile(rng.uniform(-1, 1, 36), (frames + 1, 1)).astype(np.float32)
    held = np.tile([speed, 0, 0], (frames, 1)).astype(np.float32)
    stats = compute_stats([{"motion": still, "command": held}], tuple(f"joint_{i}" for i in range(18)))
    assert (stats["motion_std"] >= np.float32(0.1)).all()
    assert (stats["command_max"] - stats["command_min"] > 0.19).all()
    assert stats["command_min"][0] < speed < stats["command_max"][0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of three clips."""
    (tmp_path / "clips" / "deep" / "er").mkdir(parents=True)
    save(tmp_path / "clips" / "walk.npz", walking(0.5, 0.0, 0.0))
    save(tmp_path / "clips" / "deep" / "er" / "back.npz", walking(-0.4, 0.0, 0.0))
    as_csv(tmp_path / "clips" / "side.csv", walking(0.0, 0.3, 0.0))
    return tmp_path / "clips"


FAST = ("--num-sequences", 1, "--num-candidates", 300, "--num-compared", 40, "--workers", 1, "--playbacks", 1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dataset", *map(str, arguments)])
    return dataset.main()


def test_the_data_file_is_as_users_have_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    out = tmp_path / "deep" / "cmg_training_data.pt"
    assert run(monkeypatch, folder, "--out", out, "--exclude", "side", "--seed", seed, *FAST) == 0
    data = read_pt(out)  # torch.load(weights_only=True) with numpy's types
    assert len(data["samples"]) == 1 + 4 and data["joint_names"] == list(JOINT_NAMES)
    stats = data["stats"]
    arrays = {key: value for key, value in stats.items() if isinstance(value, np.ndarray)}
    shapes = {"motion_mean": (58,), "motion_std": (58,), "command_min": (3,), "command_max": (3,)}
    assert {key: value.shape for key, value in arrays.items()} == shapes and is_symmetric(stats, JOINT_NAMES)
    assert (stats["num_joints"], stats["motion_dim"], stats["command_dim"]) == (29, 58, 3)
    for sample in data["samples"]:
        frames = len(sample["command"])
        assert sample["motion"].shape == (frames + 1, 58) and sample["command"].shape == (frames, 3)
    assert {value.dtype for held in (arrays, *data["samples"]) for value in held.values()} == {np.dtype(np.float32)}
    assert list(tmp_path.joinpath("deep").iterdir()) == [out]


def test_errors_and_interrupts_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "bad" / "a.npz").write_bytes(b"not a clip")
    for expected, arguments in (
        ("absent: no .npz or .pkl", (tmp_path / "absent",)),
        ("its only clip cannot be used: a.npz: not a readable", (tmp_path / "bad",)),
        ("file", (folder, "--out", tmp_path / "file" / "d.pt")),
    ):
        assert run(monkeypatch, *arguments) == 2
        err = capfd.readouterr().err
        assert len(err.splitlines()) == 1 and err.startswith("CMG_Ref.dataloader.dataset: ") and expected in err

    def interrupt_all(samples: Any, config: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dataset, "playback_samples", interrupt_all)
    assert run(monkeypatch, folder, "--out", tmp_path / "d.pt", *FAST) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "CMG_Ref.dataloader.dataset: interrupted"
    assert not (tmp_path / "d.pt").exists()


@pytest.mark.slow
def test_what_is_not_used_is_named_and_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And one motion in several files counts once: as the file that tells its rate."""
    out, arrays = tmp_path / "d.pt", walking(0.5, 0.0, 0.0)
    (folder / ".cache").mkdir()
    np.savez_compressed(folder / "z.npz", **arrays)
    as_csv(folder / "a.csv", arrays)
    save(folder / "degrees.npz", {**arrays, "dof_positions": np.degrees(arrays["dof_positions"])})
    save(folder / "short.npz", {k: v[:3] if len(v) > 99 else v for k, v in arrays.items()})
    arrays["dof_positions"][7, 3] = np.nan
    save(folder / "nan.npz", arrays)
    (folder / "._walk.npz").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    for name in (".cache/x.npz", "walk.mp4", "README"):
        (folder / name).touch()

    assert run(monkeypatch, folder, "--out", out, *FAST, "--exclude", "nan", "no_such") == 0
    printed = capfd.readouterr().out
    rows = {line.split()[0]: line.split()[1:5] for line in printed.splitlines()}
    assert rows["walk"] == ["400", "8.0", "50", "0.50"] and rows["deep/er/back"][3] == "0.40"
    assert rows["side"] == ["400", "13.3", "30", "0.18"]
    said = "30 fps assumed|3 clips, |--exclude names what is not there: no_such|skipped 2:|at least 4 frames"
    said += "|left out: nan, z.npz (the same motion as walk.npz), a.csv (the same motion|with --angles degrees it fits"
    said += "|not clips: 4 files (1 .mp4, 2 hidden, 1 without suffix)|._walk.npz|.cache/x.npz|walk.mp4|README"
    assert [words for words in said.split("|") if words not in printed] == []
    assert len(read_pt(out)["samples"]) == 1 + 2 * 3

    before = out.read_bytes()
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict") == 2 and out.read_bytes() == before
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1 and all(name in err for name in ("degrees.npz", "short.npz", "nan.npz"))
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict", "--exclude", "nan", "degrees", "short") == 0
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict", "--exclude", "nan", "degrees", "short", "x") == 2
