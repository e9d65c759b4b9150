"""Paths of the robot's feet that stand still wherever the person's do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import binary_closing, binary_opening, gaussian_filter1d, maximum_filter1d
from scipy.spatial.transform import Rotation

from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.dataloader.retarget.person import SIDES, SOLE, Person, smooth, velocity

_TOE, _HEEL = 0.125, -0.050  # m from the axis of the G1's ankle roll to the edges that its foot rolls over
_WIDER = 0.035  # m that each foot is moved outward: the G1's hips are wider than those of a person of its size
_LOW = 0.045  # m above the ground; higher points do not touch it
_FLAT = 0.015  # m; a foot whose ankle is less higher than when it stands is flat
_CLEARANCE = 0.015  # m under the sole in the middle of a swing: the G1's foot is long, its toes would skim the ground
_STILL = 0.45  # m/s; a sole rolls, so that it is not quite still where it touches
_PIVOT = 0.5  # rad; a foot that turns more while it stands is let turn about its ball
_STEEPEST = (-0.5, 0.85, 1.3)  # rad, toe up; toe down near the ground; toe down


@dataclass(frozen=True)
class FootPath:
    """One foot of the robot.

    Attributes:
        position: [T, 3], m, world, of the axis of the ankle's roll.
        rotation: T of them, from the foot's axes (forward, left, up) to the world.
        stands: [T] bool.
    """

    position: np.ndarray
    rotation: Rotation
    stands: np.ndarray


def foot_path(person: Person, side: str, heading: np.ndarray) -> FootPath:
    """Where the robot's foot goes.

    While a foot touches the ground with its ball or its heel, the robot's stays in one place and rolls over its edge;
    in between it follows the person's, put right at both ends.

    Args:
        person: whose foot it is.
        side: "left" or "right".
        heading: [T], rad: across it feet are moved outward.
    """
    yaw, pitch = _angles(person, side)
    on_toe, on_heel = _touching(person, side)
    touching = np.pad(on_toe | on_heel, 3, mode="edge")  # neither gaps nor contacts of one or two frames count
    stands = binary_opening(binary_closing(touching, np.ones(3)), np.ones(3))[3:-3]
    flat = stands & on_toe & (person.points[f"{side}_ankle"][:, 2] < person.ankle_height + _FLAT)
    pitch = _robot_pitch(pitch, flat if flat.sum() > 5 else stands, stands)
    outward = (_WIDER if side == SIDES[0] else -_WIDER) * np.stack([-np.sin(heading), np.cos(heading), 0 * heading], 1)
    ankle, ball = person.points[f"{side}_ankle"] + outward, person.points[f"{side}_toe"] + outward
    ankle = ankle + [0, 0, SOLE - person.ankle_height]
    pose = np.concatenate([ankle, np.stack([yaw, pitch], axis=1)], axis=1)  # [T, 5]
    error = np.zeros_like(pose)
    for first, last in _runs(stands):
        span = slice(first, last)
        rolling = on_toe[span] if on_toe[span].sum() >= 3 else np.ones(last - first, dtype=bool)
        error[span] = _planted(pose[span], ball[span], rolling) - pose[span]
    pose = pose + _bridged(error, stands)
    pose[:, 2] += _lift(pose, stands)
    return FootPath(pose[:, :3], Rotation.from_euler("ZY", pose[:, 3:]), stands)


def _angles(person: Person, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch (toe down: positive) of the person's foot, rad; its lateral axis stays level as the heel rises."""
    turn = person.turns[f"{side}_foot"]
    ahead, left = turn.apply([1, 0, 0]), turn.apply([0, 1, 0])
    yaw = np.unwrap(np.arctan2(-left[:, 0], left[:, 1]))
    return smooth(yaw, 6), np.arctan2(-ahead[:, 2], ahead[:, 0] * np.cos(yaw) + ahead[:, 1] * np.sin(yaw))


def _touching(person: Person, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether ball and heel of the person's foot are low and nearly still, [T] each."""
    turn, ankle = person.turns[f"{side}_foot"], person.points[f"{side}_ankle"]
    heel = ankle - turn.apply([0.035, 0, person.ankle_height])
    pace = float(np.median(np.linalg.norm(velocity(person.points["hips"]), axis=1)))
    still = _STILL + 0.15 * max(pace - 1, 0)

    def touches(point: np.ndarray) -> np.ndarray:
        return (np.linalg.norm(smooth(velocity(point), 14), axis=1) < still) & (point[:, 2] < _LOW)

    return touches(person.points[f"{side}_toe"]), touches(heel)


def _robot_pitch(pitch: np.ndarray, standing: np.ndarray, stands: np.ndarray) -> np.ndarray:
    """The person's pitch as the robot's: 0 where it stands, and less of it, for the robot's foot is longer in front."""
    pitch = pitch - (np.median(pitch[standing]) if standing.any() else 0.0)
    pitch = pitch * np.where(pitch > 0, 0.70, 0.80)
    pitch = smooth(np.sign(pitch) * np.maximum(np.abs(pitch) - 0.05, 0), 9)
    near = gaussian_filter1d(stands.astype(float), 0.05 * FPS) > 0.3
    return np.clip(pitch, _STEEPEST[0], np.where(near, *_STEEPEST[1:]))


def _planted(pose: np.ndarray, ball: np.ndarray, rolling: np.ndarray) -> np.ndarray:
    """Of a foot that stands: x, y, z, yaw, pitch [n, 5] that keep its sole's edge in place, under its ball [n, 3]."""
    yaw, pitch = pose[:, 3], pose[:, 4]
    if np.ptp(np.percentile(yaw[rolling], (5, 95))) < _PIVOT:
        yaw = np.full(len(yaw), np.median(yaw[rolling]))
    else:
        yaw = gaussian_filter1d(yaw, 0.05 * FPS, mode="nearest")
    place = np.median(ball[rolling, :2], axis=0)
    length = np.median(np.linalg.norm(ball[rolling, :2] - pose[rolling, :2], axis=1))
    edge = np.where(pitch > 0, _TOE, _HEEL)
    ahead = edge - (edge * np.cos(pitch) - SOLE * np.sin(pitch)) - length
    up = edge * np.sin(pitch) + SOLE * np.cos(pitch)
    return np.stack([place[0] + ahead * np.cos(yaw), place[1] + ahead * np.sin(yaw), up, yaw, pitch], axis=1)


def _bridged(error: np.ndarray, stands: np.ndarray) -> np.ndarray:
    """Corrections [T, 5] as they are where the foot stands, joined smoothly where it does not."""
    known = np.flatnonzero(stands)
    if len(known) < 2:
        return error
    return PchipInterpolator(known, error[known])(np.clip(np.arange(len(error)), known[0], known[-1]))


def _lift(pose: np.ndarray, stands: np.ndarray) -> np.ndarray:
    """[T], m: how far a foot that swings has to be raised for its edges to be clear of the ground."""
    wanted = np.zeros(len(pose))
    for first, last in _runs(~stands):
        if first > 0 and last < len(pose):
            wanted[first:last] = _CLEARANCE * np.sin(np.pi * np.arange(1, last - first + 1) / (last - first + 1))
    sin, cos = np.sin(pose[:, 4]), np.cos(pose[:, 4])
    lowest = pose[:, 2] + np.minimum(-_TOE * sin, -_HEEL * sin) - SOLE * cos
    return np.where(stands, 0, gaussian_filter1d(maximum_filter1d(np.maximum(wanted - lowest, 0), 5), 1.5))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past last of every stretch that is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
