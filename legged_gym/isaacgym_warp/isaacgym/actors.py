"""``Gym``'s methods on environments' actors. An environment has one actor: handles of actors are 0."""

import copy

import numpy as np

from isaacgym.assets import place
from isaacgym.sim import Sim
from isaacgym.structs import GymError, IndexDomain, RigidBodyProperties, RigidShapeProperties, Vec3
from isaacgym.worlds import Env


class ActorCalls:
    """Counts, names, handles, indices and properties. Properties are set before prepare_sim."""

    def get_actor_count(self, env: Env) -> int:
        return int(env.created_actor is not None)

    def get_actor_handle(self, env: Env, index: int) -> int:
        return index

    def get_actor_name(self, env: Env, actor_handle: int) -> str:
        return env.actor.name

    def find_actor_handle(self, env: Env, name: str) -> int:
        return 0 if env.actor.name == name else -1

    def get_actor_dof_count(self, env: Env, actor_handle: int) -> int:
        return len(env.worlds.asset.dof_names)

    def get_actor_joint_count(self, env: Env, actor_handle: int) -> int:
        return len(env.worlds.asset.joint_names)

    def get_actor_rigid_body_count(self, env: Env, actor_handle: int) -> int:
        return len(env.worlds.asset.body_names)

    def get_actor_rigid_shape_count(self, env: Env, actor_handle: int) -> int:
        return len(env.worlds.asset.shape_bodies)

    def get_actor_force_sensor_count(self, env: Env, actor_handle: int) -> int:
        return len(env.worlds.asset.force_sensors)

    def get_env_dof_count(self, env: Env) -> int:
        return len(env.worlds.asset.dof_names)

    def get_env_joint_count(self, env: Env) -> int:
        return len(env.worlds.asset.joint_names)

    def get_env_rigid_body_count(self, env: Env) -> int:
        return len(env.worlds.asset.body_names)

    def get_sim_actor_count(self, sim: Sim) -> int:
        return len(sim.worlds.actors)

    def get_sim_dof_count(self, sim: Sim) -> int:
        return len(sim.worlds.actors) * len(sim.worlds.asset.dof_names)

    def get_sim_joint_count(self, sim: Sim) -> int:
        return len(sim.worlds.actors) * len(sim.worlds.asset.joint_names)

    def get_sim_rigid_body_count(self, sim: Sim) -> int:
        return len(sim.worlds.actors) * len(sim.worlds.asset.body_names)

    def get_sim_force_sensor_count(self, sim: Sim) -> int:
        return len(sim.worlds.actors) * len(sim.worlds.asset.force_sensors)

    def get_actor_dof_names(self, env: Env, actor_handle: int) -> list[str]:
        return list(env.worlds.asset.dof_names)

    def get_actor_joint_names(self, env: Env, actor_handle: int) -> list[str]:
        return list(env.worlds.asset.joint_names)

    def get_actor_rigid_body_names(self, env: Env, actor_handle: int) -> list[str]:
        return list(env.worlds.asset.body_names)

    def get_actor_dof_dict(self, env: Env, actor_handle: int) -> dict[str, int]:
        return {name: index for index, name in enumerate(env.worlds.asset.dof_names)}

    def get_actor_joint_dict(self, env: Env, actor_handle: int) -> dict[str, int]:
        return {name: index for index, name in enumerate(env.worlds.asset.joint_names)}

    def get_actor_rigid_body_dict(self, env: Env, actor_handle: int) -> dict[str, int]:
        return {name: index for index, name in enumerate(env.worlds.asset.body_names)}

    def find_actor_dof_handle(self, env: Env, actor_handle: int, name: str) -> int:
        return place(env.worlds.asset.dof_names, name)

    def find_actor_rigid_body_handle(self, env: Env, actor_handle: int, name: str) -> int:
        return place(env.worlds.asset.body_names, name)

    def get_actor_dof_handle(self, env: Env, actor_handle: int, index: int) -> int:
        return index

    def get_actor_rigid_body_handle(self, env: Env, actor_handle: int, index: int) -> int:
        return index

    def get_actor_root_rigid_body_handle(self, env: Env, actor_handle: int) -> int:
        return 0

    def get_actor_index(self, env: Env, actor_handle: int, domain: IndexDomain) -> int:
        return env.index if _of_simulation(domain) else actor_handle

    def get_actor_dof_index(self, env: Env, actor_handle: int, dof: int, domain: IndexDomain) -> int:
        return dof + (env.index * len(env.worlds.asset.dof_names) if _of_simulation(domain) else 0)

    def get_actor_rigid_body_index(self, env: Env, actor_handle: int, body: int, domain: IndexDomain) -> int:
        return body + (env.index * len(env.worlds.asset.body_names) if _of_simulation(domain) else 0)

    def find_actor_dof_index(self, env: Env, actor_handle: int, name: str, domain: IndexDomain) -> int:
        return self.get_actor_dof_index(env, actor_handle, place(env.worlds.asset.dof_names, name), domain)

    def find_actor_rigid_body_index(self, env: Env, actor_handle: int, name: str, domain: IndexDomain) -> int:
        return self.get_actor_rigid_body_index(env, actor_handle, place(env.worlds.asset.body_names, name), domain)

    def find_actor_index(self, env: Env, name: str, domain: IndexDomain) -> int:
        return self.get_actor_index(env, self.find_actor_handle(env, name), domain)

    # ---- properties ----

    def get_actor_dof_properties(self, env: Env, actor_handle: int) -> np.ndarray:
        return env.actor.dof_properties.copy()

    def set_actor_dof_properties(self, env: Env, actor_handle: int, props: np.ndarray) -> bool:
        env.worlds.set_dof_properties(env, props)
        return True

    def get_actor_rigid_shape_properties(self, env: Env, actor_handle: int) -> list[RigidShapeProperties]:
        return [copy.copy(each) for each in env.actor.shape_properties]

    def set_actor_rigid_shape_properties(self, env: Env, actor_handle: int, props: list[RigidShapeProperties]) -> bool:
        env.worlds.set_shape_properties(env, props)
        return True

    def get_actor_rigid_body_properties(self, env: Env, actor_handle: int) -> list[RigidBodyProperties]:
        return env.actor.bodies.properties()

    def set_actor_rigid_body_properties(
        self, env: Env, actor_handle: int, props: list[RigidBodyProperties], recomputeInertia: bool = False
    ) -> bool:
        """``recomputeInertia`` scales an inertia with its mass (Isaac Gym's own rule could not be checked)."""
        env.worlds.set_body_properties(env, props, recomputeInertia)
        return True

    def set_rigid_body_color(self, env: Env, actor_handle: int, body: int, mesh_type: int, color: Vec3) -> None:
        """Nothing: bodies are not drawn by their colours here."""

    def enable_actor_dof_force_sensors(self, env: Env, actor_handle: int) -> bool:
        """Nothing: forces of DOFs are always there."""
        return True


def _of_simulation(domain: IndexDomain) -> bool:
    if domain == IndexDomain.DOMAIN_ACTOR:
        return False
    if domain == IndexDomain.DOMAIN_ENV:
        return False
    if domain == IndexDomain.DOMAIN_SIM:
        return True
    raise GymError(f"the index domain {domain} is unknown; DOMAIN_SIM, DOMAIN_ENV and DOMAIN_ACTOR are there")
