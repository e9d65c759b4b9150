"""The one MuJoCo model of all environments, and the values of its fields that differ from one to the other.

Where PhysX and MuJoCo differ:

- Friction of two shapes: PhysX averages theirs, MuJoCo takes the one of higher priority. The robot's shapes have the
  higher priority and the average with the ground's friction; two shapes of the robot have the larger of their averages.
- A drive is one actuator a DOF, stiffness * (target - position) - damping * velocity, clamped at the effort limit. Its
  damping is integrated implicitly, its stiffness explicitly. Without a drive mode only the damping acts.
- A DOF's friction becomes MuJoCo's friction loss [N m], while PhysX's is a fraction of the joint's force.
"""

# MuJoCo comes without annotations.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence

import mujoco
import numpy as np

from isaacgym.ground import Ground
from isaacgym.structs import DofDriveMode, GymError
from isaacgym.worlds import Actor, Bodies, Worlds

DOF_FIELDS = ("dof_armature", "dof_frictionloss", "jnt_range", "actuator_biasprm", "actuator_forcerange")
INERTIAL_FIELDS = ("body_mass", "body_ipos", "body_iquat", "body_inertia", "dof_armature")
CONSTANT_FIELDS = ("body_subtreemass", "body_invweight0", "dof_invweight0", "actuator_acc0")  # of INERTIAL_FIELDS
WORLD_FIELDS = tuple(dict.fromkeys(("geom_friction", *DOF_FIELDS, *INERTIAL_FIELDS, *CONSTANT_FIELDS)))
NO_LIMIT = 1e10  # a range of MuJoCo's that never binds
MAX_FILTERS = 30  # bits of contype, less the ground's


