"""The same steps at another velocity: straight walks and runs made into turns, side steps and steps backward.

Clips seldom hold a steady slow turn, a diagonal or slow steps backward, and what they hold of them halts and starts:
a generator that learns from those stands still between two steps and stays there. A clip that goes straight ahead at a
steady speed is taken apart into where its feet stand, how each is carried from one stand to the next, and how the
pelvis sways about its mean path. That path is exchanged for the one of another constant velocity, the footholds keep
their places beside it, and the legs reach for them by inverse kinematics. So soles stand as still as in the clip, and
the velocity is known exactly.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.spatial.transform import Rotation

from CMG_Ref.dataloader.clips import FPS, Clip, quaternions, resample, rotation
from CMG_Ref.dataloader.commands import heading, smooth
from CMG_Ref.robot_g1 import JOINT_NAMES, LEG_JOINTS
from CMG_Ref.robot_g1.leg_ik import LegKinematics

Velocity = tuple[float, float, float]

VELOCITIES: tuple[tuple[float, tuple[Velocity, ...]], ...] = (
    (0.7, (
        (0.2, 0, 0), (0.35, 0, 0), (-0.2, 0, 0), (0, 0.1, 0), (0, 0, 0.35), (0, 0, 0.7), (0, 0, 1.1),
        (0.25, 0.15, 0), (0.45, 0.25, 0), (-0.25, 0.15, 0), (0.3, 0, 0.45), (0.2, 0, 0.9), (-0.25, 0, 0.45),
    )),
    (0.95, (
        (0.25, 0, 0), (0.45, 0, 0), (-0.25, 0, 0), (-0.4, 0, 0), (0, 0.14, 0), (0, 0, 0.4), (0, 0, 0.8), (0, 0, 1.5),
        (0.35, 0.3, 0), (0.65, 0.3, 0), (-0.35, 0.3, 0), (0.5, 0, 0.8), (0.3, 0, 1.2), (0.8, 0, 0.4),
        (0.5, 0.2, 0.5), (0.5, 0.2, -0.5),
    )),
)  # fmt: skip
"""Up to which speed of a clip (m/s), and what it is warped to: vx, vy (m/s), yaw rate (rad/s)."""
TURNS_BEYOND = (0.5, -0.9)
"""Yaw rates at their own speed for clips that are faster than all of these."""
FASTEST_SHARP_TURN = 1.6  # m/s; faster clips turn by the first of these only

STEADY = 0.15  # spread of a steady clip's speed over a stride, as a share of it
STRAIGHT = 0.35  # rad that a straight clip's heading may stray
LARGEST_MISS = 0.012  # m between a foot and where it should be
FASTEST_LEG = 22.0  # rad/s
LEAST_FRAMES = 100
MOST_PROCESSES = 8  # each loads torch

_CLEAR = 0.02  # m; a sole point above that does not touch
_TOUCHING_SPEED = (0.25, 0.15)  # m/s, and share of the clip's speed: a sole rolls faster the faster the gait
_FEWEST_FRAMES = 5  # of a stand
_LONGEST_GAP = 3  # frames in which a stand may seem to be lifted


def warped_clips(clips: list[Clip], workers: int = 0) -> list[Clip]:
    """Every steady, straight clip at the velocities that its speed has in ``VELOCITIES``; G1 only.

    Args:
        clips: of ``JOINT_NAMES``; those that start, stop, turn, or go backward or sideways are passed over.
        workers: processes; 0 for one per CPU. The result does not depend on it.
    """
    jobs = [(clip, velocity) for clip in clips for velocity in _velocities(clip)]
    processes = min(workers or os.cpu_count() or 1, MOST_PROCESSES)
    # Not forked: torch's threads do not survive that.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [clip for clip in pool.starmap(warp, jobs, chunksize=1) if clip is not None]


def warp(clip: Clip, velocity: Velocity) -> Clip | None:
    """The clip's steps at another constant velocity, at 50 frames a second.

    Args:
        clip: of the G1's ``JOINT_NAMES``, going straight ahead.
        velocity: vx, vy (m/s) and yaw rate (rad/s).

    Returns:
        The longest stretch whose feet are within reach and whose joints are not too fast; None if it is under 2 s.
    """
    clip, legs = resample(clip), LegKinematics()
    root = _poses(clip.root_pos, rotation(clip.root_quat).as_matrix())
    feet = root[:, None] @ legs.feet(clip.dof_pos)
    soles = _points(feet, legs.sole_points)
    ground = np.quantile(soles[..., 2].min(axis=(1, 2)), 0.05)  # wherever the clip has it
    for heights in (root[..., 2, 3], feet[..., 2, 3], soles[..., 2]):
        heights -= ground
    stands = _stands(soles, float(np.linalg.norm(clip.root_pos[-1, :2] - clip.root_pos[0, :2])) / len(root) * FPS)
    if min(map(len, stands)) < 3:
        return None
    stride = int(np.median(np.concatenate([np.diff([first for first, _ in of_foot]) for of_foot in stands])))
    mean_path, path = _mean_path(clip, stride), _constant_path(velocity, len(root))
    speed = np.median(np.linalg.norm(np.diff(mean_path[:, :2, 3], axis=0), axis=1)) * FPS
    ahead = float(np.clip(velocity[0] / speed, -1.0, 1.2))  # how much of the steps' length is left
    wider = float(np.clip(0.3 * abs(velocity[1]) * stride / FPS - 0.06, 0, 0.06))  # legs that step aside must not cross
    moved, known = np.empty_like(feet), np.ones(len(root), dtype=bool)
    for foot, side in ((0, 1.0), (1, -1.0)):
        old, new = _footholds(feet[:, foot], stands[foot], mean_path, path, side * wider)
        old_track, new_track = (_track(holds, stands[foot], len(root)) for holds in (old, new))
        known &= ~np.isnan(old_track[:, 0])
        carried = _inverse(_planar(*np.nan_to_num(old_track).T)) @ feet[:, foot]
        height = soles[:, foot, :, 2].min(axis=1)
        shortened = _shortened(carried, ahead, height, legs.sole_points[foot])
        moved[:, foot] = _planar(*np.nan_to_num(new_track).T) @ shortened
    sway = _inverse(mean_path) @ root
    sway[:, 0, 3] *= ahead
    new_root = path @ sway
    dof_pos = clip.dof_pos.copy()
    arms = slice(15, None)
    middle = dof_pos[:, arms].mean(axis=0)
    dof_pos[:, arms] = middle + max(abs(ahead), 0.35) * (dof_pos[:, arms] - middle)
    first, last = _longest(known)
    kept = slice(max(first, stride // 2), min(last, len(root) - stride // 2))  # the mean path's ends are no means
    if kept.stop - kept.start < LEAST_FRAMES:
        return None
    dof_pos, missed = legs.reach(dof_pos[kept], (_inverse(new_root)[:, None] @ moved)[kept])
    leg_speed = np.abs(np.gradient(dof_pos[:, LEG_JOINTS], axis=0)).max(axis=1) * FPS
    first, last = _longest((missed.max(axis=1) < LARGEST_MISS) & (leg_speed < FASTEST_LEG))
    if last - first < LEAST_FRAMES:
        return None
    new_root = new_root[kept][first:last]
    quat = quaternions(Rotation.from_matrix(new_root[:, :3, :3]))
    name = f"{clip.name} at {' '.join(f'{value:+g}' for value in velocity)}"
    return Clip(name, FPS, JOINT_NAMES, dof_pos[first:last], new_root[:, :3, 3].copy(), quat)


def _velocities(clip: Clip) -> tuple[Velocity, ...]:
    """What to warp a clip to: nothing, unless it goes straight ahead at a steady speed."""
    clip = resample(clip)
    yaw = heading(clip.root_quat)
    ahead = np.gradient(clip.root_pos[:, 0]) * np.cos(yaw) + np.gradient(clip.root_pos[:, 1]) * np.sin(yaw)
    speed, mean = smooth(ahead, 1.0, FPS) * FPS, float(ahead.mean()) * FPS
    strays = np.abs(smooth(yaw, 1.0, FPS) - yaw.mean()).max()
    if mean < 0.15 or speed.std() > STEADY * mean or strays > STRAIGHT:
        return ()
    for fastest, velocities in VELOCITIES:
        if mean < fastest:
            return velocities
    return tuple((mean, 0.0, turn) for turn in TURNS_BEYOND[: 2 if mean < FASTEST_SHARP_TURN else 1])


def _stands(soles: np.ndarray, speed: float) -> list[list[tuple[int, int]]]:
    """When each foot stands, as (first frame, frame after the last), of its sole points [T, 2, P, 3]."""
    moves = np.linalg.norm(np.gradient(soles[..., :2], axis=0), axis=-1) * FPS
    touches = (soles[..., 2] < _CLEAR) & (moves < _TOUCHING_SPEED[0] + _TOUCHING_SPEED[1] * speed)
    found = []
    for foot in range(2):
        stands = touches[:, foot].any(axis=-1)
        for first, last in list(_stretches(~stands)):
            if last - first <= _LONGEST_GAP and first > 0 and last < len(stands):
                stands[first:last] = True
        found.append([stretch for stretch in _stretches(stands) if stretch[1] - stretch[0] >= _FEWEST_FRAMES])
    return found


def _footholds(
    foot: np.ndarray, stands: list[tuple[int, int]], mean_path: np.ndarray, path: np.ndarray, aside: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where a foot stands each time, x, y and yaw [stands, 3]: in the clip, and beside the new path."""
    old, new = [], []
    for first, last in stands:
        quarter, middle = (last - first) // 4, (first + last) // 2
        still = foot[first + quarter : last - quarter]
        forward = still[:, :2, 0].mean(axis=0)
        x, y, yaw = *np.median(still[:, :2, 3], axis=0), np.arctan2(forward[1], forward[0])
        beside = _inverse(mean_path[middle]) @ _planar(x, y, yaw)
        beside[1, 3] += aside
        there = path[middle] @ beside
        old.append((x, y, yaw))
        new.append((there[0, 3], there[1, 3], np.arctan2(there[1, 0], there[0, 0])))
    holds, moved = np.array(old), np.array(new)
    for yaw in (holds[:, 2], moved[:, 2]):
        yaw[:] = np.unwrap(yaw)
    return holds, moved


