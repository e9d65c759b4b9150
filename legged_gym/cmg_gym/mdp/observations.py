"""What the policy and the critic see of the reference. Everything is in the frame of a heading: no term gives away
where in the world a robot stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from mjlab.managers import ObservationTermCfg, SceneEntityCfg
from mjlab.utils.lab_api.math import quat_apply_inverse

from cmg_gym.mdp.reference_command import ReferenceCommand

if TYPE_CHECKING:
    from mjlab.entity import Entity
    from mjlab.envs import ManagerBasedRlEnv


def reference(env: ManagerBasedRlEnv, command_name: str) -> ReferenceCommand:
    """The environment's reference command term."""
    return cast(ReferenceCommand, env.command_manager.get_term(command_name))


def reference_dof_pos(env: ManagerBasedRlEnv, command_name: str, offsets: Sequence[int]) -> torch.Tensor:
    """[N, K * J] joint positions of the frames at ``offsets``, less the standing pose, rad."""
    command = reference(env, command_name)
    dof_pos = command.frames.dof_pos[:, command.places(offsets)]
    return (dof_pos - command.robot.data.default_joint_pos.unsqueeze(1)).flatten(1)


def reference_dof_vel(env: ManagerBasedRlEnv, command_name: str, offsets: Sequence[int]) -> torch.Tensor:
    """[N, K * J] joint velocities of the frames at ``offsets``, rad/s."""
    command = reference(env, command_name)
    return command.frames.dof_vel[:, command.places(offsets)].flatten(1)


def reference_root(env: ManagerBasedRlEnv, command_name: str, offsets: Sequence[int]) -> torch.Tensor:
    """[N, K * 5] root of the frames at ``offsets``: velocity in its heading (m/s), yaw rate (rad/s), height (m)."""
    command = reference(env, command_name)
    frames, places = command.frames, command.places(offsets)
    velocity = quat_apply_inverse(frames.root_rot[:, places], frames.root_vel[:, places])
    yaw_rate, height = frames.root_ang_vel[:, places, 2:], frames.root_pos[:, places, 2:]
    return torch.cat([velocity, yaw_rate, height], dim=-1).flatten(1)


def reference_key_bodies(env: ManagerBasedRlEnv, command_name: str) -> torch.Tensor:
    """[N, B * 3] key bodies of the target frame, in its root's frame, m."""
    return reference(env, command_name).target.key_body_pos.flatten(1)


def key_body_pos(env: ManagerBasedRlEnv, command_name: str, body_ids: torch.Tensor) -> torch.Tensor:
    """[N, B, 3] bodies ``body_ids`` [B] of the robot from its root, in its heading frame, m."""
    command = reference(env, command_name)
    data = command.robot.data
    offset = data.body_link_pos_w[:, body_ids] - data.root_link_pos_w.unsqueeze(1)
    return quat_apply_inverse(command.robot_heading().unsqueeze(1).expand(-1, len(body_ids), -1), offset)


class key_bodies:  # named as mjlab names terms with state
    """[N, B * 3] the same bodies of the robot, in its heading frame, m."""

    def __init__(self, cfg: ObservationTermCfg, env: ManagerBasedRlEnv) -> None:
        self._body_ids = key_body_ids(env, cfg.params["command_name"])

    def __call__(self, env: ManagerBasedRlEnv, command_name: str) -> torch.Tensor:
        return key_body_pos(env, command_name, self._body_ids).flatten(1)

    def reset(self, env_ids: torch.Tensor | slice | None = None) -> None:
        """Nothing to forget."""


def key_body_ids(env: ManagerBasedRlEnv, command_name: str) -> torch.Tensor:
    """[B] int64: indices of the key bodies among the robot's."""
    command = reference(env, command_name)
    ids = [command.robot.body_names.index(name) for name in command.engine.key_body_names]
    return torch.tensor(ids, device=command.device)


def base_height(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[N, 1] height of the root above its environment's ground, m."""
    robot: Entity = env.scene["robot"]
    return robot.data.root_link_pos_w[:, 2:] - env.scene.env_origins[:, 2:]


def friction(env: ManagerBasedRlEnv, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """[N, G] sliding friction of the geoms of ``asset_cfg``."""
    geom_ids = env.scene[asset_cfg.name].indexing.geom_ids[asset_cfg.geom_ids]
    return env.sim.model.geom_friction[:, geom_ids, 0].expand(env.num_envs, -1)


def mass_ratio(env: ManagerBasedRlEnv, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """[N, B] mass of the bodies of ``asset_cfg``, over the nominal one."""
    body_ids = env.scene[asset_cfg.name].indexing.body_ids[asset_cfg.body_ids]
    nominal = env.sim.get_default_field("body_mass")[body_ids]
    return (env.sim.model.body_mass[:, body_ids] / nominal).expand(env.num_envs, -1)


def centre_of_mass(env: ManagerBasedRlEnv, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """[N, B * 3] centres of mass of the bodies of ``asset_cfg`` in their own frames, less the nominal ones, m."""
    body_ids = env.scene[asset_cfg.name].indexing.body_ids[asset_cfg.body_ids]
    nominal = env.sim.get_default_field("body_ipos")[body_ids]
    return (env.sim.model.body_ipos[:, body_ids] - nominal).flatten(1).expand(env.num_envs, -1)


def motor_strength(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[N, A] stiffness of the actuators, over the nominal one."""
    nominal = env.sim.get_default_field("actuator_gainprm")[:, 0]
    return (env.sim.model.actuator_gainprm[:, :, 0] / nominal).expand(env.num_envs, -1)


def encoder_bias(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[N, J] error of the joint encoders, rad."""
    robot: Entity = env.scene["robot"]
    return robot.data.encoder_bias
