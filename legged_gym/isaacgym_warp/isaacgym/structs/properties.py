"""Properties of bodies, shapes and sensors, and what a viewer reports."""

from typing import NamedTuple

from isaacgym.structs.base import Struct
from isaacgym.structs.vectors import Mat33, Transform, Vec3


class RigidBodyProperties(Struct):
    """Mass [kg], centre of mass in the body's frame [m], inertia [kg m^2] about it along the body's axes, and flags."""

    mass: float = 0.0
    invMass: float = 0.0
    com: Vec3 = Vec3()
    inertia: Mat33 = Mat33()
    invInertia: Mat33 = Mat33()
    flags: int = 0


class RigidShapeProperties(Struct):
    """Friction and the like of a collision shape; two shapes collide if their filters have no bit in common."""

    friction: float = 1.0
    rolling_friction: float = 0.0
    torsion_friction: float = 0.0
    restitution: float = 0.0
    compliance: float = 0.0
    contact_offset: float = 0.02
    rest_offset: float = 0.0
    thickness: float = 0.01
    filter: int = 0


class ForceSensorProperties(Struct):
    """Which forces a sensor reports, and in which frame."""

    enable_forward_dynamics_forces: bool = True
    enable_constraint_solver_forces: bool = True
    use_world_frame: bool = False


class ForceSensor(NamedTuple):
    """A force sensor of an asset: the body's index in the asset, the sensor's pose on the body, what it reports."""

    body: int
    pose: Transform
    properties: ForceSensorProperties


class IndexRange(Struct):
    """``count`` indices from ``start``."""

    start: int = 0
    count: int = 0


class ActionEvent(NamedTuple):
    """A key or button in the viewer: the action that it was subscribed for; 1.0 as it goes down, 0.0 as it comes up."""

    action: str
    value: float
