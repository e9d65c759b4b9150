"""Motion clips: what one is, and picking its joints or changing its frame rate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from CMG_Ref.robot_g1 import WRIST_NAMES

FPS = 50.0


@dataclass(frozen=True)
class Recorded:
    """What a file says a second time, in other words; None where it does not. Nothing is made of it but checks.

    Attributes:
        dof_vel: [T, J], rad/s.
        root_lin_vel, root_ang_vel: [T, 3], m/s and rad/s, world.
        times: [T], as the file has them: seconds, milliseconds or anything proportional.
        body_names: of the bodies below.
        body_pos: [T, B, 3], m, world.
        body_quat: [T, B, 4], world, (w, x, y, z).
        local_body_pos: [T, B, 3], m, in the root's frame.
    """

    dof_vel: np.ndarray | None = None
    root_lin_vel: np.ndarray | None = None
    root_ang_vel: np.ndarray | None = None
    times: np.ndarray | None = None
    body_names: tuple[str, ...] = ()
    body_pos: np.ndarray | None = None
    body_quat: np.ndarray | None = None
    local_body_pos: np.ndarray | None = None


@dataclass(frozen=True)
class Clip:
    """One recorded motion.

    Attributes:
        name: where it came from, for messages.
        fps: frames a second.
        joint_names: order of the joints; empty when the file does not say.
        dof_pos: [T, J] float64, rad.
        root_pos: [T, 3] float64, m, world, z up.
        root_quat: [T, 4] float64, world, (w, x, y, z).
        recorded: what else the file says of the same motion.
        notes: what was filled in or assumed, in words.
    """

    name: str
    fps: float
    joint_names: tuple[str, ...]
    dof_pos: np.ndarray
    root_pos: np.ndarray
    root_quat: np.ndarray
    recorded: Recorded = field(default_factory=Recorded)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dof_pos.ndim != 2 or len(self.dof_pos) < 4:
            raise ValueError(f"{self.name}: dof_pos is {self.dof_pos.shape}, expected (T, J) with at least 4 frames")
        for name, value, shape in self._arrays():
            if value is not None and value.shape != shape:
                raise ValueError(f"{self.name}: {name} is {value.shape}, expected {shape} as dof_pos has it")
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{self.name}: {name} holds NaN or infinity; clean the clip")
        with np.errstate(over="ignore"):
            if np.linalg.norm(self.root_quat, axis=1).min() < 0.5:
                raise ValueError(f"{self.name}: root_quat is not a rotation everywhere, expected unit quaternions")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"{self.name}: fps is {self.fps}, expected a positive number")
        if self.joint_names and len(self.joint_names) != self.dof_pos.shape[1]:
            raise ValueError(
                f"{self.name}: {len(self.joint_names)} joint names for {self.dof_pos.shape[1]} joints; expected as many"
            )
        twice = sorted({name for name in self.joint_names if self.joint_names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.name}: joint names {', '.join(twice)} come twice; expected each once")

    def measured(self) -> list[np.ndarray]:
        """Every array that is there, but for times."""
        return [value for name, value, _ in self._arrays() if value is not None and name != "its time"]

    def _arrays(self) -> list[tuple[str, np.ndarray | None, tuple[int, ...]]]:
        """Name, value and expected shape of every array, the motion's own first."""
        joints, frames, again = self.dof_pos.shape, len(self.dof_pos), self.recorded
        bodies = (frames, len(again.body_names))
        return [
            ("dof_pos", self.dof_pos, joints),
            ("root_pos", self.root_pos, (frames, 3)),
            ("root_quat", self.root_quat, (frames, 4)),
            ("its joint velocity", again.dof_vel, joints),
            ("its root velocity", again.root_lin_vel, (frames, 3)),
            ("its root angular velocity", again.root_ang_vel, (frames, 3)),
            ("its time", again.times, (frames,)),
            ("its body positions", again.body_pos, (*bodies, 3)),
            ("its body rotations", again.body_quat, (*bodies, 4)),
            ("its local body positions", again.local_body_pos, (*bodies, 3)),
        ]


def rotation(quat: np.ndarray) -> Rotation:
    """Of quaternions [..., 4] (w, x, y, z), in one row."""
    return Rotation.from_quat(quat.reshape(-1, 4)[:, [1, 2, 3, 0]])


def quaternions(rotations: Rotation) -> np.ndarray:
    """[N, 4] (w, x, y, z) of rotations in a row."""
    return rotations.as_quat()[:, [3, 0, 1, 2]]


def select_joints(clip: Clip, joint_names: tuple[str, ...]) -> Clip:
    """The clip with its joints picked and ordered by name. Wrists that it lacks are filled with zeros, and noted.

    Raises:
        ValueError: other joints are missing, or unnamed joints are another number than wanted.
    """
    given = clip.joint_names
    without_wrists = tuple(name for name in joint_names if name not in WRIST_NAMES)
    if not given:
        wanted = {len(joint_names): joint_names, len(without_wrists): without_wrists}
        if clip.dof_pos.shape[1] not in wanted:
            counts = " or ".join(str(count) for count in sorted(wanted, reverse=True))
            raise ValueError(f"{clip.name}: {clip.dof_pos.shape[1]} unnamed joints, expected {counts}")
        given = wanted[clip.dof_pos.shape[1]]
    missing = [name for name in joint_names if name not in given]
    filled = set(missing) == set(WRIST_NAMES) & set(joint_names) and bool(missing)
    if missing and not filled:
        raise ValueError(f"{clip.name}: joints {', '.join(missing)} are missing; it has {', '.join(given)}")
    notes = (f"{len(missing)} wrist joints filled with zeros",) if filled else ()
    dropped = sorted(set(given) - set(joint_names))
    if dropped:
        notes += (f"{len(dropped)} other joints left out ({', '.join(dropped[:3])}{' ...' if dropped[3:] else ''})",)

    def pick(values: np.ndarray) -> np.ndarray:
        columns = [values[:, given.index(name)] if name in given else np.zeros(len(values)) for name in joint_names]
        return np.stack(columns, axis=1)

    dof_vel = clip.recorded.dof_vel
    return replace(
        clip,
        joint_names=joint_names,
        dof_pos=pick(clip.dof_pos),
        recorded=replace(clip.recorded, dof_vel=None if dof_vel is None else pick(dof_vel)),
        notes=clip.notes + notes,
    )


def resample(clip: Clip, fps: float = FPS) -> Clip:
    """The clip at another frame rate: cubic splines for joints and root, slerp for the root's rotation.

    What the file says a second time is dropped.
    """
    times = np.arange(len(clip.dof_pos)) / clip.fps
    wanted = np.arange(int(np.floor(times[-1] * fps + 1e-9)) + 1) / fps
    wanted = np.minimum(wanted, times[-1])  # the last may lie a rounding error beyond the clip
    turned = Slerp(times, rotation(clip.root_quat))(wanted)
    return Clip(
        clip.name,
        fps,
        clip.joint_names,
        CubicSpline(times, clip.dof_pos)(wanted),
        CubicSpline(times, clip.root_pos)(wanted),
        quaternions(turned),
        notes=clip.notes,
    )
