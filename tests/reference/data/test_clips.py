"""Motion clips: both file layouts, resampling, commands and mirroring, against formulas and MuJoCo's kinematics."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cmg_export.read.robot import g1_model
from CMG_Ref.dataloader.clips import Clip, resample, select_joints
from CMG_Ref.dataloader.commands import heading, heading_velocity, smooth
from CMG_Ref.dataloader.library import build_library
from CMG_Ref.dataloader.reading import load_clip
from CMG_Ref.robot_g1 import JOINT_NAMES, mirror_map
from CMG_Ref.robot_g1.chain import FEET

Arrays = dict[str, Any]
NAMES = ("left_knee_joint", "waist_yaw_joint", "right_knee_joint")


def quaternions(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of intrinsic yaw, pitch, roll."""
    return Rotation.from_euler("ZYX", np.stack([yaw, pitch, roll], axis=1)).as_quat()[:, [3, 0, 1, 2]]


class Motion:
    """An analytic motion: joints and root follow sines, the root turns at a constant rate with some lean."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.amplitude, self.phase = rng.uniform(0.1, 0.8, 3), rng.uniform(0, 6, 3)
        self.frequency = rng.uniform(0.3, 1.2, 3)
        self.turn, self.lean = rng.uniform(-1.5, 1.5), rng.uniform(-0.2, 0.2, 2)
        self.drift = rng.uniform(-1, 1, 3)

    def dof_pos(self, t: np.ndarray) -> np.ndarray:
        return self.amplitude * np.sin(2 * np.pi * self.frequency * t[:, None] + self.phase)

    def root_pos(self, t: np.ndarray) -> np.ndarray:
        return self.drift * np.sin(t)[:, None] + [0, 0, 0.75]

    def root_quat(self, t: np.ndarray) -> np.ndarray:
        return quaternions(self.lean[0] + 0 * t, self.lean[1] + 0 * t, self.turn * t)

    def clip(self, frames: int, fps: float) -> Clip:
        t = np.arange(frames) / fps
        return Clip("made", fps, NAMES, self.dof_pos(t), self.root_pos(t), self.root_quat(t))


def npz_arrays(clip: Clip, rng: np.random.Generator) -> Arrays:
    """As the public sets have it: other bodies after the root, velocities that are not read."""
    others = rng.normal(size=(len(clip.dof_pos), 4, 3))
    return {
        "fps": np.array([clip.fps]),
        "dof_names": np.array(clip.joint_names),
        "dof_positions": clip.dof_pos,
        "dof_velocities": rng.normal(size=clip.dof_pos.shape),
        "body_positions": np.concatenate([clip.root_pos[:, None], others], axis=1),
        "body_rotations": np.concatenate([clip.root_quat[:, None], rng.normal(size=(len(others), 4, 4))], axis=1),
    }


def pickle_content(clip: Clip) -> Arrays:
    """As retargeting tools write it: quaternions (x, y, z, w), no joint names."""
    xyzw = clip.root_quat[:, [1, 2, 3, 0]]
    return {"fps": clip.fps, "root_pos": clip.root_pos, "root_rot": xyzw, "dof_pos": clip.dof_pos, "links": None}


def test_both_layouts_hold_the_same_clip_joints_picked_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    made = Motion(rng).clip(40, float(rng.uniform(20, 130)))
    arrays = npz_arrays(made, rng)
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(pickle_content(made), protocol=int(rng.integers(2, 6))))
    for path in (tmp_path / "a.npz", tmp_path / "a.pkl"):
        clip = load_clip(path, NAMES)
        assert clip.fps == pytest.approx(made.fps) and clip.joint_names == NAMES and clip.name == "a"
        for field in ("dof_pos", "root_pos", "root_quat"):
            np.testing.assert_allclose(getattr(clip, field), getattr(made, field), atol=1e-12)
    unnamed = load_clip(tmp_path / "a.pkl")
    assert unnamed.joint_names == ()
    wanted = ("right_knee_joint", "left_knee_joint")
    np.testing.assert_array_equal(load_clip(tmp_path / "a.npz", wanted).dof_pos, made.dof_pos[:, [2, 0]])
    with pytest.raises(ValueError, match="left_elbow_joint.*missing"):
        load_clip(tmp_path / "a.npz", ("left_knee_joint", "left_elbow_joint"))
    with pytest.raises(ValueError, match="3 unnamed joints, expected 2"):
        select_joints(unnamed, wanted)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_clip(path, NAMES)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and path.stem in message
    return message


BREAKAGES: dict[str, tuple[str, Callable[[Arrays], Any]]] = {
    "NaN joint": ("NaN", lambda a: a["dof_positions"].__setitem__((3, 1), np.nan)),
    "infinite root": ("infinity", lambda a: a["body_positions"].__setitem__((2, 0, 1), np.inf)),
    "too short": ("at least 4", lambda a: a.update({k: v[:3] for k, v in a.items() if k[:3] in ("dof", "bod")})),
    "root too short": ("root_pos", lambda a: a.update(body_positions=a["body_positions"][:-1])),
    "flat joints": ("dof_pos", lambda a: a.update(dof_positions=a["dof_positions"][:, 0])),
    "flat root": ("readable", lambda a: a.update(body_positions=a["body_positions"][:, 0, 0])),
    "Euler angles": ("root_quat", lambda a: a.update(body_rotations=a["body_rotations"][..., :3])),
    "no rotation": ("rotation", lambda a: a["body_rotations"].__setitem__((5, 0), 0.0)),
    "names": ("joint names", lambda a: a.update(dof_names=a["dof_names"][:2])),
    "no fps": ("fps", lambda a: a.pop("fps")),
    "empty fps": ("readable", lambda a: a.update(fps=np.zeros(0))),
    "zero fps": ("fps", lambda a: a.update(fps=np.zeros(1))),
    "text": ("readable", lambda a: a.update(dof_positions=np.full((10, 3), "x"))),
    "objects": ("readable", lambda a: a.update(dof_positions=np.array([None] * 10))),
}


def test_broken_and_damaged_clips_are_refused_in_one_line(tmp_path: Path, rng: np.random.Generator) -> None:
    made = Motion(rng).clip(10, 60.0)
    for breakage, (expected, break_it) in BREAKAGES.items():
        arrays = {key: value.copy() for key, value in npz_arrays(made, rng).items()}
        break_it(arrays)
        np.savez(tmp_path / "a.npz", **arrays)
        assert expected in refusal(tmp_path / "a.npz"), breakage
    arrays = npz_arrays(made, rng)
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    contents = {"npz": (tmp_path / "whole.npz").read_bytes(), "pkl": pickle.dumps(pickle_content(made))}
    for suffix, whole in contents.items():
        path = tmp_path / f"a.{suffix}"
        for content in (*(whole[:cut] for cut in (0, *rng.integers(1, len(whole) - 1, 8))), rng.bytes(500)):
            path.write_bytes(content)
            refusal(path)
        refusal(tmp_path / f"absent.{suffix}")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, 2]))
    refusal(tmp_path / "a.pkl")
    assert "unknown clip type" in refusal(tmp_path / "a.bvh")


def test_resampling_follows_the_formula(rng: np.random.Generator) -> None:
    for fps in (30.0, 59.94, 120.0, float(rng.uniform(40, 200))):
        motion = Motion(rng)
        frames = int(rng.integers(round(2 * fps), round(4 * fps)))
        at_50 = resample(motion.clip(frames, fps))
        t = np.arange(len(at_50.dof_pos)) / 50
        assert 0 <= (frames - 1) / fps - t[-1] < 0.02, "the clip's duration changed"
        inside = slice(10, -10)  # splines are less exact at their ends
        np.testing.assert_allclose(at_50.dof_pos[inside], motion.dof_pos(t)[inside], atol=1e-3)
        np.testing.assert_allclose(at_50.root_pos[inside], motion.root_pos(t)[inside], atol=1e-3)
        dot = np.abs((at_50.root_quat * motion.root_quat(t)).sum(axis=1))
        np.testing.assert_allclose(dot, 1, atol=1e-9)  # a constant turn is what slerp does
    for exact in (60.0, 120.0, 50.0):  # and rates that are a rounding error off
        for fps in (np.nextafter(exact, 1e9), np.nextafter(exact, 0), exact * (1 + 1e-12), 1 / (1 / exact)):
            assert len(resample(motion.clip(round(exact) * 2 + 1, float(fps))).dof_pos) == 101


def test_command_of_a_circle_is_constant_whatever_the_heading(rng: np.random.Generator) -> None:
    """Forward and to the left at once: x forward, y to the left, turning left are positive."""
    (vx, vy), rate, start = rng.uniform(0.2, 1.5, 2), rng.uniform(0.3, 2.0) * rng.choice([-1, 1]), rng.uniform(-3, 3)
    t = np.arange(400) / 50
    yaw = start + rate * t
    cos, sin = np.cos(yaw), np.sin(yaw)
    root = np.stack([vx * sin + vy * cos, vy * sin - vx * cos, 0 * t], axis=1) / rate + rng.normal(size=3)
    # Roll and pitch of the pelvis do not change where it is heading.
    quat = quaternions(rng.uniform(-0.3, 0.3) * np.sin(t), rng.uniform(-0.3, 0.3) * np.cos(t), yaw)
    velocity = heading_velocity(root, quat, 50.0)
    np.testing.assert_allclose(velocity[1:-1], np.tile([vx, vy, rate], (398, 1)), atol=1e-3)
    np.testing.assert_allclose(np.diff(heading(quat)), rate / 50, atol=1e-9)  # no jump across pi


def test_smoothing_keeps_sums_and_constants(rng: np.random.Generator) -> None:
    values = np.zeros((200, 3))
    values[60:140] = rng.normal(size=(80, 3))
    for seconds in (0.0, 0.02, 0.31, 1.0):
        smoothed = smooth(values, seconds, 50.0)
        np.testing.assert_allclose(smoothed.sum(axis=0), values.sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(smooth(np.ones((30, 3)) * 0.7, seconds, 50.0), 0.7)
    np.testing.assert_allclose(smooth(values, 0.3, 50.0)[100], values[93:108].mean(axis=0))


def test_mirrored_angles_mirror_the_feet(rng: np.random.Generator) -> None:
    model = mujoco.MjModel.from_xml_path(str(g1_model()))
    data = mujoco.MjData(model)
    address = [int(model.jnt_qposadr[model.joint(name).id]) for name in JOINT_NAMES]
    ends = [*FEET, "left_wrist_yaw_link", "right_wrist_yaw_link"]
    index, sign = mirror_map(JOINT_NAMES)

    def positions(dof_pos: np.ndarray) -> np.ndarray:
        data.qpos[:7] = (0, 0, 0, 1, 0, 0, 0)
        data.qpos[address] = dof_pos
        mujoco.mj_kinematics(model, data)
        return np.stack([data.xpos[model.body(name).id] for name in ends])

    for _ in range(20):
        dof_pos = rng.uniform(-0.7, 0.7, 29)
        mirrored = dof_pos[index] * sign
        np.testing.assert_array_equal(mirrored[index] * sign, dof_pos)  # twice is identity
        expected = positions(dof_pos)[[1, 0, 3, 2]] * [1, -1, 1]
        np.testing.assert_allclose(positions(mirrored), expected, atol=2e-3)  # the model itself is off by a millimetre
        assert np.abs(positions(mirrored) - positions(dof_pos)).max() > 0.02
    with pytest.raises(ValueError, match="right_knee_joint"):
        mirror_map(("left_knee_joint", "waist_yaw_joint"))


def test_the_library_mirrors_commands(rng: np.random.Generator) -> None:
    clip = Motion(rng).clip(200, 50.0)
    library = build_library([clip], NAMES)
    (pose, velocity), (mirrored, mirrored_velocity) = (track.play(0, 200, 1.0) for track in library.tracks)
    np.testing.assert_allclose(pose, clip.dof_pos, atol=1e-9)
    np.testing.assert_allclose(mirrored, clip.dof_pos[:, [2, 1, 0]] * [1, -1, 1], atol=1e-9)
    np.testing.assert_allclose(mirrored_velocity, velocity * [1, -1, -1], atol=1e-9)
    assert np.abs(velocity[:, 1:]).max() > 0.01