def compile_model(worlds: Worlds) -> tuple[mujoco.MjModel, dict[str, np.ndarray]]:
    """The model, with the first environment's values, and the fields [num_envs, ...] that differ among environments.

    Friction may come to differ later, and is among them always.
    """
    actors = worlds.actors
    model = make_spec(worlds).compile()
    model.dof_damping[:] = 0.0  # the drives' damping is all that there is
    # Centres of mass differ from world to world: MuJoCo must not take a frame for another that it was equal to.
    model.body_sameframe[:] = model.geom_sameframe[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    fields = {name: np.repeat(getattr(model, name)[None], len(actors), 0) for name in WORLD_FIELDS}
    fields["geom_friction"][:, shape_geoms(model), 0] = shape_friction(actors, worlds.grounds)
    _fill_dofs(fields, model, np.stack([actor.dof_properties for actor in actors]))
    _fill_bodies(fields, Bodies.of_model(model), actors)
    _fill_constants(fields, model)
    for name, values in fields.items():
        getattr(model, name)[:] = values[0]
    kept = {"geom_friction", *(name for name, values in fields.items() if (values != values[:1]).any())}
    return model, {name: values for name, values in fields.items() if name in kept}


def make_spec(worlds: Worlds) -> mujoco.MjSpec:
    """The robot and the ground, with an actuator a DOF and who collides with whom."""
    asset, spec = worlds.asset, worlds.asset.spec.copy()
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    if asset.options.fix_base_link:
        spec.worldbody.first_body().mocap = True  # its pose can be set, and differ from world to world
    if any(actor.bodies is not worlds.asset_bodies for actor in worlds.actors):
        _keep_mass_matrix(spec)
    for name in asset.dof_names:
        _add_drive(spec, name)
    for index, (kind, affinity) in enumerate(_contact_bits([actor.shape_filters() for actor in worlds.actors])):
        shape = spec.geom(f"shape{index}")
        shape.contype, shape.conaffinity, shape.priority = kind, affinity, 1
    for ground in worlds.grounds:
        ground.add_to(spec)
    for geom in spec.worldbody.geoms:
        geom.contype, geom.conaffinity, geom.priority = 1, 1, 0
    return spec


def target_gains(actors: Sequence[Actor]) -> tuple[np.ndarray, np.ndarray]:
    """What a position target and a velocity target are multiplied with in each drive, [num_envs, D] each, float32.

    A drive follows the targets of its own mode: the other gain is 0.
    """
    properties = np.stack([actor.dof_properties for actor in actors])
    mode = properties["driveMode"]
    position = np.where(mode == DofDriveMode.DOF_MODE_POS, properties["stiffness"], 0.0)
    velocity = np.where(mode == DofDriveMode.DOF_MODE_VEL, properties["damping"], 0.0)
    return position.astype(np.float32), velocity.astype(np.float32)


def shape_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Which geoms the robot's shapes are."""
    return np.nonzero(model.geom_bodyid > 0)[0]


def shape_friction(actors: Sequence[Actor], grounds: Sequence[Ground]) -> np.ndarray:
    """The friction of each shape [num_actors, shapes], averaged with the ground's."""
    friction = np.array([[shape.friction for shape in actor.shape_properties] for actor in actors])
    if grounds:
        friction = 0.5 * (friction + np.mean([ground.friction for ground in grounds]))
    return np.maximum(friction, 1e-5)  # the least that MuJoCo's contacts bear


def _add_drive(spec: mujoco.MjSpec, name: str) -> None:
    actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = 1.0
    actuator.forcelimited, actuator.forcerange = mujoco.mjtLimited.mjLIMITED_TRUE, [-NO_LIMIT, NO_LIMIT]
    joint = spec.joint(name)
    joint.limited, joint.range = mujoco.mjtLimited.mjLIMITED_TRUE, [-NO_LIMIT, NO_LIMIT]


def _keep_mass_matrix(spec: mujoco.MjSpec) -> None:
    """Lets centres of mass differ among worlds.

    For a body that is alone and has its centre of mass at its origin MuJoCo keeps only the diagonal of the mass matrix.
    Other worlds may have it elsewhere, so it is moved a little for the compiler; the worlds' own values come later.
    """
    model = spec.copy().compile()
    for index, body in list(enumerate(spec.bodies))[1:]:
        if model.body_simple[index]:
            body.explicitinertial = True
            body.mass, body.inertia = model.body_mass[index], model.body_inertia[index]
            body.iquat, body.ipos = model.body_iquat[index], model.body_ipos[index] + 0.001


def _contact_bits(filters: Sequence[list[int]]) -> list[tuple[int, int]]:
    """MuJoCo's contype and conaffinity of each shape: two collide if their filters have no bit in common.

    The ground has bit 0, each kind of filter a bit of its own.
    """
    if any(each != filters[0] for each in filters):
        raise GymError("collision filters differ among environments; here all environments have the same ones")
    kinds = sorted(set(filters[0]))
    if len(kinds) > MAX_FILTERS:
        raise GymError(
            f"the shapes have {len(kinds)} different collision filters; here there are at most {MAX_FILTERS}"
        )
    bits = {kind: 2 << place for place, kind in enumerate(kinds)}
    meets = {kind: 1 + sum(bits[other] for other in kinds if not kind & other) for kind in kinds}
    return [(bits[kind], meets[kind]) for kind in filters[0]]


def _fill_dofs(fields: dict[str, np.ndarray], model: mujoco.MjModel, properties: np.ndarray) -> None:
    """DOFs are the last joints of the model, and its actuators."""
    num_dofs = properties.shape[1]
    joints, dofs = slice(model.njnt - num_dofs, None), slice(model.nv - num_dofs, None)
    limited, driven = properties["hasLimits"], properties["driveMode"] == DofDriveMode.DOF_MODE_POS
    effort = np.minimum(properties["effort"], NO_LIMIT)
    fields["dof_armature"][:, dofs] = properties["armature"]
    fields["dof_frictionloss"][:, dofs] = properties["friction"]
    fields["jnt_range"][:, joints, 0] = np.where(limited, properties["lower"], -NO_LIMIT)
    fields["jnt_range"][:, joints, 1] = np.where(limited, properties["upper"], NO_LIMIT)
    fields["actuator_biasprm"][:, :, 1] = -np.where(driven, properties["stiffness"], 0.0)
    fields["actuator_biasprm"][:, :, 2] = -properties["damping"]
    fields["actuator_forcerange"][:] = np.stack([-effort, effort], -1)


def _fill_bodies(fields: dict[str, np.ndarray], compiled: Bodies, actors: Sequence[Actor]) -> None:
    """Principal axes are found anew only for inertias that are not the compiled ones."""
    for world, bodies in enumerate(actor.bodies for actor in actors):
        fields["body_mass"][world, 1:] = bodies.mass
        fields["body_ipos"][world, 1:] = bodies.com
        changed = ~np.isclose(bodies.inertia, compiled.inertia, rtol=1e-9, atol=1e-15).all((1, 2))
        for body in np.nonzero(changed)[0]:
            moments, axes, rotation = np.zeros(3), np.zeros(9), np.zeros(4)
            mujoco.mju_eig3(moments, axes, rotation, bodies.inertia[body].ravel())
            fields["body_inertia"][world, body + 1], fields["body_iquat"][world, body + 1] = moments, rotation


def _fill_constants(fields: dict[str, np.ndarray], model: mujoco.MjModel) -> None:
    """What MuJoCo derives from masses and armatures, for each set of them that differs from the one before."""
    data = mujoco.MjData(model)  # mj_setConst moves its positions
    inertial = None
    for world in range(len(fields["body_mass"])):
        values = [fields[name][world] for name in INERTIAL_FIELDS]
        if inertial is None or any((old != new).any() for old, new in zip(inertial, values, strict=True)):
            for name, value in zip(INERTIAL_FIELDS, values, strict=True):
                getattr(model, name)[:] = value
            mujoco.mj_setConst(model, data)
            inertial = values
        for name in CONSTANT_FIELDS:
            fields[name][world] = getattr(model, name)
