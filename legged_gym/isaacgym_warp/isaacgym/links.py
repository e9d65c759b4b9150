"""A robot as a tree of links: what asset files say, before it becomes a MuJoCo model. SI units, angles in rad."""

from dataclasses import dataclass, field, replace

import numpy as np

FREE_OF_LIMITS = float(np.finfo(np.float32).max)
"""What a joint's limits, effort and velocity are where the file names none."""


@dataclass(frozen=True)
class Pose:
    """Where a frame is in another one: ``position`` [3] and ``rotation`` [3, 3], whose columns are its axes."""

    position: np.ndarray = field(default_factory=lambda: np.zeros(3))
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __matmul__(self, other: "Pose") -> "Pose":
        """The other pose, given in this pose's frame, in the frame that this one is given in."""
        return Pose(self.position + self.rotation @ other.position, self.rotation @ other.rotation)


@dataclass(frozen=True)
class Inertial:
    """Mass [kg], centre of mass [3] and inertia [3, 3] about it, in the link's frame; an inertia of 0 is not known."""

    mass: float
    center: np.ndarray
    inertia: np.ndarray

    def seen_from(self, pose: Pose) -> "Inertial":
        """The same body in the frame that ``pose`` is given in."""
        inertia = pose.rotation @ self.inertia @ pose.rotation.T
        return Inertial(self.mass, pose.position + pose.rotation @ self.center, inertia)

    def with_mass(self, mass: float) -> "Inertial":
        """The same body, denser or lighter all over."""
        return Inertial(mass, self.center, self.inertia * (mass / self.mass))

    def __add__(self, other: "Inertial") -> "Inertial":
        """Both as one rigid body; an inertia that is not known counts as that of a point."""
        mass = self.mass + other.mass
        center = (self.mass * self.center + other.mass * other.center) / mass
        inertia = np.zeros((3, 3))
        for part in (self, other):
            arm = part.center - center
            inertia += part.inertia + part.mass * (arm @ arm * np.eye(3) - np.outer(arm, arm))
        return Inertial(mass, center, inertia)


@dataclass(frozen=True)
class Shape:
    """A collision shape on a link.

    Attributes:
        kind: ``box`` (size: three edges), ``sphere`` (radius), ``cylinder`` or ``capsule`` (radius, length along z; a
            capsule's length is that between the centres of its ends) or ``mesh`` (three factors).
        file: a mesh's file.
    """

    kind: str
    size: tuple[float, ...]
    pose: Pose
    file: str = ""


@dataclass(frozen=True)
class Joint:
    """How a link is joined to its parent; ``kind`` is ``fixed``, ``hinge`` or ``slide``; ``limits`` None: it has none.

    ``pose`` is the child link's in the parent's at joint position 0; ``axis`` is in the child's frame.
    """

    name: str
    kind: str
    pose: Pose
    axis: np.ndarray
    limits: tuple[float, float] | None = None
    effort: float = FREE_OF_LIMITS
    velocity: float = FREE_OF_LIMITS
    damping: float = 0.0
    friction: float = 0.0
    dont_collapse: bool = False


@dataclass(frozen=True)
class Link:
    """A link, the joint that it hangs on (the root: None), its mass (None: none is known), and what hangs on it."""

    name: str
    joint: Joint | None
    inertial: Inertial | None
    shapes: tuple[Shape, ...]
    children: tuple["Link", ...]

    @property
    def is_fixed(self) -> bool:
        """Whether it hangs on a fixed joint."""
        return self.joint is not None and self.joint.kind == "fixed"


def merge_fixed_joints(link: Link) -> Link:
    """The tree in which links on fixed joints are part of their parents, but for those marked ``dont_collapse``.

    Mass, inertia and shapes move to the parent, and so do the children, in the order of :func:`in_order`.
    """
    children = []
    for child in map(merge_fixed_joints, link.children):
        joint = child.joint
        if joint is None or not child.is_fixed or joint.dont_collapse:
            children.append(child)
            continue
        inertial = None if child.inertial is None else child.inertial.seen_from(joint.pose)
        if link.inertial is not None:
            inertial = link.inertial if inertial is None else link.inertial + inertial
        shapes = tuple(replace(shape, pose=joint.pose @ shape.pose) for shape in child.shapes)
        link = replace(link, inertial=inertial, shapes=link.shapes + shapes)
        children += [_hung_on_parent_of(joint, grandchild) for grandchild in child.children]
    return replace(link, children=in_order(children))


def _hung_on_parent_of(joint: Joint, link: Link) -> Link:
    """A link that hung on the child of a fixed joint, now on the joint's parent."""
    assert link.joint is not None
    return replace(link, joint=replace(link.joint, pose=joint.pose @ link.joint.pose))


def in_order(children: list[Link]) -> tuple[Link, ...]:
    """The children of a link in Isaac Gym's order: by the names of their joints, byte for byte.

    Isaac Gym's own reader is closed. NVIDIA's public one for Isaac Sim shares its origin (it knows ``dont_collapse``,
    "first introduced in Isaac Gym"): it holds joints in a map by name and visits children in that map's order
    (isaac-sim/urdf-importer-extension, UrdfTypes.h and KinematicChain.cpp). Orders of Isaac Gym that public code names
    agree: legged_gym's a1.urdf lists legs FR, FL, RR, RL, and its DOFs come FL, FR, RL, RR; an Allegro hand's thumb
    (joint_12.0) comes between joint_3.0 and joint_4.0; TWIST's map of its robot's 38 bodies to 52 has the seven bodies
    of a hand right behind that hand. In all of these the names of links would give the same order, so that it is the
    joints' names which count is not checked.
    """
    return tuple(sorted(children, key=lambda child: child.joint.name.encode() if child.joint else b""))


def depth_first(link: Link) -> list[Link]:
    """All links of a tree: each before what hangs on it, one branch after the other."""
    found = [link]
    for child in link.children:
        found += depth_first(child)
    return found
