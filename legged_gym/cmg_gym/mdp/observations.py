"""What the policy and the critic see of the reference. Everything is in the frame of a heading: no term gives away
where in the world a robot stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from mjlab.managers import SceneEntityCfg
from mjlab.utils.lab_api.math import quat_apply_inverse

from cmg_gym.mdp.reference_command import reference

if TYPE_CHECKING:
    from mjlab.entity import Entity
    from mjlab.envs import ManagerBasedRlEnv


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


def key_bodies(env: ManagerBasedRlEnv, command_name: str) -> torch.Tensor:
    """[N, B * 3] the same bodies of the robot, in its heading frame, m."""
    return reference(env, command_name).robot_key_bodies().flatten(1)


def mean_error(env: ManagerBasedRlEnv, command_name: str) -> torch.Tensor:
    """[N, 3] moving average of the robot's velocity less the command in force, m/s, m/s, rad/s: two rewards are of
    it."""
    return reference(env, command_name).mean_error


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
