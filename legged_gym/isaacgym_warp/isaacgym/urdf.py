"""Reads a URDF file into a tree of links. What is only seen (``<visual>``) and what is not simulated is left out."""

import os
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from scipy.spatial.transform import Rotation

from isaacgym.links import FREE_OF_LIMITS, Inertial, Joint, Link, Pose, Shape, in_order
from isaacgym.structs import GymError

_JOINT_KINDS = {"revolute": "hinge", "continuous": "hinge", "prismatic": "slide", "fixed": "fixed"}
_ROUND = ("radius", "length")
_SHAPE_SIZES = {"box": ("size",), "sphere": ("radius",), "cylinder": _ROUND, "capsule": _ROUND}


def read_urdf(file: Path) -> Link:
    """The root of the tree of links that a URDF file describes.

    ``<mimic>`` is ignored: such a joint moves on its own. A joint whose ``<limit>`` has neither ``lower`` nor ``upper``
    has no limits, as in NVIDIA's public importer for Isaac Sim. ``floating`` and ``planar`` joints are refused.

    Raises:
        GymError: the file is no URDF, its links are no tree, a number or a collision mesh is missing.
    """
    try:
        robot = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise GymError(f"the file cannot be read as XML: {error}") from None
    return _tree(robot, file)


def _tree(robot: Element, file: Path) -> Link:
    links = {_attribute(link, "name"): link for link in robot.findall("link")}
    joints = defaultdict(list)
    children = set()
    for joint in robot.findall("joint"):
        parent, child = (_attribute(_element(joint, tag), "link") for tag in ("parent", "child"))
        for name in (parent, child):
            if name not in links:
                raise GymError(f"joint {joint.get('name')!r} names link {name!r}, which the file does not have")
        if child in children:
            raise GymError(f"link {child!r} is the child of two joints; a robot must be a tree")
        children.add(child)
        joints[parent].append((child, joint))
    roots = [name for name in links if name not in children]
    if len(roots) != 1:
        raise GymError(f"a robot has one root link, and this one has {', '.join(roots) or 'none'}")

    def build(name: str, joint: Joint | None) -> Link:
        hanging = [build(child, _joint(element)) for child, element in joints[name]]
        shapes = tuple(_shape(collision, name, file) for collision in links[name].findall("collision"))
        return Link(name, joint, _inertial(links[name]), shapes, in_order(hanging))

    return build(roots[0], None)


def _joint(joint: Element) -> Joint:
    name, kind = _attribute(joint, "name"), _attribute(joint, "type")
    if kind not in _JOINT_KINDS:
        raise GymError(f"joint {name!r} is {kind}; {', '.join(_JOINT_KINDS)} are supported")
    limit, dynamics, axis = (joint.find(tag) for tag in ("limit", "dynamics", "axis"))
    limits = _number(limit, "lower", -FREE_OF_LIMITS), _number(limit, "upper", FREE_OF_LIMITS)
    if limits[0] > limits[1]:
        raise GymError(f"joint {name!r} has a lower limit of {limits[0]} above its upper one of {limits[1]}")
    direction = np.array([1.0, 0.0, 0.0]) if axis is None else _numbers(axis, "xyz", 3)
    if kind != "fixed" and not np.linalg.norm(direction) > 0.0:
        raise GymError(f"joint {name!r} has an axis of length 0")
    return Joint(
        name=name,
        kind=_JOINT_KINDS[kind],
        pose=_pose(joint),
        axis=direction,
        limits=None if kind == "continuous" or limits == (-FREE_OF_LIMITS, FREE_OF_LIMITS) else limits,
        effort=_number(limit, "effort", FREE_OF_LIMITS),
        velocity=_number(limit, "velocity", FREE_OF_LIMITS),
        damping=_number(dynamics, "damping", 0.0),
        friction=_number(dynamics, "friction", 0.0),
        dont_collapse=joint.get("dont_collapse", "").strip().lower() in ("true", "1"),
    )


