"""Assets: a robot's file as a MuJoCo model, with names, properties and shapes as Isaac Gym lists them."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import mujoco
import numpy as np

from isaacgym.links import FREE_OF_LIMITS, Joint, Link, Shape, depth_first, merge_fixed_joints
from isaacgym.masses import with_masses
from isaacgym.robot import build_model
from isaacgym.structs import DOF_DTYPE, AssetOptions, ForceSensor, GymError, RigidShapeProperties
from isaacgym.urdf import read_urdf


@dataclass
class Asset:
    """A robot, read from a file.

    Attributes:
        name: the file's name without its ending; ``file``: where it is.
        spec: the robot alone: one tree below the world, a free joint on its root unless ``fix_base_link``. Once it is
            compiled, bodies 1..B and its hinges and slides are in the order of the names here. Shapes are geoms
            ``shape0``, ``shape1`` and so on.
        body_names, joint_names, dof_names: B, B - 1 (one a body but the root) and D (of those that move).
        dof_properties: [D] of ``DOF_DTYPE``.
        shape_bodies: for each shape its body's place in ``body_names``; ``shape_properties`` likewise.
        force_sensors: what ``create_asset_force_sensor`` has added.
    """

    name: str
    file: Path
    spec: mujoco.MjSpec
    options: AssetOptions
    body_names: list[str]
    joint_names: list[str]
    dof_names: list[str]
    dof_properties: np.ndarray
    shape_bodies: list[int]
    shape_properties: list[RigidShapeProperties]
    force_sensors: list[ForceSensor] = field(default_factory=list)


def load_asset(root: str, file: str, options: AssetOptions | None = None) -> Asset:
    """The robot of the URDF file at ``root``/``file``.

    Bodies and DOFs come depth first, the children of a link by their joints' names (:func:`isaacgym.links.in_order`).
    Where Isaac Gym's behaviour could not be looked up, this holds: links on fixed joints are merged before masses are
    made from ``density``; a mesh is its convex hull with at most 64 corners; a cylinder that
    ``replace_cylinder_with_capsule`` makes a capsule keeps its length between the ends' centres, and so gets longer by
    its diameter (as in NVIDIA's public importer for Isaac Sim); ``armature`` is that of each joint
    (``use_physx_armature``); links without mass and shapes weigh nothing, or 1 g where they move on their own.
    ``thickness``, ``flip_visual_attachments``, ``mesh_normal_mode`` and the largest velocities have no effect.

    Raises:
        GymError: the file is missing or says what cannot be simulated, or an option is not supported.
    """
    options = AssetOptions() if options is None else options
    path = Path(root, file)
    if options.vhacd_enabled:
        raise GymError("vhacd_enabled is not supported: a mesh is its convex hull; split a concave one into several")
    if not path.is_file():
        raise GymError(f"there is no asset file {path}; check the folder {str(root)!r} and the name {str(file)!r}")
    if path.suffix.lower() != ".urdf":
        raise GymError(f"asset file {path} is no .urdf, and nothing else is read here; convert it")
    try:
        link = read_urdf(path)
        if options.collapse_fixed_joints:
            link = merge_fixed_joints(link)
        if options.replace_cylinder_with_capsule:
            link = _with_capsules(link)
        link = with_masses(link, options)
        spec = build_model(link, options.fix_base_link, options.armature, options.disable_gravity)
    except GymError as error:
        raise GymError(f"{path}: {error}") from None
    spec.modelname = path.stem
    return _asset(path.resolve(), spec, link, options)


def _with_capsules(link: Link) -> Link:
    def swapped(shape: Shape) -> Shape:
        return replace(shape, kind="capsule") if shape.kind == "cylinder" else shape

    shapes = tuple(swapped(shape) for shape in link.shapes)
    return replace(link, shapes=shapes, children=tuple(_with_capsules(child) for child in link.children))


def _asset(file: Path, spec: mujoco.MjSpec, root: Link, options: AssetOptions) -> Asset:
    links = depth_first(root)
    joints = [link.joint for link in links if link.joint is not None]
    dofs = [joint for joint in joints if joint.kind != "fixed"]
    shape_bodies = [place for place, link in enumerate(links) for _ in link.shapes]
    return Asset(
        name=file.stem,
        file=file,
        spec=spec,
        options=copy.copy(options),
        body_names=[link.name for link in links],
        joint_names=[joint.name for joint in joints],
        dof_names=[joint.name for joint in dofs],
        dof_properties=_dof_properties(dofs, options),
        shape_bodies=shape_bodies,
        shape_properties=[RigidShapeProperties() for _ in shape_bodies],
    )


def _dof_properties(joints: list[Joint], options: AssetOptions) -> np.ndarray:
    """[D] of ``DOF_DTYPE``: what the file says, the drive mode and armature of the options, and a stiffness of 0."""
    properties = np.zeros(len(joints), DOF_DTYPE)
    properties["driveMode"] = options.default_dof_drive_mode
    properties["armature"] = options.armature
    properties["hasLimits"] = [joint.limits is not None for joint in joints]
    limits = [joint.limits or (-FREE_OF_LIMITS, FREE_OF_LIMITS) for joint in joints]
    properties["lower"], properties["upper"] = np.array(limits).reshape(-1, 2).T
    for key in ("velocity", "effort", "damping", "friction"):
        properties[key] = [getattr(joint, key) for joint in joints]
    return properties
