"""What speaks against reading a clip as it was read: its own figures against each other, and against the robot.

Thresholds come from what a robot can do and from what the mistakes look like, not from the clip that is checked. Known
good clips (44 of a G1, walking, running and turning) stay within half of most of them; where less, it is said beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d

from CMG_Ref.dataloader.clips import Clip, rotation
from CMG_Ref.dataloader.robot_evidence import limits, posture, stored_bodies, walking
from CMG_Ref.robot_g1 import JOINT_NAMES

Kind = Literal[
    "fps", "time", "quaternion", "speed", "frames", "precision", "velocity", "limits", "tilt", "ground", "bodies",
    "feet", "arms",
]  # fmt: skip

SLOWEST_FPS, FASTEST_FPS = 5.0, 1000.0
UNIT_TOLERANCE = 0.02  # of a quaternion's length; float16 is off by 0.001
JOINT_SPEED = 50.0  # rad/s; the G1's fastest joint does 37
ROOT_SPEED = 6.0  # m/s; twice what any clip runs
JUMP = 1.8  # times the frames beside it: one frame is missing at 2; clips reach 1.24
SUDDEN = 25.0  # m/s^2 of the root at a jump: at few frames a second, a step of the foot changes its speed as much
REPEATED = 0.01  # share of frames that repeat the one before while the robot moves
FROZEN = 0.5  # share of frames that repeat the one before
DEGREE = float(np.degrees(1))
COARSE = 0.1  # m/s of noise from positions kept to too few digits
# Stored velocity over the change of position. Forward and central differences, and smoothing, differ by 0.1; the
# nearest frame rates that are mistaken for each other, 50 and 60, by 0.2.
VELOCITY_RATIO = (0.88, 1.15)
SMOOTHED = 0.15  # s: both are compared as smooth as this, for stored velocities often are, and by nobody knows how much
CORRELATION = 0.8  # of all stored velocities with the changes
JOINT_CORRELATION = 0.5  # of one joint's: another joint, or another sign


MENDED_BY: dict[Kind, set[str]] = {
    "fps": {"fps"},
    "time": {"fps"},
    "speed": {"angles", "length_unit", "fps", "joint_order"},
    "velocity": {"angles", "quaternion", "up", "fps", "joint_order"},
    "limits": {"angles", "joint_order"},
    "tilt": {"quaternion", "up"},
    "ground": {"up", "length_unit", "joint_order"},
    "bodies": {"quaternion", "up", "length_unit", "joint_order"},
    "feet": {"joint_order"},
    "arms": {"joint_order"},
}
"""Which options can be the reason for a doubt. Without this, a slow walk with joints next to 0 would "fit"."""


@dataclass(frozen=True)
class Doubt:
    """One thing that speaks against a clip.

    Attributes:
        kind: what it is about; ``--accept`` takes it.
        text: what was measured, and what was expected.
        fps: the frame rate that it speaks for, if any.
    """

    kind: Kind
    text: str
    fps: float | None = None


def doubts(clip: Clip) -> Iterator[Doubt]:
    """Everything that speaks against a clip, what is cheap to find first."""
    if not SLOWEST_FPS <= clip.fps <= FASTEST_FPS:
        seconds = f"; as seconds from frame to frame it is {1 / clip.fps:.4g} fps" if clip.fps < 1 else ""
        text = f"{clip.fps:g} frames a second, expected {SLOWEST_FPS:g} to {FASTEST_FPS:g}{seconds}"
        yield Doubt("fps", text, 1 / clip.fps if clip.fps < 1 else None)
    yield from _times(clip)
    length = np.linalg.norm(clip.root_quat, axis=1)
    if np.abs(length - 1).max() > UNIT_TOLERANCE:
        yield Doubt("quaternion", f"quaternions of length {length.min():.2f} to {length.max():.2f}, expected 1")
    g1 = clip.joint_names == JOINT_NAMES
    for kind, text in limits(clip) if g1 else ():
        yield Doubt(kind, text)
    for kind, text in posture(clip):
        yield Doubt(kind, text)
    yield from _speeds(clip)
    yield from _frames(clip)
    yield from _joint_velocity(clip)
    yield from _root_velocity(clip)
    for check in (stored_bodies, walking) if g1 else ():
        for kind, text in check(clip):
            yield Doubt(kind, text)


def _times(clip: Clip) -> Iterator[Doubt]:
    times = clip.recorded.times
    if times is None:
        return
    steps = np.diff(times)
    usual = float(np.median(steps))
    if steps.min() <= 0:
        at = int(steps.argmin())
        yield Doubt("time", f"time does not go on after frame {at}: {times[at]:g}, then {times[at + 1]:g}")
        return
    rates = {unit: unit / usual for unit in (1.0, 1e3, 1e6, 1e9)}  # in s, ms, us, ns
    if not any(abs(rate / clip.fps - 1) < 0.03 for rate in rates.values()):
        likely = next((rate for rate in rates.values() if SLOWEST_FPS <= rate <= FASTEST_FPS), None)
        says = f"{likely:.4g} fps" if likely else f"steps of {usual:g}"
        yield Doubt("time", f"its times say {says} where fps says {clip.fps:g}", likely)
    if steps.max() > 1.5 * usual:
        at = int(steps.argmax())
        yield Doubt("time", f"frames are missing: {steps[at]:g} passes after frame {at}, {usual:g} elsewhere")


def _speeds(clip: Clip) -> Iterator[Doubt]:
    change = np.abs(np.diff(clip.dof_pos, axis=0))
    frame, joint = np.unravel_index(change.argmax(), change.shape)
    if change[frame, joint] * clip.fps > JOINT_SPEED:
        name = clip.joint_names[joint] if clip.joint_names else f"joint {joint}"
        moved = f"{name} moves {change[frame, joint]:.3g} rad after frame {frame}"
        yield Doubt("speed", f"{moved}: {change[frame, joint] * clip.fps:.0f} rad/s, expected below {JOINT_SPEED:g}")
    moved = np.linalg.norm(np.diff(clip.root_pos, axis=0), axis=1)
    if moved.max() * clip.fps > ROOT_SPEED:
        at = int(moved.argmax())
        text = f"the root moves {moved[at]:.3g} m after frame {at}: {moved[at] * clip.fps:.3g} m/s"
        yield Doubt("speed", f"{text}, expected below {ROOT_SPEED:g}")


def _frames(clip: Clip) -> Iterator[Doubt]:
    """Frames that repeat or are missing, and positions kept to too few digits."""
    joints = np.linalg.norm(np.diff(clip.dof_pos, axis=0), axis=1) * clip.fps
    root = np.linalg.norm(np.diff(clip.root_pos, axis=0), axis=1) * clip.fps
    still = (joints == 0) & (root == 0)
    moving = (np.maximum(joints[2:], joints[:-2]) > 1.0) & still[1:-1]
    if moving.sum() > REPEATED * len(joints):
        yield Doubt("frames", f"{moving.sum()} of {len(joints)} frames are the one before again, amid motion")
    elif still.mean() > FROZEN:
        yield Doubt("frames", f"{still.mean():.0%} of the frames are the one before again: it is frozen")
    else:
        beside = [np.maximum(step[2:], step[:-2]) for step in (joints, root)]
        # Slower than 1.2 rad/s (all joints together) and 0.6 m/s, any step may be many times the one before.
        jump = np.minimum(joints[1:-1] / np.maximum(beside[0], 1.2), root[1:-1] / np.maximum(beside[1], 0.6))
        jump[(root[1:-1] - beside[1]) * clip.fps < SUDDEN] = 0.0
        if jump.size and jump.max() > JUMP:
            at = int(jump.argmax()) + 1
            text = f"joints and root move {jump.max():.1f} times as far after frame {at} as beside it"
            yield Doubt("frames", f"{text}: frames are missing, or two motions meet")
    half = np.clip(clip.root_pos, -6e4, 6e4).astype(np.float16)  # as far as it reaches
    step = float(np.spacing(np.abs(half[:, :2]).max()))
    if np.array_equal(half, clip.root_pos) and step * clip.fps > COARSE:
        noise = f"{step * clip.fps:.2g} m/s of noise"
        yield Doubt("precision", f"root positions in steps of {step:.2g} m (float16): {noise}")


def _joint_velocity(clip: Clip) -> Iterator[Doubt]:
    stored = clip.recorded.dof_vel
    if stored is None:
        return
    change = np.gradient(clip.dof_pos, axis=0) * clip.fps
    if np.sqrt((change**2).mean()) < 0.05:  # rad/s: it stands
        return
    stored, change = _smoothed(stored, clip.fps), _smoothed(change, clip.fps)
    ratio, correlation = _compared(stored, change)
    moving = np.flatnonzero(np.sqrt((change**2).mean(axis=0)) > 0.3)
    wrong = [j for j in moving if _compared(stored[:, j], change[:, j])[1] < JOINT_CORRELATION]
    if len(wrong) > 0:
        names = [clip.joint_names[j] if clip.joint_names else f"joint {j}" for j in wrong]
        some = f"{', '.join(names[:3])}{' ...' if names[3:] else ''}"
        yield Doubt("velocity", f"stored velocities of {some} do not follow the positions: another order or sign")
    elif correlation < CORRELATION:
        text = f"stored joint velocities do not follow the positions (correlation {correlation:.2f})"
        yield Doubt("velocity", text)
    elif not _fits(ratio, (1.0, DEGREE)):
        fps = clip.fps * ratio
        yield Doubt("velocity", f"stored joint velocities say {fps:.4g} fps where fps says {clip.fps:g}", fps)


def _root_velocity(clip: Clip) -> Iterator[Doubt]:
    """Linear and angular, in the world's axes or the root's own."""
    root = rotation(clip.root_quat)
    turned = (root[2:] * root[:-2].inv()).as_rotvec() * clip.fps / 2
    travelled = np.gradient(clip.root_pos, axis=0)[1:-1] * clip.fps
    for name, stored, change, units, still in (
        ("root", clip.recorded.root_lin_vel, travelled, (1.0, 100.0, 1000.0), 0.05),
        ("root angular", clip.recorded.root_ang_vel, turned, (1.0, DEGREE), 0.1),
    ):
        if stored is None or np.sqrt((change**2).sum(axis=1).mean()) < still:
            continue
        frames = (change, root[1:-1].inv().apply(change))
        smooth = _smoothed(stored[1:-1], clip.fps)
        found = (_compared(smooth, _smoothed(values, clip.fps)) for values in frames)
        ratio, correlation = max(found, key=lambda pair: pair[1])
        if correlation < CORRELATION:
            text = f"stored {name} velocities contradict the poses (correlation {correlation:.2f})"
            yield Doubt("velocity", f"{text}, expected nearly 1")
        elif not _fits(ratio, units):
            fps = clip.fps * ratio if clip.recorded.dof_vel is None else None  # joints' velocities tell it better
            text = f"stored {name} velocities are {ratio:.3g} times the change of the poses at {clip.fps:g} fps"
            yield Doubt("velocity", f"{text}, expected 1: fps or units", fps)


def _fits(ratio: float, units: tuple[float, ...]) -> bool:
    """Velocities may come in any of these units: they only bear witness."""
    return any(VELOCITY_RATIO[0] < ratio / unit < VELOCITY_RATIO[1] for unit in units)


def _smoothed(values: np.ndarray, fps: float) -> np.ndarray:
    return gaussian_filter1d(values, SMOOTHED * fps, axis=0)


def _compared(stored: np.ndarray, change: np.ndarray) -> tuple[float, float]:
    """How many times the change what is stored is, by least squares, and how well it follows it."""
    product, squared = float((stored * change).sum()), float((change**2).sum())
    return product / max(squared, 1e-12), product / max(np.sqrt(squared * float((stored**2).sum())), 1e-12)
