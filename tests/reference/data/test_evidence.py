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
from engine_folder import SEED
from synthetic_gait import whole_clip

Arrays = dict[str, Any]
Function = Callable[[np.ndarray], Any]
Change = Callable[[Arrays], Any]


@pytest.fixture(scope="module")
def walking(seed: int) -> Arrays:
    return whole_clip(seed)


def read(folder: Path, arrays: Arrays, conventions: Conventions | None = None, **options: Any) -> ClipFolder:
    np.savez(folder / "a.npz", **arrays)
    return read_folder(folder, conventions=conventions, **options)


def refusal(folder: Path, arrays: Arrays) -> str:
    found = read(folder, arrays)
    (skipped,) = found.skipped
    assert not found.clips and skipped.name == "a.npz" and len(skipped.reason.splitlines()) == 1
    return skipped.reason


def bare(arrays: Arrays) -> Arrays:
    """Joints and root alone: nothing is said twice. Names stay, as this layout has no other order."""
    kept = {key: arrays[key] for key in ("fps", "dof_names", "dof_positions")}
    return {**kept, **{key: arrays[key][:, :1] for key in ("body_positions", "body_rotations")}}


def change(**functions: Function) -> Change:
    """Of ``dof`` (positions), ``vel``, ``fps``; of bodies ``pos``, ``quat``, ``lin`` and ``ang``."""
    keys = {"dof": "dof_positions", "vel": "dof_velocities", "pos": "body_positions", "quat": "body_rotations"}
    keys |= {"lin": "body_linear_velocities", "ang": "body_angular_velocities", "fps": "fps"}
    return lambda a: {**a, **{keys[key]: function(a[keys[key]].copy()) for key, function in functions.items()}}


def bare_change(**functions: Function) -> Change:
    return lambda arrays: bare(change(**functions)(arrays))


def frames(pick: Function) -> Change:
    """The same frames of everything."""
    return lambda a: {key: pick(value) if len(value) == len(a["dof_positions"]) else value for key, value in a.items()}


def count(arrays: Arrays) -> np.ndarray:
    return np.arange(len(arrays["dof_positions"]))


def about(axis: str, degrees: float) -> dict[str, Function]:
    """The whole world turned; quaternions are (w, x, y, z)."""
    rotation = Rotation.from_euler(axis, degrees, degrees=True)

    def turn(quat: np.ndarray) -> np.ndarray:
        turned = rotation * Rotation.from_quat(quat.reshape(-1, 4), scalar_first=True)
        return turned.as_quat(scalar_first=True).reshape(quat.shape)

    return {**{key: lambda v: v @ rotation.as_matrix().T for key in ("pos", "lin", "ang")}, "quat": turn}


def in_root_axes(arrays: Arrays) -> Arrays:
    inverse = Rotation.from_quat(arrays["body_rotations"][:, 0], scalar_first=True).inv()
    return change(lin=lambda v: inverse.apply(v[:, 0])[:, None])(arrays)


def signs(*joints: str) -> Function:
    return lambda values: values * np.where(np.isin(JOINT_NAMES, joints), -1, 1)


def swapped(values: np.ndarray) -> np.ndarray:
    return values[:, mirror_map(JOINT_NAMES)[0]]


def inverse(quat: np.ndarray) -> np.ndarray:
    return quat * [1, -1, -1, -1]


def world_first(values: np.ndarray) -> np.ndarray:
    first = np.zeros_like(values[:, :1])
    first[..., 0] = values.shape[-1] == 4
    return np.concatenate([first, values], axis=1)


