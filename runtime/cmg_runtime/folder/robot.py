"""The robot of an engine folder: its kinematic chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

Vector = Tuple[float, ...]


@dataclass(frozen=True)
class KinematicChain:
    """A tree of bodies, each fixed to its parent or turning about one hinge. Body 0 is the root.

    Bodies stand in an order in which every parent comes before its children.

    Attributes:
        name: the robot model's name.
        body_names: one per body.
        body_parents: index of each body's parent, -1 for the root.
        body_pos: each body's origin in its parent's frame, m. The root's is ignored.
        body_quat: each body's orientation in its parent's frame at joint angle 0, (w, x, y, z).
        body_joints: index of the joint (in the manifest's ``joint_names``) that turns each body, or -1.
        joint_axes: unit axis of each body's hinge in the body's frame; zeros where there is none.
        joint_anchors: a point of each body's hinge in the body's frame, m.
        joint_lower, joint_upper: joint limits, rad, one per joint of ``joint_names``.
        sole_bodies: body that carries each sole sphere.
        sole_points: centre of each sole sphere in its body's frame, m.
        sole_radii: radius of each sole sphere, m. The lowest ``z - radius`` over all spheres is where the
            robot touches the ground.
    """

    name: str
    body_names: Tuple[str, ...]
    body_parents: Tuple[int, ...]
    body_pos: Tuple[Vector, ...]
    body_quat: Tuple[Vector, ...]
    body_joints: Tuple[int, ...]
    joint_axes: Tuple[Vector, ...]
    joint_anchors: Tuple[Vector, ...]
    joint_lower: Vector
    joint_upper: Vector
    sole_bodies: Tuple[int, ...]
    sole_points: Tuple[Vector, ...]
    sole_radii: Vector

    def body_index(self, name: str) -> int:
        """Index of the body called ``name``. Raises ``KeyError`` naming the bodies there are."""
        if name not in self.body_names:
            raise KeyError(f"no body {name!r} in robot {self.name!r}; its bodies are: {', '.join(self.body_names)}")
        return self.body_names.index(name)
