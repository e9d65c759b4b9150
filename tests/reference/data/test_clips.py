"""Motion clips: resampling, commands and mirroring, against formulas and MuJoCo's kinematics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cmg_export.read.robot import g1_model
from CMG_Ref.dataloader.clips import Clip, resample
from CMG_Ref.dataloader.commands import heading, heading_velocity, smooth
from CMG_Ref.dataloader.library import build_library
from CMG_Ref.robot_g1 import JOINT_NAMES, mirror_map
from CMG_Ref.robot_g1.chain import FEET
from mujoco_kinematics import MujocoKinematics

NAMES = ("left_knee_joint", "waist_yaw_joint", "right_knee_joint")


def quaternions(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of intrinsic yaw, pitch, roll."""
    return Rotation.from_euler("ZYX", np.stack([yaw, pitch, roll], axis=1)).as_quat(scalar_first=True)


class Motion:
    """Joints and root follow sines, the root turns at a constant rate with some lean."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.amplitude, self.phase, self.frequency = rng.uniform((0.1, 0.0, 0.3), (0.8, 6.0, 1.2), (3, 3)).T
        self.drift, self.turn, self.lean = rng.uniform(-1, 1, 3), rng.uniform(-1.5, 1.5), rng.uniform(-0.2, 0.2, 2)

    def clip(self, times: np.ndarray, fps: float) -> Clip:
        t = times[:, None]
        dof_pos = self.amplitude * np.sin(2 * np.pi * self.frequency * t + self.phase)
        root_pos, (roll, pitch) = self.drift * np.sin(t) + [0, 0, 0.75], np.tile(self.lean, (len(t), 1)).T
        return Clip("made", fps, NAMES, dof_pos, root_pos, quaternions(roll, pitch, self.turn * times))


def test_resampling_follows_the_formula(rng: np.random.Generator) -> None:
    motion, inside = Motion(rng), slice(10, -10)  # splines are less exact at their ends
    for fps in (30.0, 59.94, 120.0, float(rng.uniform(40, 200))):
        frames = int(rng.integers(round(2 * fps), round(4 * fps)))
        at_50 = resample(motion.clip(np.arange(frames) / fps, fps))
        times = np.arange(len(at_50.dof_pos)) / 50
        assert 0 <= (frames - 1) / fps - times[-1] < 0.02, "the clip's duration changed"
        exact = motion.clip(times, 50.0)
        np.testing.assert_allclose(at_50.dof_pos[inside], exact.dof_pos[inside], atol=1e-3)
        np.testing.assert_allclose(at_50.root_pos[inside], exact.root_pos[inside], atol=1e-3)
        dot = np.abs((at_50.root_quat * exact.root_quat).sum(axis=1))
        np.testing.assert_allclose(dot, 1, atol=1e-9)  # a constant turn is what slerp does
    for exact in (60.0, 120.0, 50.0):  # and rates that are a rounding error off
        for fps in (np.nextafter(exact, 1e9), np.nextafter(exact, 0), exact * (1 + 1e-12), 1 / (1 / exact)):
            assert len(resample(motion.clip(np.arange(2 * exact + 1) / fps, float(fps))).dof_pos) == 101


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
    kinematics = MujocoKinematics(Path(str(g1_model())), JOINT_NAMES, "pelvis")
    index, sign = mirror_map(JOINT_NAMES)

    def positions(dof_pos: np.ndarray) -> np.ndarray:
        kinematics.set(dof_pos)
        return np.stack([kinematics.pose(n)[0] for n in (*FEET, "left_wrist_yaw_link", "right_wrist_yaw_link")])

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
    clip = Motion(rng).clip(np.arange(200) / 50, 50.0)
    library = build_library([clip], NAMES)
    (pose, velocity), (mirrored, mirrored_velocity) = (track.play(0, 200, 1.0) for track in library.tracks)
    np.testing.assert_allclose(pose, clip.dof_pos, atol=1e-9)
    np.testing.assert_allclose(mirrored, clip.dof_pos[:, [2, 1, 0]] * [1, -1, 1], atol=1e-9)
    np.testing.assert_allclose(mirrored_velocity, velocity * [1, -1, -1], atol=1e-9)
    assert np.abs(velocity[:, 1:]).max() > 0.01