def _track(holds: np.ndarray, stands: list[tuple[int, int]], num_frames: int) -> np.ndarray:
    """From foothold to foothold, eased: x, y and yaw [T, 3], NaN before the first and after the last."""
    track = np.full((num_frames, 3), np.nan)
    for number, (first, last) in enumerate(stands):
        track[first:last] = holds[number]
        if number + 1 < len(stands):
            until = stands[number + 1][0]
            part = np.arange(1, until - last + 1)[:, None] / (until - last + 1)
            track[last:until] = holds[number] + part * part * (3 - 2 * part) * (holds[number + 1] - holds[number])
    return track


def _shortened(carried: np.ndarray, ahead: float, height: np.ndarray, sole: np.ndarray) -> np.ndarray:
    """How a foot is carried about its track [T, 4, 4], for steps ``ahead`` times as long; its sole as low as before."""
    turned = Rotation.from_matrix(carried[:, :3, :3]).as_euler("ZYX")
    turned[:, 1] *= ahead if ahead > 0 else -0.5 * ahead
    shorter = carried.copy()
    shorter[:, :3, :3] = Rotation.from_euler("ZYX", turned).as_matrix()
    shorter[:, 0, 3] *= ahead
    lifted = np.where(height > 0.01, 0.01 + (height - 0.01) * max(abs(ahead), 0.6), height)
    shorter[:, 2, 3] = lifted - (shorter[:, None, 2, :3] * sole).sum(axis=-1).min(axis=1)
    return shorter