def _inertial(link: Element) -> Inertial | None:
    """What the file says of a link's mass; None where it has no mass, or one of 0."""
    inertial = link.find("inertial")
    mass = 0.0 if inertial is None else _number(inertial.find("mass"), "value", 0.0)
    if inertial is None or mass == 0.0:
        return None
    if mass < 0.0:
        raise GymError(f"link {link.get('name')!r} has a mass of {mass}")
    pose, values = _pose(inertial), inertial.find("inertia")
    if values is None:
        return Inertial(mass, pose.position, np.zeros((3, 3)))
    xx, yy, zz, xy, xz, yz = (_number(values, f"i{key}", 0.0) for key in ("xx", "yy", "zz", "xy", "xz", "yz"))
    inertia = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return Inertial(mass, pose.position, pose.rotation @ inertia @ pose.rotation.T)


def _shape(collision: Element, link: str, file: Path) -> Shape:
    geometry = _element(collision, "geometry")
    if len(geometry) != 1:
        raise GymError(f"a collision shape of link {link!r} has {len(geometry)} geometries; one was expected")
    shape, pose = geometry[0], _pose(collision)
    if shape.tag == "mesh":
        factors = _numbers(shape, "scale", 3) if shape.get("scale") else np.ones(3)
        return Shape("mesh", tuple(factors), pose, str(_mesh_file(_attribute(shape, "filename"), link, file)))
    if shape.tag not in _SHAPE_SIZES:
        raise GymError(f"a collision shape of link {link!r} is a {shape.tag}; known: mesh, {', '.join(_SHAPE_SIZES)}")
    if shape.tag == "box":
        size = tuple(_numbers(shape, "size", 3))
    else:
        size = tuple(_numbers(shape, key, 1)[0] for key in _SHAPE_SIZES[shape.tag])
    if min(size) <= 0.0:
        raise GymError(f"a collision {shape.tag} of link {link!r} has a size of {size}; sizes must be above 0")
    return Shape(shape.tag, size, pose)


def _mesh_file(name: str, link: str, file: Path) -> Path:
    """The mesh file of that name: ``package://`` and the like stand for the folder of the URDF or any one above it.

    ``ROS_PACKAGE_PATH`` is searched last. The first folder of a ``package://`` name, which is the package's, may be
    missing on the disk.
    """
    _, package, path = name.rpartition("://")
    folders = [*file.resolve().parents, *filter(None, os.environ.get("ROS_PACKAGE_PATH", "").split(":"))]
    relative = [path, path.partition("/")[2]] if package else [path]
    for each in filter(None, relative):
        for folder in folders:
            found = Path(folder, each)
            if found.is_file():
                return found.resolve()
    raise GymError(f"link {link!r} collides with mesh {name!r}, which is not in {file.resolve().parent} or above")


def _pose(element: Element) -> Pose:
    """An element's ``<origin>``: rpy are turns about the fixed axes x, then y, then z."""
    origin = element.find("origin")
    if origin is None:
        return Pose()
    position, angles = (_numbers(origin, key, 3) if origin.get(key) else np.zeros(3) for key in ("xyz", "rpy"))
    return Pose(position, Rotation.from_euler("xyz", angles).as_matrix())


def _element(parent: Element, tag: str) -> Element:
    found = parent.find(tag)
    if found is None:
        raise GymError(f"<{parent.tag} name={parent.get('name')!r}> has no <{tag}>")
    return found


def _attribute(element: Element, key: str) -> str:
    value = element.get(key)
    if not value:
        raise GymError(f"a <{element.tag}> has no {key}: {dict(element.attrib)}")
    return value


def _numbers(element: Element, key: str, count: int) -> np.ndarray:
    text = _attribute(element, key)
    try:
        values = np.array([float(part) for part in text.split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise GymError(f"<{element.tag} {key}={text!r}> should be {count} finite number{'s' * (count > 1)}")
    return values


def _number(element: Element | None, key: str, default: float) -> float:
    """An attribute's number; ``default`` where the element or the attribute is missing."""
    if element is None or element.get(key) is None:
        return default
    return float(_numbers(element, key, 1)[0])
