"""Environments and their actors before the simulation runs: poses and properties.

All environments are worlds of one MuJoCo model. Each is a place of its own around the origin: the spacing of
``create_env`` moves nothing, and actors of different environments never meet.
"""

# MuJoCo comes without annotations.
# pyright: reportAttributeAccessIssue=false

import copy
import functools
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field

import mujoco
import numpy as np

from isaacgym.asset import Asset
from isaacgym.ground import Ground
from isaacgym.structs import GymError, Mat33, RigidBodyProperties, RigidShapeProperties, Transform, Vec3


@dataclass
class Bodies:
    """Mass [B] in kg, centre of mass [B, 3] in m in the body's frame, inertia [B, 3, 3] about it by the body's axes."""

    mass: np.ndarray
    com: np.ndarray
    inertia: np.ndarray

    @classmethod
    def of_model(cls, model: mujoco.MjModel) -> "Bodies":
        turns = np.zeros((model.nbody, 9))
        for turn, quaternion in zip(turns, model.body_iquat, strict=True):
            mujoco.mju_quat2Mat(turn, quaternion)
        turns = turns.reshape(-1, 3, 3)
        inertia = turns * model.body_inertia[:, None, :] @ turns.transpose(0, 2, 1)
        return cls(model.body_mass[1:].copy(), model.body_ipos[1:].copy(), inertia[1:])

    @classmethod
    def of_properties(cls, properties: Sequence[RigidBodyProperties]) -> "Bodies":
        return cls(
            np.array([each.mass for each in properties]),
            np.array([[*each.com] for each in properties]),
            np.array([[[*row] for row in each.inertia] for each in properties]),
        )

    def properties(self) -> list[RigidBodyProperties]:
        """As Isaac Gym gives them; the caller's own."""
        return [copy.copy(each) for each in self._properties]

    @functools.cached_property
    def _properties(self) -> list[RigidBodyProperties]:
        """Made once: most environments have the asset's bodies."""
        turning = (self.mass > 0.0) & (np.linalg.det(self.inertia) > 0.0)
        inverse = np.zeros_like(self.inertia)
        inverse[turning] = np.linalg.inv(self.inertia[turning])
        found = []
        for mass, com, rows, inverse_rows in zip(self.mass, self.com, self.inertia, inverse, strict=True):
            properties = RigidBodyProperties()
            properties.mass, properties.com, properties.inertia = mass, Vec3(*com), _matrix(rows)
            properties.invMass = 1.0 / mass if mass > 0.0 else 0.0
            properties.invInertia = _matrix(inverse_rows)
            found.append(properties)
        return found


@dataclass
class Actor:
    """The robot of one environment; ``filter`` -1 leaves each shape its own."""

    name: str
    pose: Transform
    filter: int
    dof_properties: np.ndarray
    shape_properties: list[RigidShapeProperties]
    bodies: Bodies

    def shape_filters(self) -> list[int]:
        return [shape.filter if self.filter < 0 else self.filter for shape in self.shape_properties]


@dataclass
class Env:
    """The handle of an environment."""

    worlds: "Worlds"
    index: int
    created_actor: Actor | None = None

    @property
    def actor(self) -> Actor:
        if self.created_actor is None:
            raise GymError(f"environment {self.index} has no actor; create_actor comes first")
        return self.created_actor


@dataclass
class Worlds:
    """All environments, their common asset, and the ground that they share.

    ``write_friction`` takes an environment's friction over into the simulation; prepare_sim sets it.
    """

    envs: list[Env] = field(default_factory=list)
    grounds: list[Ground] = field(default_factory=list)
    created_asset: Asset | None = None
    asset_bodies: Bodies | None = None
    write_friction: Callable[[Env], None] | None = None

    @property
    def prepared(self) -> bool:
        return self.write_friction is not None

    @property
    def asset(self) -> Asset:
        if self.created_asset is None:
            raise GymError("there is no actor; create_env and create_actor come first")
        return self.created_asset

    @property
    def actors(self) -> list[Actor]:
        return [env.actor for env in self.envs]

    def add_env(self) -> Env:
        self.must_not_be_prepared("create_env")
        self.envs.append(Env(self, len(self.envs)))
        return self.envs[-1]

    def add_ground(self, ground: Ground) -> None:
        self.must_not_be_prepared("ground")
        self.grounds.append(ground)

    def add_actor(self, env: Env, asset: Asset, pose: Transform, name: str, shape_filter: int) -> None:
        self.must_not_be_prepared("create_actor")
        if env.created_actor is not None:
            raise GymError(f"environment {env.index} has an actor already; here an environment has one, not more")
        if self.created_asset is None or self.asset_bodies is None:
            self.created_asset, self.asset_bodies = asset, Bodies.of_model(asset.spec.compile())
        elif asset is not self.asset and not _equal(asset, self.asset):
            raise GymError(
                f"environment {env.index} got the asset {asset.name!r}, those before it {self.asset.name!r}; "
                "all environments have the same asset here"
            )
        shapes = [copy.copy(shape) for shape in asset.shape_properties]
        env.created_actor = Actor(
            name, copy.deepcopy(pose), shape_filter, asset.dof_properties.copy(), shapes, self.asset_bodies
        )

    def set_body_properties(self, env: Env, properties: Sequence[RigidBodyProperties], recompute: bool) -> None:
        """``recompute`` scales each inertia by what its mass has changed by."""
        self.must_not_be_prepared("set_actor_rigid_body_properties")
        actor, old = env.actor, env.actor.bodies
        expect_count("rigid body properties", properties, len(old.mass))
        new = Bodies.of_properties(properties)
        if (new.mass < 0.0).any():
            raise GymError(f"a mass of {new.mass.min()} kg; masses are not below 0")
        if recompute:
            massive = old.mass > 0.0
            new.inertia[massive] *= (new.mass[massive] / old.mass[massive])[:, None, None]
        actor.bodies = new

    def set_dof_properties(self, env: Env, properties: np.ndarray) -> None:
        self.must_not_be_prepared("set_actor_dof_properties")
        expect_count("DOF properties", properties, len(env.actor.dof_properties))
        env.actor.dof_properties = properties.copy()

    def set_shape_properties(self, env: Env, properties: Sequence[RigidShapeProperties]) -> None:
        """At any time; but collision filters stay after prepare_sim."""
        old = env.actor.shape_properties
        expect_count("rigid shape properties", properties, len(old))
        if self.prepared and [each.filter for each in properties] != [each.filter for each in old]:
            raise GymError("the collision filters of shapes changed after prepare_sim; set them before, friction later")
        env.actor.shape_properties = [copy.copy(each) for each in properties]
        if self.write_friction is not None:
            self.write_friction(env)

    def must_not_be_prepared(self, what: str) -> None:
        if self.prepared:
            raise GymError(f"{what} came after prepare_sim; it has to come before, for all is in one model then")


def expect_count(what: str, found: Sized, expected: int) -> None:
    if len(found) != expected:
        raise GymError(f"{len(found)} {what} were given; {expected} were expected")


def _equal(asset: Asset, other: Asset) -> bool:
    """Whether two assets are one robot: of the same file, with the same options and sensors."""
    mine, others = ((each.file, repr(each.options), repr(each.force_sensors)) for each in (asset, other))
    return mine == others


def _matrix(rows: np.ndarray) -> Mat33:
    return Mat33(*(Vec3(*row) for row in rows))
