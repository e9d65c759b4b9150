"""Builds a MuJoCo model of a tree of links: a body a link, in the tree's order."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from isaacgym.links import Inertial, Joint, Link, Shape, depth_first
from isaacgym.meshes import hull_vertices
from isaacgym.structs import GymError

_GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "mesh": mujoco.mjtGeom.mjGEOM_MESH,
}
_HULL_CORNERS = 64
_NO_RANGE = 1e-6


def build_model(root: Link, fix_base_link: bool, armature: float, disable_gravity: bool) -> mujoco.MjSpec:
    """The model of a robot all of whose links have their masses.

    Contacts have MuJoCo's defaults: friction against sliding only, of 1 (PhysX's have no other either), and a time
    constant of 20 ms, above the least of two time steps for steps of up to 10 ms.

    Neighbours (a link and what hangs on it by a joint, with all that is fixed to either) and links fixed to each other
    do not collide. MuJoCo leaves them out by itself, but for neighbours of a base that stands fast: those are listed.

    Raises:
        GymError: a mesh cannot be read, or MuJoCo refuses the model.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    bodies = {"": spec.worldbody}
    for link, parent in _with_parents(root, ""):
        name = "the robot's world" if link.name == "world" else link.name  # "world" is MuJoCo's own body
        body = bodies[parent].add_body(name=name, gravcomp=float(disable_gravity))
        bodies[link.name] = body
        if link.joint is None and not fix_base_link:
            body.add_freejoint()
        if link.joint is not None:
            body.pos, body.quat = link.joint.pose.position, _quaternion(link.joint.pose.rotation)
            if not link.is_fixed:
                _add_joint(body, link.joint, armature)
        _set_mass(body, link.inertial)
    shapes = [(link.name, shape) for link in depth_first(root) for shape in link.shapes]
    for index, (name, shape) in enumerate(shapes):
        add_shape(spec, bodies[name], shape, f"shape{index}")
    _keep_from_fixed_base(spec, compiled(spec))
    return spec


def compiled(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The model of a specification; what MuJoCo has against it is a GymError."""
    try:
        return spec.compile()
    except ValueError as error:
        raise GymError(f"MuJoCo refuses the robot: {' '.join(str(error).split())}") from None


def add_shape(spec: mujoco.MjSpec, body: mujoco.MjsBody, shape: Shape, name: str) -> mujoco.MjsGeom:
    """Adds a shape to a body: a geom, and a mesh of its own name if it is one."""
    geom = body.add_geom(name=name, type=_GEOM_TYPES[shape.kind])
    geom.pos, geom.quat = shape.pose.position, _quaternion(shape.pose.rotation)
    if shape.kind == "mesh":
        vertices = hull_vertices(Path(shape.file)) * shape.size
        mesh = spec.add_mesh(name=name, uservert=vertices.flatten(), maxhullvert=_HULL_CORNERS)
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
        geom.meshname = name
    elif shape.kind == "box":
        geom.size = np.array(shape.size) / 2.0
    else:
        radius, *length = shape.size
        geom.size = [radius, length[0] / 2.0 if length else 0.0, 0.0]
    return geom


def _with_parents(link: Link, parent: str) -> list[tuple[Link, str]]:
    """All links, depth first, each with its parent's name."""
    found = [(link, parent)]
    for child in link.children:
        found += _with_parents(child, link.name)
    return found


def _add_joint(body: mujoco.MjsBody, joint: Joint, armature: float) -> None:
    kind = mujoco.mjtJoint.mjJNT_HINGE if joint.kind == "hinge" else mujoco.mjtJoint.mjJNT_SLIDE
    added = body.add_joint(name=joint.name, type=kind, axis=joint.axis, limited=int(joint.limits is not None))
    added.armature, added.frictionloss = armature, joint.friction
    added.damping[0] = joint.damping
    if joint.limits is not None:
        # MuJoCo wants a range with some width.
        lower, upper = joint.limits
        added.range = [lower, max(upper, lower + _NO_RANGE)]


def _set_mass(body: mujoco.MjsBody, inertial: Inertial | None) -> None:
    body.explicitinertial, body.mass = True, 0.0
    if inertial is not None:
        moments, axes = np.linalg.eigh(inertial.inertia)
        axes[:, 0] *= np.sign(np.linalg.det(axes))
        body.mass, body.ipos, body.iquat, body.inertia = inertial.mass, inertial.center, _quaternion(axes), moments


def _keep_from_fixed_base(spec: mujoco.MjSpec, model: mujoco.MjModel) -> None:
    """Excludes contacts between bodies that are fixed to the world and those whose joint hangs on one of them."""
    weld = model.body_weldid
    standing = [body for body in range(1, model.nbody) if weld[body] == 0]
    for body in range(1, model.nbody):
        if weld[body] != 0 and weld[model.body_parentid[weld[body]]] == 0:
            for base in standing:
                spec.add_exclude(bodyname1=model.body(base).name, bodyname2=model.body(body).name)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z, as MuJoCo has them, of a rotation matrix."""
    return Rotation.from_matrix(rotation).as_quat()[[3, 0, 1, 2]]
