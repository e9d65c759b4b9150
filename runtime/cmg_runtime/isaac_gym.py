"""A simulated robot in Isaac Gym beside the engine's. Isaac Gym is named in types only and never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence, Tuple

from cmg_runtime.errors import EngineError

if TYPE_CHECKING:
    from isaacgym import gymapi


def require_same_joints(joint_names: Sequence[str], gym: gymapi.Gym, env: gymapi.Env, actor: int) -> Tuple[str, ...]:
    """Check that an actor's joints are the reference's, in the same order; the actor's bodies.

    Joint arrays carry no names, so joints in another order would go unnoticed and the robot would fall over.

    Args:
        joint_names: of the reference, ``MotionLibCMG.joint_names``.
        gym, env, actor: the robot; with environments all alike, the first one's.

    Returns:
        Names of the actor's rigid bodies in the simulation's order, for ``MotionLibCMG``'s ``body_names``.

    Raises:
        EngineError: the joints differ; the message names the first place where they do.
    """
    simulated = gym.get_actor_dof_names(env, actor)
    if len(simulated) != len(joint_names):
        raise EngineError(
            f"the simulated robot has {len(simulated)} joints, the reference {len(joint_names)}; "
            "expected the same: set dof_dim, or the URDF, accordingly"
        )
    for index, (here, there) in enumerate(zip(simulated, joint_names)):
        if here != there:
            raise EngineError(
                f"joint {index} is {here!r} in the simulation and {there!r} in the reference; "
                "expected one order: reorder the URDF's joints, or index the reference by name"
            )
    return tuple(gym.get_actor_rigid_body_names(env, actor))
