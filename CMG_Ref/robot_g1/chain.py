"""The Unitree G1's kinematics as data, so that motion clips are checked alike on every machine.

Read from ``asset_zoo/robots/unitree_g1/xmls/g1.xml`` of mjlab 1.6.0 (Apache-2.0); a test compares every number with it.
"""

from __future__ import annotations

from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.folder.robot import KinematicChain

FEET = ("left_ankle_roll_link", "right_ankle_roll_link")

_LEVEL = (1.0, 0.0, 0.0, 0.0)
_AXES = {"": (0.0, 0.0, 0.0), "x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}

# Body, its parent, the axis of the joint between them, the joint's limits (rad), the body's place in its parent (m)
# and its orientation there (w, x, y, z) with the joint at 0. Bodies turn in the order of ``JOINT_NAMES``.
_BODIES = (
    ("pelvis", "", "", (0, 0), (0, 0, 0), _LEVEL),
    ("left_hip_pitch_link", "pelvis", "y", (-2.5307, 2.8798), (0, 0.064452, -0.1027), _LEVEL),
    ("left_hip_roll_link", "left_hip_pitch_link", "x", (-0.5236, 2.9671), (0, 0.052, -0.030465),
     (0.996178686, 0, -0.087338572, 0)),
    ("left_hip_yaw_link", "left_hip_roll_link", "z", (-2.7576, 2.7576), (0.025001, 0, -0.12412), _LEVEL),
    ("left_knee_link", "left_hip_yaw_link", "y", (-0.087267, 2.8798), (-0.078273, 0.0021489, -0.17734),
     (0.996178686, 0, 0.087338572, 0)),
    ("left_ankle_pitch_link", "left_knee_link", "y", (-0.87267, 0.5236), (0, -9.4445e-05, -0.30001), _LEVEL),
    ("left_ankle_roll_link", "left_ankle_pitch_link", "x", (-0.2618, 0.2618), (0, 0, -0.017558), _LEVEL),
    ("right_hip_pitch_link", "pelvis", "y", (-2.5307, 2.8798), (0, -0.064452, -0.1027), _LEVEL),
    ("right_hip_roll_link", "right_hip_pitch_link", "x", (-2.9671, 0.5236), (0, -0.052, -0.030465),
     (0.996178686, 0, -0.087338572, 0)),
    ("right_hip_yaw_link", "right_hip_roll_link", "z", (-2.7576, 2.7576), (0.025001, 0, -0.12412), _LEVEL),
    ("right_knee_link", "right_hip_yaw_link", "y", (-0.087267, 2.8798), (-0.078273, -0.0021489, -0.17734),
     (0.996178686, 0, 0.087338572, 0)),
    ("right_ankle_pitch_link", "right_knee_link", "y", (-0.87267, 0.5236), (0, 9.4445e-05, -0.30001), _LEVEL),
    ("right_ankle_roll_link", "right_ankle_pitch_link", "x", (-0.2618, 0.2618), (0, 0, -0.017558), _LEVEL),
    ("waist_yaw_link", "pelvis", "z", (-2.618, 2.618), (0, 0, 0), _LEVEL),
    ("waist_roll_link", "waist_yaw_link", "x", (-0.52, 0.52), (-0.0039635, 0, 0.044), _LEVEL),
    ("torso_link", "waist_roll_link", "y", (-0.52, 0.52), (0, 0, 0), _LEVEL),
    ("left_shoulder_pitch_link", "torso_link", "y", (-3.0892, 2.6704), (0.0039563, 0.10022, 0.24778),
     (0.99026414, 0.13920102, 1.3872e-05, -9.8687e-05)),
    ("left_shoulder_roll_link", "left_shoulder_pitch_link", "x", (-1.5882, 2.2515), (0, 0.038, -0.013831),
     (0.990268219, -0.139172031, 0, 0)),
    ("left_shoulder_yaw_link", "left_shoulder_roll_link", "z", (-2.618, 2.618), (0, 0.00624, -0.1032), _LEVEL),
    ("left_elbow_link", "left_shoulder_yaw_link", "y", (-1.0472, 2.0944), (0.015783, 0, -0.080518), _LEVEL),
    ("left_wrist_roll_link", "left_elbow_link", "x", (-1.97222, 1.97222), (0.1, 0.00188791, -0.01), _LEVEL),
    ("left_wrist_pitch_link", "left_wrist_roll_link", "y", (-1.61443, 1.61443), (0.038, 0, 0), _LEVEL),
    ("left_wrist_yaw_link", "left_wrist_pitch_link", "z", (-1.61443, 1.61443), (0.046, 0, 0), _LEVEL),
    ("right_shoulder_pitch_link", "torso_link", "y", (-3.0892, 2.6704), (0.0039563, -0.10021, 0.24778),
     (0.99026414, -0.13920102, 1.3872e-05, 9.8687e-05)),
    ("right_shoulder_roll_link", "right_shoulder_pitch_link", "x", (-2.2515, 1.5882), (0, -0.038, -0.013831),
     (0.990268219, 0.139172031, 0, 0)),
    ("right_shoulder_yaw_link", "right_shoulder_roll_link", "z", (-2.618, 2.618), (0, -0.00624, -0.1032), _LEVEL),
    ("right_elbow_link", "right_shoulder_yaw_link", "y", (-1.0472, 2.0944), (0.015783, 0, -0.080518), _LEVEL),
    ("right_wrist_roll_link", "right_elbow_link", "x", (-1.97222, 1.97222), (0.1, -0.00188791, -0.01), _LEVEL),
    ("right_wrist_pitch_link", "right_wrist_roll_link", "y", (-1.61443, 1.61443), (0.038, 0, 0), _LEVEL),
    ("right_wrist_yaw_link", "right_wrist_pitch_link", "z", (-1.61443, 1.61443), (0.046, 0, 0), _LEVEL),
)  # fmt: skip

# Centres of the spheres that a sole ends in, in the frame of the foot (m).
_SOLES = {
    FEET[0]: ((0.05, -0.027), (0.1, -0.026), (0.123, -0.018), (-0.044, -0.018), (0.13, -0.01), (-0.052, -0.01),
              (0.132, 0), (-0.054, 0), (0.13, 0.01), (-0.052, 0.01),
              (0.123, 0.018), (-0.044, 0.018), (0.05, 0.026), (0.1, 0.026)),
    FEET[1]: ((0.05, -0.026), (0.1, -0.026), (0.123, -0.018), (-0.044, -0.018), (0.13, -0.01), (-0.052, -0.01),
              (0.132, 0), (-0.054, 0), (0.13, 0.01), (-0.052, 0.01),
              (0.123, 0.018), (-0.044, 0.018), (0.05, 0.026), (0.1, 0.026)),
}  # fmt: skip
_SOLE_HEIGHT, _SOLE_RADIUS = -0.025, 0.01


def g1_chain(ends: tuple[str, ...] = ()) -> KinematicChain:
    """The chain from the pelvis to the bodies named, or to all of them.

    Joint indices and limits are in the order of ``JOINT_NAMES``, all 29 of them. The left foot's sole spheres come
    first.
    """
    parent_of = {row[0]: row[1] for row in _BODIES}
    kept = set(parent_of) if not ends else {_BODIES[0][0]}
    for body in ends:
        while body not in kept:
            kept.add(body)
            body = parent_of[body]
    rows = [(joint, row) for joint, row in enumerate(_BODIES, start=-1) if row[0] in kept]
    names = tuple(row[0] for _, row in rows)
    soles = [(names.index(foot), (*point, _SOLE_HEIGHT)) for foot in FEET for point in _SOLES[foot] if foot in names]
    return KinematicChain(
        name="unitree_g1",
        body_names=names,
        body_parents=tuple(names.index(row[1]) if row[1] else -1 for _, row in rows),
        body_pos=tuple(row[4] for _, row in rows),
        body_quat=tuple(row[5] for _, row in rows),
        body_joints=tuple(joint for joint, _ in rows),
        joint_axes=tuple(_AXES[row[2]] for _, row in rows),
        joint_anchors=((0.0, 0.0, 0.0),) * len(rows),
        joint_lower=tuple(row[3][0] for row in _BODIES[1:]),
        joint_upper=tuple(row[3][1] for row in _BODIES[1:]),
        sole_bodies=tuple(body for body, _ in soles),
        sole_points=tuple(point for _, point in soles),
        sole_radii=(_SOLE_RADIUS,) * len(soles),
    )


def breadth_first_joint_names() -> tuple[str, ...]:
    """The joints in the order of Isaac Lab, which numbers a robot's joints level by level, left before right."""
    depth: dict[str, int] = {"": -1}
    for name, parent, *_ in _BODIES:
        depth[name] = depth[parent] + 1
    order = sorted(range(1, len(_BODIES)), key=lambda row: depth[_BODIES[row][0]])  # sorted keeps the order within
    return tuple(JOINT_NAMES[row - 1] for row in order)


def breadth_first_body_names() -> tuple[str, ...]:
    """The bodies in the order of Isaac Lab: the pelvis, then the bodies that those joints turn."""
    body_of = {joint: _BODIES[number][0] for number, joint in enumerate(JOINT_NAMES, start=1)}
    return (_BODIES[0][0], *(body_of[joint] for joint in breadth_first_joint_names()))
