"""How well a clip's feet and its root fit together: a foot that stands does not slide, and stands flat on the ground.

What joints and root say of the walking is said twice; whatever convention is mistaken makes the two disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from CMG_Ref.dataloader.clips import Clip, rotation
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from cmg_runtime.window.kinematics import ForwardKinematics

MOST_PAIRS = 400
"""Pairs of frames that are looked at, spread over the clip."""

BETWEEN = 1 / 15
"""Seconds between the frames of a pair: noise of a few mm or thousandths of a radian is much of what moves in less."""

CONTACT = 0.02  # m above where the lowest sole mostly is


@dataclass(frozen=True)
class Stance:
    """What the lowest point of both soles does.

    Attributes:
        slip: how fast it slides over the ground while it touches, m/s, mean.
        moved: how fast it would be if only the joints, or only the root, moved: the mean of both, m/s.
        height: of the lowest point above z = 0, m, median.
        tilt: of the flatter foot while it touches, rad, median.
    """

    slip: float
    moved: float
    height: float
    tilt: float

    @property
    def ratio(self) -> float:
        """0: joints and root agree; about 1.4: they know nothing of each other; 2: opposite, or only one moves."""
        return self.slip / max(self.moved, 1e-9)


class StanceMeter:
    """Measures clips of the G1's 29 joints."""

    def __init__(self) -> None:
        self._chain = g1_chain(FEET)
        self._kinematics = ForwardKinematics(self._chain, dtype=torch.float64)
        self._feet = [self._chain.body_index(name) for name in FEET]
        self._soles = list(self._chain.sole_bodies)
        self._points, self._radii = np.array(self._chain.sole_points), np.array(self._chain.sole_radii)

    def __call__(self, clip: Clip) -> Stance:
        """Measure a clip whose joints are ``JOINT_NAMES``."""
        apart = min(max(1, round(BETWEEN * clip.fps)), len(clip.dof_pos) - 1)
        first = np.unique(np.linspace(0, len(clip.dof_pos) - 1 - apart, MOST_PAIRS).astype(int))
        frames = np.stack([first, first + apart])  # [2, P]
        body_pos, body_rot = (
            values.numpy() for values in self._kinematics(torch.from_numpy(np.ascontiguousarray(clip.dof_pos[frames])))
        )
        quat = clip.root_quat[frames]
        root_rot = rotation(quat).as_matrix().reshape(2, -1, 3, 3)
        points = body_pos[:, :, self._soles] + (body_rot[:, :, self._soles] @ self._points[..., None])[..., 0]
        turned = (root_rot[:, :, None] @ points[..., None])[..., 0]  # [2, P, S, 3], world, less the root's place
        height = (turned + clip.root_pos[frames][:, :, None])[..., 2] - self._radii
        lowest = height.mean(axis=0).argmin(axis=1)
        pair = np.arange(len(first))
        low = height.mean(axis=0)[pair, lowest]
        touching = low < np.quantile(low, 0.2) + CONTACT
        by_joints = ((root_rot[0] @ (points[1] - points[0])[pair, lowest][..., None])[..., 0])[touching, :2]
        travelled = clip.root_pos[frames[1]] - clip.root_pos[frames[0]]
        turning = ((root_rot[1] - root_rot[0]) @ points[1][pair, lowest][..., None])[..., 0]
        by_root = (travelled + turning)[touching, :2]
        up = (root_rot[0][:, None] @ body_rot[0][:, self._feet])[..., 2, 2].max(axis=1)[touching]

        def speed(moved: np.ndarray) -> float:
            return float(np.linalg.norm(moved, axis=1).mean() * clip.fps / apart)

        return Stance(
            slip=speed(by_joints + by_root),
            moved=(speed(by_joints) + speed(by_root)) / 2,
            height=float(np.median(low)),
            tilt=float(np.median(np.arccos(np.clip(up, -1, 1)))),
        )


def other_readings(clip: Clip) -> Iterator[tuple[str, Clip]]:
    """What a clip would be had its file another convention, in words, that no name or unit in the file tells."""
    w, x, y, z = clip.root_quat.T
    yield "the root's quaternions inverted", replace(clip, root_quat=np.stack([w, -x, -y, -z], axis=1))
    yield "the root turned to face backward", replace(clip, root_quat=np.stack([-z, -y, x, w], axis=1))
    half = np.sqrt(0.5)
    for side, turn in (("left", half), ("right", -half)):
        quat = np.stack([half * w - turn * z, half * x - turn * y, half * y + turn * x, half * z + turn * w], axis=1)
        yield f"the root turned to face {side}", replace(clip, root_quat=quat)
    mirrored = replace(clip, root_pos=clip.root_pos * [1, -1, 1], root_quat=np.stack([w, -x, y, -z], axis=1))
    yield "the root mirrored left to right", mirrored
    yield "the root's y axis turned round", replace(clip, root_pos=clip.root_pos * [1, -1, 1])
    hips = [[f"{side}_hip_{axis}_joint" for side in ("left", "right")] for axis in ("pitch", "roll", "yaw")]
    for turned in (*hips, *([name] for pair in hips for name in pair)):
        flipped = clip.dof_pos.copy()
        flipped[:, [JOINT_NAMES.index(name) for name in turned]] *= -1
        yield f"{' and '.join(turned)} turned the other way", replace(clip, dof_pos=flipped)
