"""The Unitree G1 with 29 joints: names, standing pose, left/right symmetry."""

from __future__ import annotations

JOINT_NAMES: tuple[str, ...] = (
    "left_hip_pitch_joint", "left_hip_roll_joint", "left_hip_yaw_joint",
    "left_knee_joint", "left_ankle_pitch_joint", "left_ankle_roll_joint",
    "right_hip_pitch_joint", "right_hip_roll_joint", "right_hip_yaw_joint",
    "right_knee_joint", "right_ankle_pitch_joint", "right_ankle_roll_joint",
    "waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint",
    "left_shoulder_pitch_joint", "left_shoulder_roll_joint", "left_shoulder_yaw_joint", "left_elbow_joint",
    "left_wrist_roll_joint", "left_wrist_pitch_joint", "left_wrist_yaw_joint",
    "right_shoulder_pitch_joint", "right_shoulder_roll_joint", "right_shoulder_yaw_joint", "right_elbow_joint",
    "right_wrist_roll_joint", "right_wrist_pitch_joint", "right_wrist_yaw_joint",
)  # fmt: skip

WRIST_NAMES: tuple[str, ...] = tuple(name for name in JOINT_NAMES if "_wrist_" in name)
"""The joints that robots, and motions, of 23 joints are without."""

LEG_JOINTS = slice(0, 12)
KNEES = (JOINT_NAMES.index("left_knee_joint"), JOINT_NAMES.index("right_knee_joint"))

# mjlab's KNEES_BENT_KEYFRAME: the pose in which its G1 environments start. Joints not named are at 0.
_STANDING = {
    "hip_pitch": -0.312, "knee": 0.669, "ankle_pitch": -0.363,
    "shoulder_pitch": 0.2, "left_shoulder_roll": 0.2, "right_shoulder_roll": -0.2, "elbow": 0.6,
}  # fmt: skip


def default_dof_pos() -> list[float]:
    """The standing pose, rad, in the order of ``JOINT_NAMES``."""
    return [next((v for key, v in _STANDING.items() if key in name), 0.0) for name in JOINT_NAMES]


def mirror_map(joint_names: tuple[str, ...]) -> tuple[list[int], list[float]]:
    """How a pose is mirrored left to right: ``mirrored[..., j] = sign[j] * dof_pos[..., index[j]]``.

    Left and right change places; rotations about the forward and the upward axis (roll, yaw) change
    sign. Holds for robots that name joints as the G1 does.

    Raises:
        ValueError: a left joint without its right twin, or the other way round.
    """
    index, sign = [], []
    for name in joint_names:
        twin = name
        if name.startswith("left_"):
            twin = "right_" + name[5:]
        elif name.startswith("right_"):
            twin = "left_" + name[6:]
        if twin not in joint_names:
            raise ValueError(f"joint {name!r} has no mirror twin {twin!r}; expected left_/right_ pairs")
        index.append(joint_names.index(twin))
        sign.append(-1.0 if "_roll_" in name or "_yaw_" in name else 1.0)
    return index, sign
