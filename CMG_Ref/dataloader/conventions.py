"""From a file's units and conventions to the project's: rad, m, z up, (w, x, y, z), the G1's order of joints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from CMG_Ref.dataloader.clips import Clip, quaternions, rotation, select_joints
from CMG_Ref.dataloader.formats import Recording
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.robot_g1.chain import breadth_first_body_names, breadth_first_joint_names, g1_chain

METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UPRIGHT = Rotation.from_euler("x", 90, degrees=True)  # y up -> z up


@dataclass(frozen=True)
class Conventions:
    """What to take files for where they are not as expected. Nothing is converted that is not told here."""

    angles: Literal["radians", "degrees"] = "radians"
    """Unit of joint positions in the files."""
    quaternion: Literal["layout", "wxyz", "xyzw"] = "layout"
    """Order of the root's quaternion; "layout": what each file's layout has."""
    up: Literal["z", "y"] = "z"
    """The world's upward axis in the files."""
    length_unit: Literal["m", "cm", "mm"] = "m"
    """Unit of positions in the files."""
    fps: float | None = None
    """Frames a second, instead of what files say or their layout has."""
    joint_order: Literal["g1", "isaaclab"] = "g1"
    """Order of joints without names: the G1's own (MJCF, SDK), or Isaac Lab's, level by level."""

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < np.inf:
            raise ValueError(f"fps is {self.fps}, expected more than 0")

    def options(self) -> str:
        """What differs from the default, as the command line has it."""
        default = Conventions()
        changed = [(name, getattr(self, name)) for name in Conventions.__annotations__]
        return " ".join(
            f"--{name.replace('_', '-')} {value:g}"
            if isinstance(value, float)
            else f"--{name.replace('_', '-')} {value}"
            for name, value in changed
            if value != getattr(default, name)
        )


def interpret(recording: Recording, name: str, joint_names: tuple[str, ...], conventions: Conventions) -> Clip:
    """The clip that a recording is under these conventions."""
    fps, notes = conventions.fps or recording.fps or recording.layout_fps, ()
    name = f"{name}:{recording.key}" if recording.key else name
    if fps is None:
        raise ValueError(f"{name}: it does not say its frames a second; name them: --fps 30")
    if fps == recording.layout_fps and not (conventions.fps or recording.fps):
        notes = (f"{fps:g} fps assumed, as the layout has it",)
    metres, again = METRES[conventions.length_unit], recording.recorded
    names, bodies = _names_of(recording, conventions)
    order = recording.quaternion if conventions.quaternion == "layout" else conventions.quaternion

    def turned(quat: np.ndarray | None) -> np.ndarray | None:
        if quat is None or quat.shape[-1:] != (4,):  # Clip says what is wrong with it
            return quat
        quat = quat[..., [3, 0, 1, 2]] if order == "xyzw" else quat
        return quat if conventions.up == "z" else _turned_upright(quat)

    def world(vectors: np.ndarray | None) -> np.ndarray | None:
        return vectors if vectors is None or conventions.up == "z" else vectors @ _UPRIGHT.as_matrix().T

    def scaled(vectors: np.ndarray | None) -> np.ndarray | None:
        return None if vectors is None else vectors * metres

    root_pos, root_quat = scaled(world(recording.root_pos)), turned(recording.root_quat)
    assert root_pos is not None and root_quat is not None
    clip = Clip(
        name,
        fps,
        names,
        np.deg2rad(recording.dof_pos) if conventions.angles == "degrees" else recording.dof_pos,
        root_pos,
        root_quat,
        replace(
            again,
            root_lin_vel=world(again.root_lin_vel),
            root_ang_vel=world(again.root_ang_vel),
            body_names=bodies,
            body_pos=scaled(world(again.body_pos)) if bodies else None,
            body_quat=turned(again.body_quat) if bodies else None,
            local_body_pos=scaled(again.local_body_pos),
        ),
        notes,
    )
    return select_joints(clip, joint_names) if joint_names else clip


def _names_of(recording: Recording, conventions: Conventions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of joints and bodies; those of the order told where the file has none of its own."""
    joints, bodies = recording.joint_names, recording.recorded.body_names
    count = recording.dof_pos.shape[-1]
    isaaclab = conventions.joint_order == "isaaclab"
    if not joints and isaaclab:
        order = breadth_first_joint_names()
        joints = order if count == len(order) else ()
    if recording.bodies_ordered and not recording.joint_names and count == len(JOINT_NAMES):
        bodies = breadth_first_body_names() if isaaclab else g1_chain().body_names
    return joints, bodies


def _turned_upright(quat: np.ndarray) -> np.ndarray:
    return quaternions(_UPRIGHT * rotation(quat)).reshape(quat.shape)


def alternatives(
    recording: Recording, conventions: Conventions, options: set[str], fps: set[float]
) -> list[Conventions]:
    """Conventions that differ in one or two of these options, to see which of them a clip fits that does not as told.

    Frame rates are those of ``fps``.
    """
    as_told = recording.quaternion if conventions.quaternion == "layout" else conventions.quaternion
    told = {**{name: getattr(conventions, name) for name in Conventions.__annotations__}, "quaternion": as_told}
    far = np.abs(recording.dof_pos).max() > 2 * np.pi  # some joint's angle always is, in degrees
    values: dict[str, tuple[object, ...]] = {
        "angles": ("radians", "degrees") if far else ("radians",),
        "quaternion": ("wxyz", "xyzw"),
        "up": ("z", "y"),
        "length_unit": tuple(METRES),
        "joint_order": () if recording.joint_names else ("g1", "isaaclab"),
        "fps": tuple(fps),
    }
    changes = [{name: value} for name in values if name in options for value in values[name] if told[name] != value]
    pairs = [{**a, **b} for i, a in enumerate(changes) for b in changes[i + 1 :] if not a.keys() & b.keys()]
    return [replace(conventions, **change) for change in (*changes, *pairs)]  # pyright: ignore[reportArgumentType]
