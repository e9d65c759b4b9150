"""A recorded person as the robot sees one: the few points and directions that are followed, at the robot's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation, Slerp

from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.dataloader.retarget.bodies import straight_leg
from CMG_Ref.dataloader.retarget.bvh import Bvh

SIDES = ("left", "right")
SOLE = 0.035  # m from the axis of the G1's ankle roll down to the ground
_BALL = 0.015  # m from the joint at the ball of a person's foot down to the ground, at the robot's size
_JUMP = 15.0  # m/s of any point, at the robot's size; recordings begin or end in another pose
_MANY = 5  # points that jump at once where two motions meet; fewer are markers that were mistaken
_EDGE = 10  # frames at either end that such a pose is cut from
_SHORTEST = 0.5  # s
_LIMBS = ("hip", "knee", "ankle", "toe", "shoulder", "elbow", "wrist")


def _joint_names(pelvis: str, chest: str, *limbs: str) -> dict[str, str]:
    of_sides = {f"{s}_{part}": s.capitalize() + limb for s in SIDES for part, limb in zip(_LIMBS, limbs, strict=True)}
    return {"pelvis": pelvis, "chest": chest, **of_sides}


NAMES = {
    "CMU's": _joint_names("Hips", "Spine1", "UpLeg", "Leg", "Foot", "ToeBase", "Arm", "ForeArm", "Hand"),
    "100STYLE's": _joint_names("Hips", "Chest4", "Hip", "Knee", "Ankle", "Toe", "Shoulder", "Elbow", "Wrist"),
}
"""What is followed, by its names in the files of each; CMU's as the "cgspeed" conversion has them."""

_TO_WORLD = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
"""From BVH's axes (y up; at rest people face z, their left is x) to the robot's (z up, x forward, y to the left)."""


@dataclass(frozen=True)
class Person:
    """A person's motion at ``FPS`` frames a second, scaled so that its legs are as long as the robot's.

    Attributes:
        points: [T, 3], m, world with z up: ``hips`` midway between the hip joints, and of each side ``left_ankle`` and
            ``left_toe``, the ball of the foot, at height 0 where it stands.
        turns: from axes forward, left and up to the world: ``pelvis``, ``chest``, ``left_foot``, ``right_foot``.
        arms: [T, 3], unit vectors, world: ``left_upper`` to the elbow, ``left_fore`` on to the wrist.
        ankle_height: of the ankle above the ball while the foot stands, m.
        scale: m a unit of the file.
        skeleton: [T, J, 3], m, world: all joints of the file.
    """

    points: dict[str, np.ndarray]
    turns: dict[str, Rotation]
    arms: dict[str, np.ndarray]
    ankle_height: float
    scale: float
    skeleton: np.ndarray

    def heading(self) -> np.ndarray:
        """[T], rad, unwrapped: where the pelvis faces."""
        ahead = self.turns["pelvis"].apply([1, 0, 0])
        return np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))


def person(bvh: Bvh, start: float = 0.0, end: float | None = None, rate: float = 1.0) -> Person:
    """Follow a recording at the robot's size.

    Args:
        bvh: the recording.
        start, end: seconds of the recording; None: to its end.
        rate: how many times as fast it is played.

    Raises:
        ValueError: one line; a skeleton of other joints or another rest pose, too short, or with a jump inside.
    """
    joints = _joints(bvh)
    leg = np.mean([np.linalg.norm(bvh.offsets[joints[f"{s}_{part}"]]) for s in SIDES for part in ("knee", "ankle")])
    scale = straight_leg() / (2 * leg)
    frames = slice(round(start * bvh.fps), None if end is None else round(end * bvh.fps) + 1)
    pos, rot = bvh.in_world()
    pos, rot = pos[frames] @ _TO_WORLD.T * scale, _TO_WORLD @ rot[frames] @ _TO_WORLD.T
    kept = _without_jumps(pos[:, list(joints.values())], bvh.fps, start)
    pos, at = _resampled(pos[kept], bvh.fps * rate)
    of = {"pelvis": "pelvis", "chest": "chest", "left_foot": "left_ankle", "right_foot": "right_ankle"}
    frames = np.arange(len(rot[kept]))
    turns = {n: Slerp(frames, Rotation.from_matrix(rot[kept, joints[joint]]))(at) for n, joint in of.items()}
    pos, ankle_height = _levelled(pos, [[joints[f"{side}_{part}"] for part in ("ankle", "toe")] for side in SIDES])
    whole = (straight_leg() + SOLE) / (straight_leg() + ankle_height + _BALL)  # from the hip joint to the ground
    pos = pos * whole
    points = {name: pos[:, joint] for name, joint in joints.items()}
    points["hips"] = (points["left_hip"] + points["right_hip"]) / 2
    arms = {}
    for side in SIDES:
        for arm, upper, lower in (("upper", "shoulder", "elbow"), ("fore", "elbow", "wrist")):
            along = points[f"{side}_{lower}"] - points[f"{side}_{upper}"]
            arms[f"{side}_{arm}"] = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return Person(points, turns, arms, ankle_height * whole, scale * whole, pos)


