"""Clips whose file means something else than it seems to: refused with what was measured, and mended by an option."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cmg_export.read.robot import RobotModel, g1_model
from CMG_Ref.dataloader.conventions import Conventions
from CMG_Ref.dataloader.reading import ClipFolder, read_folder
from CMG_Ref.robot_g1 import JOINT_NAMES, mirror_map
from CMG_Ref.robot_g1.chain import breadth_first_body_names, breadth_first_joint_names, g1_chain
from synthetic_gait import whole_clip

Arrays = dict[str, Any]
Change = Callable[[Arrays], Any]


@pytest.fixture(scope="module")
def walking(seed: int) -> Arrays:
    return whole_clip(seed)


def read(folder: Path, arrays: Arrays, conventions: Conventions | None = None, **options: Any) -> ClipFolder:
    np.savez(folder / "a.npz", **arrays)
    return read_folder(folder, conventions=conventions, **options)


def refusal(folder: Path, arrays: Arrays) -> str:
    found = read(folder, arrays)
    assert not found.clips
    (skipped,) = found.skipped
    assert skipped.name == "a.npz" and len(skipped.reason.splitlines()) == 1
    return skipped.reason


def bare(arrays: Arrays) -> Arrays:
    """Joints and root alone: nothing is said twice. Names stay, as this layout has no other order."""
    kept = {key: arrays[key] for key in ("fps", "dof_names", "dof_positions")}
    return {**kept, **{key: arrays[key][:, :1] for key in ("body_positions", "body_rotations")}}


def changed(arrays: Arrays, **functions: Callable[[np.ndarray], Any]) -> Arrays:
    """With functions applied to ``dof`` (positions), ``vel``, ``pos``, ``quat``, ``lin`` and ``ang`` (of bodies)."""
    keys = {"dof": "dof_positions", "vel": "dof_velocities", "pos": "body_positions", "quat": "body_rotations"}
    keys |= {"lin": "body_linear_velocities", "ang": "body_angular_velocities", "fps": "fps"}
    return {**arrays, **{keys[key]: change(arrays[keys[key]].copy()) for key, change in functions.items()}}


def every_frame(arrays: Arrays, pick: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    frames = len(arrays["dof_positions"])
    return {key: pick(value) if len(value) == frames else value for key, value in arrays.items()}


def turned(rotation: Rotation) -> Callable[[np.ndarray], np.ndarray]:
    """Quaternions (w, x, y, z) turned in the world."""

    def turn(quat: np.ndarray) -> np.ndarray:
        product = rotation * Rotation.from_quat(quat.reshape(-1, 4)[:, [1, 2, 3, 0]])
        return product.as_quat()[:, [3, 0, 1, 2]].reshape(quat.shape)

    return turn


LYING = Rotation.from_euler("x", -90, degrees=True)


def y_up(arrays: Arrays) -> Arrays:
    def lay(vectors: np.ndarray) -> np.ndarray:
        return vectors @ LYING.as_matrix().T

    return changed(arrays, pos=lay, lin=lay, ang=lay, quat=turned(LYING))


def yaw(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    return turned(Rotation.from_euler("z", degrees, degrees=True))


def other_body_names(arrays: Arrays) -> Arrays:
    """The names that a simulator lists, world first, for bodies without it."""
    return {**without_velocities(arrays), "body_names": np.array(["world", *arrays["body_names"][:-1]])}


def without_velocities(arrays: Arrays) -> Arrays:
    return {key: value for key, value in arrays.items() if "velocities" not in key}


def signs(*joints: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values * np.where(np.isin(JOINT_NAMES, joints), -1, 1)


def in_order(names: tuple[str, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values[:, [JOINT_NAMES.index(name) for name in names]]


SWAPPED = in_order(tuple(JOINT_NAMES[i] for i in mirror_map(JOINT_NAMES)[0]))

MENDED: dict[str, tuple[str, Conventions, Callable[[Arrays], Arrays]]] = {
    "degrees": ("rad where its limits", Conventions(angles="degrees"), lambda a: changed(a, dof=np.degrees)),
    "degrees throughout": (
        "rad where its limits",
        Conventions(angles="degrees"),
        lambda a: changed(a, dof=np.degrees, vel=np.degrees),
    ),
    "x, y, z, w": (
        "leans|contradict the poses",
        Conventions(quaternion="xyzw"),
        lambda a: changed(a, quat=lambda q: q[..., [1, 2, 3, 0]]),
    ),
    "y up": ("leans", Conventions(up="y"), y_up),
    "cm": ("m/s, expected below", Conventions(length_unit="cm"), lambda a: changed(a, pos=lambda p: p * 100)),
    "mm": ("m/s, expected below", Conventions(length_unit="mm"), lambda a: changed(a, pos=lambda p: p * 1000)),
    "fps halved": ("50 fps where fps says 25", Conventions(fps=50.0), lambda a: changed(a, fps=lambda f: f / 2)),
    "fps 60": ("50 fps where fps says 60", Conventions(fps=50.0), lambda a: changed(a, fps=lambda f: f * 1.2)),
    "frame time": ("0.02 frames a second", Conventions(fps=50.0), lambda a: changed(a, fps=lambda f: 1 / f)),
    "times": (
        "times say 50 fps where fps says 30",
        Conventions(fps=50.0),
        lambda a: {**bare(a), "fps": 30, "timestamps": np.arange(len(a["dof_positions"])) * 20.0},  # ms
    ),
    "two at once": (
        "limits",
        Conventions(angles="degrees", length_unit="cm"),
        lambda a: changed(a, dof=np.degrees, pos=lambda p: p * 100),
    ),
}

REFUSED: dict[str, tuple[str, Callable[[Arrays], Arrays]]] = {
    "body names": ("is stored .* from where joints and root put it", other_body_names),
    "no pelvis": ("no pelvis", lambda a: {**a, "body_names": np.array([f"{n}_x" for n in a["body_names"]])}),
    "joint names": ("limits|is stored", lambda a: {**a, "dof_names": np.roll(a["dof_names"], 6)}),
    "joint twice": ("come twice", lambda a: {**a, "dof_names": a["dof_names"][[0, *range(28)]]}),
    "inverse": ("contradict the poses", lambda a: changed(a, quat=lambda q: q * [1, -1, -1, -1])),
    "inverse, bare": ("quaternions inverted", lambda a: bare(changed(a, quat=lambda q: q * [1, -1, -1, -1]))),
    "facing backward": ("is stored", lambda a: changed(a, quat=yaw(180))),
    "facing backward, bare": ("to face backward", lambda a: bare(changed(a, quat=yaw(180)))),
    "facing left, bare": ("to face right", lambda a: bare(changed(a, quat=yaw(90)))),
    "mirrored path, bare": ("y axis|mirrored", lambda a: bare(changed(a, pos=lambda p: p * [1, -1, 1]))),
    "not unit": ("of length", lambda a: changed(a, quat=lambda q: q * np.linspace(0.8, 1.2, len(q))[:, None, None])),
    "root is the torso": (
        "is stored",
        lambda a: without_velocities(
            changed(a, pos=lambda p: p[:, [15, *range(1, 30)]], quat=lambda q: q[:, [15, *range(1, 30)]])
        ),
    ),
    "from its start": ("below the ground", lambda a: changed(a, pos=lambda p: p - p[:1, :1])),
    "raised": ("above the ground", lambda a: changed(a, pos=lambda p: p + [0, 0, 0.4])),
    "on a treadmill, bare": (
        "does not move as the legs walk|slides",
        lambda a: bare(changed(a, pos=lambda p: p * [0, 0, 1])),
    ),
    "one pose, dragged": ("is stored", lambda a: changed(a, dof=lambda d: d * 0 + d[:1], vel=lambda v: v * 0)),
    "path twice as long": ("times the change", lambda a: changed(a, pos=lambda p: p + p[:, :1] * [1, 1, 0])),
    "velocities of others": ("do not follow", lambda a: changed(a, vel=lambda v: v[:, ::-1])),
    "one sign": ("left_knee_joint do not", lambda a: changed(a, vel=signs("left_knee_joint"))),
    "one joint": (
        "m from where joints and root put it",
        lambda a: changed(a, dof=signs("left_shoulder_pitch_joint"), vel=signs("left_shoulder_pitch_joint")),
    ),
    "one wrist": (
        "left_wrist.* rad from how joints",
        lambda a: changed(a, dof=signs("left_wrist_roll_joint"), vel=signs("left_wrist_roll_joint")),
    ),
    "one hip, bare": (
        "with left_hip_yaw_joint turned the other way",
        lambda a: bare(changed(a, dof=signs("left_hip_yaw_joint"))),
    ),
    "hips, bare": (
        "hip_yaw_joint and right_hip_yaw_joint turned the other way",
        lambda a: bare(changed(a, dof=signs("left_hip_yaw_joint", "right_hip_yaw_joint"))),
    ),
    "sides exchanged": ("is stored", lambda a: changed(a, dof=SWAPPED, vel=SWAPPED)),
    "sides exchanged, bare": ("trunk|slides", lambda a: bare(changed(a, dof=SWAPPED))),
    "wrapped": (
        "jumps by 2 pi",
        lambda a: bare(changed(a, dof=lambda d: np.where(d < np.median(d, axis=0), d + 2 * np.pi, d))),
    ),
    "repeated": ("the one before again, amid", lambda a: every_frame(a, lambda v: np.repeat(v[::2], 2, axis=0))),
    "frozen": ("frozen", lambda a: every_frame(a, lambda v: v[np.minimum(np.arange(len(v)), len(v) // 3)])),
    "frames cut out": ("frames are missing", lambda a: bare(every_frame(a, lambda v: np.delete(v, range(70, 74), 0)))),
    "gap in time": (
        "frames are missing",
        lambda a: {**a, "time": np.arange(len(a["dof_positions"])) / 50 + (np.arange(len(a["dof_positions"])) > 60)},
    ),
    "time runs back": ("time does not go on", lambda a: {**a, "time": np.arange(len(a["dof_positions"]))[::-1]}),
    "float16": ("float16", lambda a: bare(changed(a, pos=lambda p: (p + [30, 0, 0]).astype(np.float16)))),
    "two people": ("expected", lambda a: changed(a, dof=lambda d: np.stack([d, d], axis=1))),
    "several rates": ("2 different values", lambda a: {**a, "fps": np.array([50, 60])}),
    "NaN velocities": ("NaN", lambda a: changed(a, vel=lambda v: np.where(v > 0, np.nan, v))),
    "short": ("too short", lambda a: every_frame(a, lambda v: v[:8])),
}

HARMLESS: dict[str, Callable[[Arrays], Arrays]] = {
    "as it is": lambda a: a,
    "nothing twice": bare,
    "fps as text": lambda a: {**a, "fps": "50"},
    "single precision": lambda a: changed(a, dof=np.float32, pos=np.float32, quat=np.float32),
    "half precision": lambda a: changed(a, quat=np.float16, pos=np.float16),
    "another heading": lambda a: changed(
        a,
        pos=lambda p: p @ Rotation.from_euler("z", 100, degrees=True).as_matrix().T,
        lin=lambda v: v @ Rotation.from_euler("z", 100, degrees=True).as_matrix().T,
        quat=yaw(100),
    ),
    "signs of quaternions": lambda a: changed(
        a, quat=lambda q: q * np.where(np.arange(len(q)) % 3, 1, -1)[:, None, None]
    ),
    "velocities in the root's axes": lambda a: changed(
        a,
        lin=lambda v: Rotation.from_quat(a["body_rotations"][:, 0][:, [1, 2, 3, 0]]).inv().apply(v[:, 0])[:, None],
    ),
    "velocities in degrees": lambda a: changed(a, vel=np.degrees, ang=np.degrees),
    "times in ms": lambda a: {**a, "timestamps": 1e4 + 20 * np.arange(len(a["dof_positions"]))},
    "rows shuffled with their names": lambda a: {
        **changed(a, dof=lambda d: d[:, ::-1], vel=lambda v: v[:, ::-1]),
        "dof_names": a["dof_names"][::-1],
    },
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_nothing_is_taken(tmp_path: Path, walking: Arrays, case: str) -> None:
    found = read(tmp_path, HARMLESS[case](walking))
    assert [s.reason for s in found.skipped] == []
    np.testing.assert_allclose(found.clips[0].dof_pos, walking["dof_positions"], atol=1e-3)


@pytest.mark.parametrize("case", MENDED)
def test_other_conventions_are_refused_and_the_option_named(tmp_path: Path, walking: Arrays, case: str) -> None:
    words, conventions, change = MENDED[case]
    arrays = change(walking)
    reason = refusal(tmp_path, arrays)
    assert re.search(words, reason) and reason.endswith(f"with {conventions.options()} it fits")
    (clip,) = read(tmp_path, arrays, conventions).clips
    assert clip.fps == pytest.approx(50)
    np.testing.assert_allclose(clip.dof_pos, walking["dof_positions"], atol=1e-9)
    np.testing.assert_allclose(clip.root_pos, walking["body_positions"][:, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs((clip.root_quat * walking["body_rotations"][:, 0]).sum(1)), 1, atol=1e-9)


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused_with_what_was_measured(tmp_path: Path, walking: Arrays, case: str) -> None:
    words, change = REFUSED[case]
    reason = refusal(tmp_path, change(walking))
    assert re.search(words, reason), reason
    assert "it fits" not in reason, reason


def test_world_first_is_looked_up(tmp_path: Path, walking: Arrays) -> None:
    def behind_world(values: np.ndarray) -> np.ndarray:
        first = np.zeros_like(values[:, :1])
        first[..., 0] = values.shape[-1] == 4
        return np.concatenate([first, values], axis=1)

    arrays = changed(walking, pos=behind_world, quat=behind_world, lin=behind_world, ang=behind_world)
    arrays["body_names"] = np.array(["world", *walking["body_names"]])
    (clip,) = read(tmp_path, arrays).clips
    np.testing.assert_array_equal(clip.root_pos, walking["body_positions"][:, 0])


def test_doubts_can_be_accepted_by_name(tmp_path: Path, walking: Arrays) -> None:
    arrays = changed(bare(walking), pos=lambda p: p + [0, 0, 0.4])
    assert "--accept ground" in refusal(tmp_path, arrays)
    assert len(read(tmp_path, arrays, accept=("ground",)).clips) == 1
    assert not read(tmp_path, arrays, accept=("tilt",)).clips


def test_the_bundled_chain_is_that_of_the_model() -> None:
    """Every number, against what the exporter reads from mjlab's MJCF; bodies level by level against MuJoCo's tree."""
    path = g1_model()
    assert path is not None
    expected, found = RobotModel(path).chain(JOINT_NAMES), g1_chain()
    count = len(found.body_names)  # the exporter adds points that are no bodies of the model
    for field in ("body_names", "body_parents", "body_pos", "body_quat", "body_joints", "joint_axes", "joint_anchors"):
        assert getattr(found, field) == getattr(expected, field)[:count], field
    for field in ("joint_lower", "joint_upper", "sole_bodies", "sole_points", "sole_radii"):
        assert getattr(found, field) == getattr(expected, field), field
    model: Any = mujoco.MjModel.from_xml_path(str(path))  # pyright: ignore[reportAttributeAccessIssue]
    level, levels = [model.body("pelvis").id], []
    while level:
        levels += level
        level = [body for body in range(model.nbody) if model.body_parentid[body] in level]
    assert breadth_first_body_names() == tuple(model.body(body).name for body in levels)
    joints = [model.joint(int(model.body_jntadr[body])).name for body in levels[1:]]
    assert breadth_first_joint_names() == tuple(joints)


def test_what_a_robot_may_do_is_taken(tmp_path: Path, walking: Arrays, rng: np.random.Generator) -> None:
    """Arms before or above the head, noise of the capture, velocities that were smoothed, a second cut out."""

    def arms(pitch: float) -> Callable[[np.ndarray], np.ndarray]:
        pose = [0.0] * 15 + [pitch, 0.0, 0.0, 1.4, 0.0, 0.0, 0.0] * 2
        return lambda dof: np.where(np.arange(29) < 15, dof, pose)

    start = int(rng.integers(0, 100))
    cases = {
        "reaching": bare(changed(walking, dof=arms(-1.5))),
        "overhead": bare(changed(walking, dof=arms(-3.0))),
        "noise": bare(changed(walking, dof=lambda d: d + rng.normal(0, 0.005, d.shape))),
        "smoothed": changed(bare(walking) | {"dof_velocities": walking["dof_velocities"]}, vel=smoothed),
        "piece": every_frame(bare(walking), lambda values: values[start : start + 50]),
    }
    for name, arrays in cases.items():
        assert [s.reason for s in read(tmp_path, arrays).skipped] == [], name


def smoothed(values: np.ndarray) -> np.ndarray:
    """Over a seventh of a second, as some tools filter what they difference."""
    window = np.ones(7) / 7
    return np.stack([np.convolve(np.pad(column, 3, "edge"), window, "valid") for column in values.T], axis=1)
