"""A clip against the robot: joint limits, posture, where bodies are, and whether the feet walk as the root moves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from CMG_Ref.dataloader.clips import Clip, rotation
from CMG_Ref.dataloader.gait_evidence import StanceMeter, other_readings
from CMG_Ref.robot_g1.chain import g1_chain
from cmg_runtime.window.kinematics import ForwardKinematics

LIMIT_MARGIN = 0.1  # rad; models of the robot differ by as much
BEYOND_LIMITS = 0.01  # share of frames
TILT = 0.7  # rad, 40 degrees, for half of the frames; clips lean by 0.14
GROUND = 0.12  # m; retargeting leaves some cm, a wrong unit, axis or origin 0.6 m and more
BODY_OFFSET = 0.05  # m; models of the robot differ by a cm or two
BODY_ANGLE = 0.15  # rad
SLIP = 1.0  # of what moves; 0 is right, about 1.4 is unrelated, 2 is opposite; clips reach 0.55, where they run
MOVING = 0.08  # m/s; below, a foot's sliding tells nothing
BETTER = 0.6  # another reading's slip over this one's; no clip's falls below 1.09
LONG_ENOUGH = 3.0  # s; of good clips' pieces of 1 s one in twenty seems to slide, of 3 s hardly any
FOOT_TILT = 0.6  # rad of the foot that stands; clips reach 0.22
# m from the trunk's middle to the elbows, both sides' mean. Arms that hang straight have 0.144 and the trunk is in the
# way of less than 0.13; clips have 0.152 and more, and with left and right exchanged nine in ten have less.
ELBOWS = 0.13
BESIDE = 0.12  # m before or behind the trunk's middle axis; arms that reach forward or up may come together
BESIDE_OFTEN = 0.25  # of the frames
MOST_FRAMES = 300

Found = Iterator[tuple[Literal["limits", "tilt", "ground", "bodies", "feet", "arms"], str]]


def limits(clip: Clip) -> Found:
    """Joint limits; of the G1's 29 joints."""
    chain = g1_chain()
    low, high = np.array(chain.joint_lower), np.array(chain.joint_upper)
    beyond = np.maximum(low - clip.dof_pos, clip.dof_pos - high)
    share = (beyond > LIMIT_MARGIN).any(axis=1).mean()
    if share > BEYOND_LIMITS:
        frame, joint = np.unravel_index(beyond.argmax(), beyond.shape)
        value, name = clip.dof_pos[frame, joint], clip.joint_names[joint]
        text = f"{name} reaches {value:.3g} rad where its limits are {low[joint]:.3g} and {high[joint]:.3g}"
        jump = np.abs(np.diff(clip.dof_pos[:, joint])).max()
        wrapped = ", where it jumps by 2 pi: unwrap it" if abs(jump - 2 * np.pi) < 0.5 else ""
        yield "limits", f"{text}{wrapped}; {share:.0%} of the frames are beyond limits"


def posture(clip: Clip) -> Found:
    """The root is upright most of the time."""
    up = rotation(clip.root_quat).as_matrix()[:, 2, 2]
    tilt = float(np.median(np.arccos(np.clip(up, -1, 1))))
    if tilt > TILT:
        yield "tilt", f"the root leans {np.degrees(tilt):.0f} degrees for half of the frames, expected below 40"