def noisy(values: np.ndarray) -> np.ndarray:
    return values + np.random.default_rng(SEED).normal(0, 0.005, values.shape)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Over a seventh of a second, as some tools filter what they difference."""
    return np.stack([np.convolve(np.pad(column, 3, "edge"), np.ones(7) / 7, "valid") for column in values.T], axis=1)


def arms(pitch: float) -> Function:
    pose = [0.0] * 15 + [pitch, 0.0, 0.0, 1.4, 0.0, 0.0, 0.0] * 2
    return lambda dof: np.where(np.arange(29) < 15, dof, pose)


def with_names(names: Callable[[np.ndarray], Any], arrays: Arrays) -> Arrays:
    return {**arrays, "body_names": np.array(names(arrays["body_names"]))}


HIP, SHOULDER, WRIST = "left_hip_yaw_joint", "left_shoulder_pitch_joint", "left_wrist_roll_joint"
REFUSED: dict[str, tuple[str, dict[str, Any], Change]] = {  # the reason, what mends it if anything does, the change
    "degrees": ("rad where its limits", {"angles": "degrees"}, change(dof=np.degrees)),
    "x, y, z, w": ("leans|contradict the poses", {"quaternion": "xyzw"}, change(quat=lambda q: q[..., [1, 2, 3, 0]])),
    "y up": ("leans", {"up": "y"}, change(**about("x", -90))),
    "mm": ("m/s, expected below", {"length_unit": "mm"}, change(pos=lambda p: p * 1000)),
    "fps 60": ("50 fps where fps says 60", {"fps": 50.0}, change(fps=lambda f: f * 1.2)),
    "frame time": ("0.02 frames a second", {"fps": 50.0}, change(fps=lambda f: 1 / f)),
    "times in ms": (
        "say 50 fps where fps says 30", {"fps": 50.0}, lambda a: {**bare(a), "fps": 30, "timestamps": 20 * count(a)}
    ),
    "two": ("limits", {"angles": "degrees", "length_unit": "cm"}, change(dof=np.degrees, pos=lambda p: p * 100)),
    "body names": (  # as a simulator lists them, world first, for bodies without it
        "is stored .* from where joints and root put it", {},
        lambda a: with_names(lambda names: ["world", *names[:-1]], {k: v for k, v in a.items() if "velo" not in k}),
    ),
    "no pelvis": ("no pelvis", {}, lambda a: with_names(lambda names: [f"{n}_x" for n in names], a)),
    "joint twice": ("come twice", {}, lambda a: {**a, "dof_names": a["dof_names"][[0, *range(28)]]}),
    "inverse, bare": ("quaternions inverted", {}, bare_change(quat=inverse)),
    "facing backward, bare": ("to face backward", {}, bare_change(quat=about("z", 180)["quat"])),
    "facing left, bare": ("to face right", {}, bare_change(quat=about("z", 90)["quat"])),
    "mirrored path, bare": ("y axis|mirrored", {}, bare_change(pos=lambda p: p * [1, -1, 1])),
    "not unit": ("of length", {}, change(quat=lambda q: q * np.linspace(0.8, 1.2, len(q))[:, None, None])),
    "from its start": ("below the ground", {}, change(pos=lambda p: p - p[:1, :1])),
    "on a treadmill, bare": ("does not move as the legs walk|slides", {}, bare_change(pos=lambda p: p * [0, 0, 1])),
    "one pose, dragged": ("is stored", {}, change(dof=lambda d: d * 0 + d[:1], vel=lambda v: v * 0)),
    "path twice as long": ("times the change", {}, change(pos=lambda p: p + p[:, :1] * [1, 1, 0])),
    "one sign": ("left_knee_joint do not", {}, change(vel=signs("left_knee_joint"))),
    "one joint": ("m from where joints and root put it", {}, change(dof=signs(SHOULDER), vel=signs(SHOULDER))),
    "one wrist": ("left_wrist.* rad from how joints", {}, change(dof=signs(WRIST), vel=signs(WRIST))),
    "one hip, bare": ("with left_hip_yaw_joint turned the other way", {}, bare_change(dof=signs(HIP))),
    "hips, bare": (
        "hip_yaw_joint and right_hip_yaw_joint turned the other way", {},
        bare_change(dof=signs(HIP, "right_hip_yaw_joint")),
    ),
    "sides exchanged, bare": ("trunk|slides", {}, bare_change(dof=swapped)),
    "wrapped": ("jumps by 2 pi", {}, bare_change(dof=lambda d: np.where(d < np.median(d, axis=0), d + 2 * np.pi, d))),
    "repeated": ("the one before again, amid", {}, frames(lambda v: np.repeat(v[::2], 2, axis=0))),
    "frozen": ("frozen", {}, frames(lambda v: v[np.minimum(np.arange(len(v)), len(v) // 3)])),
    "frames cut out": ("frames are missing", {}, lambda a: frames(lambda v: np.delete(v, range(70, 74), 0))(bare(a))),
    "gap in time": ("frames are missing", {}, lambda a: {**a, "time": count(a) / 50 + (count(a) > 60)}),
    "time runs back": ("time does not go on", {}, lambda a: {**a, "time": count(a)[::-1]}),
    "float16": ("float16", {}, bare_change(pos=lambda p: (p + [30, 0, 0]).astype(np.float16))),
    "no rotation": ("rotation", {}, change(quat=lambda q: q * (np.arange(len(q)) != 5)[:, None, None])),
    "flat root": ("readable", {}, change(pos=lambda p: p[:, 0, 0])),
    "Euler angles": ("root_quat is", {}, bare_change(quat=lambda q: q[..., :3])),
    "joints missing": (
        "joints waist_yaw_joint are missing", {},
        lambda a: {**a, "dof_names": np.char.replace(a["dof_names"], "waist_yaw", "belly")},
    ),
    "names of fewer joints": ("joint names", {}, lambda a: {**a, "dof_names": a["dof_names"][:2]}),
    "negative fps": ("fps is -50", {}, change(fps=lambda f: -f)),
    "text": ("readable", {}, change(dof=lambda d: d.astype(str))),
    "two people": ("expected", {}, change(dof=lambda d: np.stack([d, d], axis=1))),
    "several rates": ("2 different values", {}, lambda a: {**a, "fps": np.array([50, 60])}),
    "NaN velocities": ("velocity holds NaN", {}, change(vel=lambda v: np.where(v > 0, np.nan, v))),
    "short": ("too short", {}, frames(lambda v: v[:8])),
}  # fmt: skip

TAKEN: dict[str, Change] = {
    "as it is": lambda a: a,
    "fps as text": lambda a: {**a, "fps": "50"},
    "single precision": change(dof=np.float32, pos=np.float32, quat=np.float32),
    "half precision": change(quat=np.float16, pos=np.float16),
    "another heading": change(**{key: value for key, value in about("z", 100).items() if key != "ang"}),
    "signs of quaternions": change(quat=lambda q: q * np.where(np.arange(len(q)) % 3, 1, -1)[:, None, None]),
    "velocities in the root's axes": in_root_axes,
    "velocities in degrees": change(vel=np.degrees, ang=np.degrees),
    "times in ms": lambda a: {**a, "timestamps": 1e4 + 20 * count(a)},
    "rows shuffled with their names": lambda a: {
        **change(dof=lambda d: d[:, ::-1], vel=lambda v: v[:, ::-1])(a), "dof_names": a["dof_names"][::-1]
    },
    "world first": lambda a: with_names(
        lambda names: ["world", *names], change(pos=world_first, quat=world_first, lin=world_first, ang=world_first)(a)
    ),
    "reaching": bare_change(dof=arms(-1.5)),
    "overhead": bare_change(dof=arms(-3.0)),
    "noise of the capture": bare_change(dof=noisy),
    "smoothed velocities": lambda a: change(vel=smoothed)({**bare(a), "dof_velocities": a["dof_velocities"]}),
    "a second cut out": lambda a: frames(lambda values: values[SEED % 100 :][:50])(bare(a)),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_changes_nothing_or_what_a_robot_may_do_is_taken(tmp_path: Path, walking: Arrays, case: str) -> None:
    arrays = TAKEN[case](walking)
    found = read(tmp_path, arrays)
    assert [s.reason for s in found.skipped] == []
    joints, bodies = (list(arrays.get(key, ["pelvis"])) for key in ("dof_names", "body_names"))
    expected = arrays["dof_positions"][:, [joints.index(name) for name in JOINT_NAMES]]
    np.testing.assert_allclose(found.clips[0].dof_pos, expected, atol=1e-3)
    np.testing.assert_allclose(found.clips[0].root_pos, arrays["body_positions"][:, bodies.index("pelvis")])


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused_with_what_was_measured_and_what_mends_it(
    tmp_path: Path, walking: Arrays, case: str
) -> None:
    words, options, alter = REFUSED[case]
    arrays, conventions = alter(walking), Conventions(**options)
    reason = refusal(tmp_path, arrays)
    assert re.search(words, reason), reason
    if not options:
        assert "it fits" not in reason, reason
        return
    assert reason.endswith(f"with {conventions.options()} it fits")
    (clip,) = read(tmp_path, arrays, conventions).clips
    assert clip.fps == pytest.approx(50)
    np.testing.assert_allclose(clip.dof_pos, walking["dof_positions"], atol=1e-9)
    np.testing.assert_allclose(clip.root_pos, walking["body_positions"][:, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs((clip.root_quat * walking["body_rotations"][:, 0]).sum(1)), 1, atol=1e-9)


def test_doubts_can_be_accepted_by_name(tmp_path: Path, walking: Arrays) -> None:
    arrays = bare_change(pos=lambda p: p + [0, 0, 0.4])(walking)
    reason = refusal(tmp_path, arrays)
    assert "above the ground" in reason and "--accept ground" in reason
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