def _mean_path(clip: Clip, stride: int) -> np.ndarray:
    """The root's place and heading averaged over a stride, as planar poses [T, 4, 4]."""
    values = np.column_stack([clip.root_pos[:, :2], heading(clip.root_quat)])
    return _planar(*uniform_filter1d(values, stride, axis=0, mode="nearest").T)


def _constant_path(velocity: Velocity, num_frames: int) -> np.ndarray:
    """Planar poses [T, 4, 4] of a constant velocity in the moving frame, from the origin."""
    vx, vy, rate = velocity
    time = np.arange(num_frames) / FPS
    if rate == 0:
        return _planar(vx * time, vy * time, 0 * time)
    sin, cos = np.sin(rate * time), np.cos(rate * time)
    return _planar((vx * sin - vy * (1 - cos)) / rate, (vx * (1 - cos) + vy * sin) / rate, rate * time)


def _planar(x: np.ndarray, y: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Poses [..., 4, 4] on the ground."""
    poses = np.tile(np.eye(4), (*np.shape(yaw), 1, 1))
    cos, sin = np.cos(yaw), np.sin(yaw)
    poses[..., :2, :2] = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)
    poses[..., 0, 3], poses[..., 1, 3] = x, y
    return poses


def _poses(place: np.ndarray, turn: np.ndarray) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(place), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turn, place
    return poses


def _inverse(poses: np.ndarray) -> np.ndarray:
    inverse = np.zeros_like(poses)
    inverse[..., :3, :3] = np.swapaxes(poses[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -(inverse[..., :3, :3] @ poses[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def _points(feet: np.ndarray, soles: np.ndarray) -> np.ndarray:
    """World positions [T, 2, P, 3] of sole points [2, P, 3] on feet [T, 2, 4, 4]."""
    return (feet[:, :, None, :3, :3] @ soles[None, ..., None])[..., 0] + feet[:, :, None, :3, 3]


def _stretches(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, one after the last) of each run of True."""
    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    yield from zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)


def _longest(mask: np.ndarray) -> tuple[int, int]:
    """The longest run of True; (0, 0) if there is none."""
    return max(_stretches(mask), key=lambda stretch: stretch[1] - stretch[0], default=(0, 0))