def stored_bodies(clip: Clip) -> Found:
    """Stored poses of bodies against where joints and root put them; of the G1's 29 joints."""
    recorded, kinematics = clip.recorded, _kinematics()
    known = [name for name in recorded.body_names if name in kinematics.chain.body_names]
    if not known:
        return
    rows, columns = _spread(clip), [recorded.body_names.index(name) for name in known]
    places = [kinematics.chain.body_index(name) for name in known]
    local, local_rot = (v.numpy()[:, places] for v in kinematics(torch.from_numpy(clip.dof_pos[rows])))
    root = rotation(clip.root_quat[rows]).as_matrix()[:, None]
    turned = (root @ local[..., None])[..., 0]
    offsets = []  # of what is stored, which for ``local_body_pos`` may be in the root's axes or the world's
    if recorded.body_pos is not None:
        offsets = [turned + clip.root_pos[rows][:, None] - recorded.body_pos[rows][:, columns]]
    elif recorded.local_body_pos is not None:
        offsets = [made - recorded.local_body_pos[rows][:, columns] for made in (local, turned)]
    for offset in sorted((np.linalg.norm(o, axis=2).mean(axis=0) for o in offsets), key=np.max)[:1]:
        if offset.max() > BODY_OFFSET:
            text = f"{known[int(offset.argmax())]} is stored {offset.max():.2g} m from where joints and root put it"
            yield "bodies", f"{text}, expected within {BODY_OFFSET:g}: other joints, signs or axes"
            return
    if recorded.body_quat is not None:
        made = Rotation.from_matrix((root @ local_rot).reshape(-1, 3, 3))
        between = rotation(recorded.body_quat[rows][:, columns]).inv() * made
        angle = between.magnitude().reshape(len(rows), -1).mean(axis=0)
        if angle.max() > BODY_ANGLE:
            text = f"{known[int(angle.argmax())]} is stored {angle.max():.2g} rad from how joints and root turn it"
            yield "bodies", f"{text}, expected within {BODY_ANGLE:g}: other joints, signs or axes"


def walking(clip: Clip) -> Found:
    """Soles near the ground, feet that stand still where they touch, arms at their own sides; of the 29 joints."""
    meter = _meter()
    stance = meter(clip)
    if abs(stance.height) > GROUND:
        where = f"{abs(stance.height):.2g} m {'above' if stance.height > 0 else 'below'} the ground"
        yield "ground", f"its soles are {where} (z = 0), its root at {np.median(clip.root_pos[:, 2]):.2g} m"
        return
    if stance.tilt > FOOT_TILT:
        yield "feet", f"the foot that stands is tilted by {stance.tilt:.2f} rad, expected below {FOOT_TILT:g}"
    if stance.moved > MOVING and (len(clip.dof_pos) - 1) / clip.fps >= LONG_ENOUGH:
        found = [(meter(other), words) for words, other in other_readings(clip)]
        best, words = min(found, key=lambda pair: pair[0].slip)
        text = f"the foot that stands slides at {stance.slip:.2f} m/s"
        if best.slip < BETTER * stance.slip and stance.slip - best.slip > 0.05:
            yield "feet", f"{text}, and at {best.slip:.2f} with {words}"
        elif stance.ratio > SLIP:
            yield "feet", f"{text}: the root does not move as the legs walk"
    elbows = _elbows(clip)
    if elbows is not None and elbows < ELBOWS:
        text = f"its elbows are {elbows:.2f} m from the trunk's middle, in the trunk"
        yield "arms", f"{text}: left and right exchanged, or other joints"


def _elbows(clip: Clip) -> float | None:
    """Distance of the elbows from the trunk's middle to their own side, m: both sides' median, averaged.

    Of frames in which both are beside the trunk, not before, behind or above it; None where these are few.
    """
    kinematics = _kinematics()
    body_pos, body_rot = (v.numpy() for v in kinematics(torch.from_numpy(clip.dof_pos[_spread(clip)])))
    trunk = kinematics.chain.body_index("torso_link")

    def in_trunk(name: str) -> np.ndarray:
        away = body_pos[:, kinematics.chain.body_index(name)] - body_pos[:, trunk]
        return (away[:, None] @ body_rot[:, trunk])[:, 0]

    left, right = in_trunk("left_elbow_link"), in_trunk("right_elbow_link")
    top = in_trunk("left_shoulder_roll_link")[:, 2]
    beside = [(np.abs(elbow[:, 0]) < BESIDE) & (elbow[:, 2] < top) for elbow in (left, right)]
    both = beside[0] & beside[1]
    if both.mean() < BESIDE_OFTEN:
        return None
    return float(np.median(left[both, 1]) - np.median(right[both, 1])) / 2


def _spread(clip: Clip) -> np.ndarray:
    """Frames to look at, all over the clip."""
    return np.unique(np.linspace(0, len(clip.dof_pos) - 1, MOST_FRAMES).astype(int))


@lru_cache(maxsize=1)
def _kinematics() -> ForwardKinematics:
    return ForwardKinematics(g1_chain(), dtype=torch.float64)


@lru_cache(maxsize=1)
def _meter() -> StanceMeter:
    return StanceMeter()