def smooth(values: np.ndarray, hertz: float, fps: float = FPS) -> np.ndarray:
    """Low-pass filter of second order along the first axis, forward and backward."""
    sections = butter(2, 2 * hertz / fps, output="sos")
    return sosfiltfilt(sections, values, axis=0, padlen=min(len(values) - 1, 30))


def velocity(values: np.ndarray) -> np.ndarray:
    """Change along the first axis of values at ``FPS``, a second."""
    return np.gradient(values, axis=0) * FPS


def _joints(bvh: Bvh) -> dict[str, int]:
    """Index of each joint that is followed. Raises ``ValueError``: some are missing, or the rest pose is another."""
    missing = {family: [n for n in names.values() if n not in bvh.names] for family, names in NAMES.items()}
    nearest = min(missing, key=lambda family: len(missing[family]))
    if missing[nearest]:
        raise ValueError(
            f"other joints than {' or '.join(NAMES)}; of {nearest} {', '.join(missing[nearest])} are missing; it has "
            f"{', '.join(name for name in bvh.names if not name.endswith('_end'))}: rename them in the file"
        )
    joints = {part: bvh.names.index(name) for part, name in NAMES[nearest].items()}
    rest = np.zeros_like(bvh.offsets)
    for joint, parent in enumerate(bvh.parents[1:], start=1):
        rest[joint] = rest[parent] + bvh.offsets[joint]
    upward = (("chest", "left_hip", 1), ("left_hip", "left_ankle", 1), ("right_hip", "right_ankle", 1))
    for end, begin, axis in (("left_hip", "right_hip", 0), *upward, ("left_toe", "left_ankle", 2)):
        along = rest[joints[end]] - rest[joints[begin]]
        if not along[axis] > 0.7 * np.linalg.norm(along):
            what = f"{bvh.names[joints[end]]} is not on the +{'xyz'[axis]} side of {bvh.names[joints[begin]]}"
            raise ValueError(
                f"with all angles at 0 {what}; expected a person upright that faces +z, y up: export it so"
            )
    return joints


def _without_jumps(points: np.ndarray, fps: float, start: float) -> slice:
    """The frames without the poses at the ends that a recording jumps from or to, of points [T, P, 3]."""
    jumping = (np.linalg.norm(np.diff(points, axis=0), axis=2) * fps > _JUMP).sum(axis=1)  # how many of the points
    fast = np.flatnonzero(jumping) + 1
    first = max(fast[fast <= _EDGE], default=0)
    last = min(fast[fast >= len(points) - _EDGE], default=len(points))
    if last - first < max(_SHORTEST * fps, 4):
        raise ValueError(f"{max(last - first, 0) / fps:.2g} s from {start:g} s on; expected {_SHORTEST:g} s and more")
    inside = fast[(fast > first) & (fast < last) & (jumping[fast - 1] >= _MANY)]
    if len(inside):
        raise ValueError(f"it jumps at {start + inside[0] / fps:.2f} s; leave that out with --start and --end")
    return slice(first, last)


def _resampled(pos: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions at ``FPS`` frames a second, without what is too fast for those, and the frames [T] that they are of."""
    at = np.arange(0, len(pos) - 1, fps / FPS)
    if len(at) < _SHORTEST * FPS:
        raise ValueError(f"{len(at) / FPS:.2g} s played so fast; expected {_SHORTEST:g} s and more: lower --rate")
    before = np.minimum(at.astype(int), len(pos) - 2)
    share = (at - before)[:, None, None]
    pos = smooth(pos, 0.45 * min(FPS, fps), fps)
    return pos[before] * (1 - share) + pos[before + 1] * share, at


def _levelled(pos: np.ndarray, feet: list[list[int]]) -> tuple[np.ndarray, float]:
    """Positions above the floor that the balls of the feet stand on, and how high the ankles are above them then.

    The floor, a height and a small slope, is fitted to the balls where they are low and slow.

    Args:
        pos: [T, J, 3], m.
        feet: ankle and ball of each foot.
    """
    standing = []  # ankles and balls [n, 2, 3]
    for foot in feet:
        height, pace = pos[:, foot[1], 2], np.linalg.norm(velocity(pos[:, foot[1]]), axis=1)
        low = height < np.percentile(height, 20) + 0.04
        standing.append(pos[low & (pace <= max(0.25, np.percentile(pace[low], 30)))][:, foot])
    stands = np.concatenate(standing)
    middle = stands[:, 1].mean(axis=0)
    ground = stands[:, 1] - middle
    slope = np.linalg.solve(
        ground[:, :2].T @ ground[:, :2] + 0.025 * len(ground) * np.eye(2), ground[:, :2].T @ ground[:, 2]
    )

    def above(points: np.ndarray) -> np.ndarray:
        return points[..., 2] - middle[2] - (points - middle)[..., :2] @ slope

    ankle = np.mean([np.percentile(above(foot[:, 0]), 25) - above(foot[:, 1]).mean() for foot in standing])
    return np.concatenate([pos[..., :2], above(pos)[..., None]], axis=2), float(ankle)
