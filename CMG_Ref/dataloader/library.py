"""All clips, and their mirror images, in one table of frames that the synthesiser searches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from CMG_Ref.dataloader.clips import FPS, Clip, resample
from CMG_Ref.dataloader.commands import heading_velocity, smooth
from CMG_Ref.robot_g1 import mirror_map

PAUSE_SECONDS = 0.6
PAUSE_SPEED = 0.4  # rad/s, root mean square over the leg joints; the slowest of steady walks stays above 0.5
_COMMAND_MIRROR = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Track:
    """One clip, or its mirror image, as functions of time that can be played at any speed."""

    name: str
    num_frames: int
    _dof_pos: CubicSpline
    _velocity: CubicSpline

    def play(self, start: float, num_frames: int, speed: float) -> tuple[np.ndarray, np.ndarray]:
        """Frames from frame ``start`` on, at ``speed`` times the recorded pace.

        Returns:
            ``dof_pos`` [num_frames, J], rad, and heading-frame root velocity [num_frames, 3] (m/s, m/s, rad/s).
        """
        times = np.minimum(start + speed * np.arange(num_frames), self.num_frames - 1)
        return self._dof_pos(times), speed * self._velocity(times)


@dataclass(frozen=True)
class MotionLibrary:
    """Tracks side by side, with per-frame features for the search.

    Attributes:
        tracks: clips and their mirror images.
        joint_names: order of the joints.
        track_of, frame_of: [F] int, which track and which frame of it each row is.
        remaining: [F] int, frames left in the track from that row on.
        dof_pos, dof_vel: [F, J], rad and rad/s at the recorded pace.
        running: [F + 1, 5], running sums over all rows, for means over stretches: heading-frame velocity (3),
            the squared speed of the joints, averaged over joints (1), and whether the legs pause (1).
    """

    tracks: tuple[Track, ...]
    joint_names: tuple[str, ...]
    track_of: np.ndarray
    frame_of: np.ndarray
    remaining: np.ndarray
    dof_pos: np.ndarray
    dof_vel: np.ndarray
    running: np.ndarray

    def means(self, rows: np.ndarray, num_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Averages over ``num_frames`` [n] frames from each of ``rows`` [n].

        Returns:
            Heading-frame velocity [n, 3] (m/s, m/s, rad/s), squared joint speed [n] ((rad/s)^2), and the share of
            the frames in which the legs pause [n].
        """
        starts = np.minimum(rows, len(self.remaining) - 1)
        ends = np.minimum(starts + num_frames, len(self.remaining))
        mean = (self.running[ends] - self.running[starts]) / (ends - starts)[:, None]
        return mean[:, :3], mean[:, 3], mean[:, 4]


def build_library(clips: list[Clip], joint_names: tuple[str, ...]) -> MotionLibrary:
    """Resample clips to 50 Hz, add mirror images, and tabulate every frame."""
    index, sign = mirror_map(joint_names)
    tracks, dof_pos, velocities = [], [], []
    for clip in clips:
        at_50 = resample(clip)
        velocity = heading_velocity(at_50.root_pos, at_50.root_quat, FPS)
        mirrored = at_50.dof_pos[:, index] * np.array(sign)
        for name, pose, vel in (
            (clip.name, at_50.dof_pos, velocity),
            (clip.name + ":mirrored", mirrored, velocity * _COMMAND_MIRROR),
        ):
            frames = np.arange(len(pose))
            tracks.append(Track(name, len(pose), CubicSpline(frames, pose), CubicSpline(frames, vel)))
            dof_pos.append(pose)
            velocities.append(vel)
    lengths = [track.num_frames for track in tracks]
    dof_vel = np.concatenate([np.gradient(pose, axis=0) * FPS for pose in dof_pos])
    legs = [i for i, name in enumerate(joint_names) if is_leg(name)]
    paused = [_pauses(np.gradient(pose[:, legs], axis=0) * FPS) for pose in dof_pos]
    squared = (dof_vel**2).mean(axis=1)
    summed = np.column_stack([np.concatenate(velocities), squared, np.concatenate(paused)])
    return MotionLibrary(
        tracks=tuple(tracks),
        joint_names=joint_names,
        track_of=np.repeat(np.arange(len(tracks)), lengths),
        frame_of=np.concatenate([np.arange(n) for n in lengths]),
        remaining=np.concatenate([np.arange(n, 0, -1) for n in lengths]),
        dof_pos=np.concatenate(dof_pos),
        dof_vel=dof_vel,
        running=np.concatenate([np.zeros((1, 5)), np.cumsum(summed, axis=0)]),
    )


def is_leg(joint_name: str) -> bool:
    """Whether a joint, by its name, is one of a leg's."""
    return any(part in joint_name for part in ("hip", "knee", "ankle"))


def _pauses(leg_vel: np.ndarray) -> np.ndarray:
    """Whether the legs hardly move for a while around each frame: [T, legs] rad/s -> [T] of 0 and 1."""
    if not leg_vel.shape[1]:
        return np.zeros(len(leg_vel))
    squared = smooth((leg_vel**2).mean(axis=1), PAUSE_SECONDS, FPS)
    return (squared < PAUSE_SPEED**2).astype(float)
