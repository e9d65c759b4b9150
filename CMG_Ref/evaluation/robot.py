"""The Unitree G1's legs, soles and joint limits, read from its MJCF."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from CMG_Ref import mujoco_import
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.kinematics import KinematicChain

mujoco = mujoco_import.for_models()

FEET = ("left_ankle_roll_link", "right_ankle_roll_link")
KNEES = (JOINT_NAMES.index("left_knee_joint"), JOINT_NAMES.index("right_knee_joint"))
LEG_JOINTS = slice(0, 12)


def g1_mjcf() -> Path:
    """Path of the G1's MJCF in mjlab's asset zoo, found without importing mjlab.

    Raises:
        FileNotFoundError: mjlab is not installed, or has no such model.
    """
    spec = importlib.util.find_spec("mjlab")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("mjlab is not installed; its Unitree G1 model is needed: pip install mjlab")
    path = Path(spec.origin).parent / "asset_zoo" / "robots" / "unitree_g1" / "xmls" / "g1.xml"
    if not path.is_file():
        raise FileNotFoundError(f"no G1 model at {path}; expected mjlab's asset zoo: pip install mjlab==1.6.0")
    return path


def load_g1_legs(mjcf: Path | None = None) -> KinematicChain:
    """The chain from the pelvis to both ankle roll links.

    Joint indices and limits are in the order of ``JOINT_NAMES``, all 29 of them. The sole spheres are the
    ends of the foot capsules, the left foot's first, as many on each foot.
    """
    model = mujoco.MjModel.from_xml_path(str(mjcf or g1_mjcf()))
    joint_ids = [model.joint(name).id for name in JOINT_NAMES]
    joint_of_body = {int(model.jnt_bodyid[j]): column for column, j in enumerate(joint_ids)}
    root = next(b for b in range(1, model.nbody) if model.body_parentid[b] == 0)
    kept = {root}
    for foot in FEET:
        body = model.body(foot).id
        while body != root:
            kept.add(int(body))
            body = model.body_parentid[body]
    bodies = sorted(kept)
    joints = [joint_of_body.get(b, -1) for b in bodies]
    zero = (0.0, 0.0, 0.0)
    soles = [(bodies.index(model.body(foot).id), *sphere) for foot in FEET for sphere in _capsule_ends(model, foot)]
    limits = model.jnt_range[joint_ids]
    return KinematicChain(
        name="unitree_g1",
        body_names=tuple(model.body(b).name for b in bodies),
        body_parents=tuple(-1 if b == root else bodies.index(model.body_parentid[b]) for b in bodies),
        body_pos=tuple(tuple(model.body_pos[b].tolist()) for b in bodies),
        body_quat=tuple(tuple(model.body_quat[b].tolist()) for b in bodies),
        body_joints=tuple(joints),
        joint_axes=tuple(tuple(model.jnt_axis[joint_ids[j]].tolist()) if j >= 0 else zero for j in joints),
        joint_anchors=tuple(tuple(model.jnt_pos[joint_ids[j]].tolist()) if j >= 0 else zero for j in joints),
        joint_lower=tuple(limits[:, 0].tolist()),
        joint_upper=tuple(limits[:, 1].tolist()),
        sole_bodies=tuple(body for body, _, _ in soles),
        sole_points=tuple(point for _, point, _ in soles),
        sole_radii=tuple(radius for _, _, radius in soles),
    )


def _capsule_ends(model: Any, body_name: str) -> list[tuple[tuple[float, ...], float]]:
    """(centre in the body's frame, radius) of both end spheres of every capsule of a body."""
    body, spheres = model.body(body_name).id, []
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] != body or model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_CAPSULE:
            continue
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        radius, half_length = model.geom_size[geom, :2]
        axis = rotation.reshape(3, 3)[:, 2] * half_length
        spheres += [(tuple((model.geom_pos[geom] + s * axis).tolist()), float(radius)) for s in (-1, 1)]
    return spheres
