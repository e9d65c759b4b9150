"""Rewards: each gives [num_envs], before its weight and before the control step's length that mjlab multiplies with.

Tracking terms have the form exp(-error / std^2): 1 at no error, 0.37 where the error is std.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from mjlab.managers import RewardTermCfg, SceneEntityCfg
from mjlab.sensor import ContactSensor

from cmg_gym.mdp.observations import base_height
from cmg_gym.mdp.reference_command import reference

if TYPE_CHECKING:
    from mjlab.entity import Entity
    from mjlab.envs import ManagerBasedRlEnv

CLEARANCE = 0.05
"""m above the ground, from where on a swinging foot is high enough."""

SWING_FROM, SWING_AT = 0.03, 0.06
"""m: a foot of the reference less than the first above the lowest stands; more than the second above it, it swings."""


def near(squared_error: torch.Tensor, std: float) -> torch.Tensor:
    """exp(-error^2 / std^2)."""
    return torch.exp(squared_error * (-1 / std**2))


def track_velocity(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-|v - c|^2 / std^2): horizontal velocity of the root in its heading against the command in force, m/s."""
    command = reference(env, command_name)
    error = (command.robot_velocity() - command.command)[:, :2].square().sum(dim=1)
    return near(error, std)


def hold_velocity(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-|e|^2 / std^2): e the moving average of the velocity's distance from the command, m/s."""
    return near(reference(env, command_name).mean_error[:, :2].square().sum(dim=1), std)


def hold_yaw_rate(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-e^2 / std^2): e the moving average of the yaw rate's distance from the command, rad/s.

    A walking root swings by up to 1 rad/s about the rate at which it turns: the error of an instant says little.
    """
    return near(reference(env, command_name).mean_error[:, 2].square(), std)


def track_joint_pos(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-mean_j (q - q_ref)^2 / std^2): joint positions against the target frame, rad."""
    command = reference(env, command_name)
    error = (command.robot.data.joint_pos - command.target.dof_pos).square().mean(dim=1)
    return near(error, std)


def track_joint_vel(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-mean_j (dq - dq_ref)^2 / std^2): joint velocities against the target frame, rad/s."""
    command = reference(env, command_name)
    error = (command.robot.data.joint_vel - command.target.dof_vel).square().mean(dim=1)
    return near(error, std)


def track_key_bodies(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-mean_b |p - p_ref|^2 / std^2): key bodies from the root, in heading frames, against the target frame, m.

    The reference's root is upright, so this is also a reward for being upright.
    """
    command = reference(env, command_name)
    error = (command.robot_key_bodies() - command.target.key_body_pos).square().sum(dim=-1).mean(dim=1)
    return near(error, std)


def track_height(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-(z - z_ref)^2 / std^2): height of the root above the ground against the target frame, m."""
    error = (base_height(env)[:, 0] - reference(env, command_name).target.root_pos[:, 2]).square()
    return near(error, std)


class track_contacts:
    """1 - mean over feet of |contact - expected|: feet stand and swing as the reference's do.

    Which foot of the target frame swings is told from its body, as the G1's ankle: it is higher than the lowest.
    """

    def __init__(self, cfg: RewardTermCfg, env: ManagerBasedRlEnv) -> None:
        names = list(reference(env, cfg.params["command_name"]).engine.key_body_names)
        feet = [names.index(name) for name in cfg.params["foot_bodies"]]
        self._feet = torch.tensor(feet, device=env.device)

    def __call__(
        self, env: ManagerBasedRlEnv, command_name: str, sensor_name: str, foot_bodies: tuple[str, ...]
    ) -> torch.Tensor:
        del foot_bodies  # looked up once
        height = reference(env, command_name).target.key_body_pos[:, self._feet, 2]
        lift = height - height.amin(dim=1, keepdim=True)
        expected = 1 - ((lift - SWING_FROM) / (SWING_AT - SWING_FROM)).clamp(0, 1)
        return 1 - (feet_in_contact(env, sensor_name) - expected).abs().mean(dim=1)


def feet_slip(env: ManagerBasedRlEnv, sensor_name: str, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """Sum over feet in contact of their horizontal speed, m/s.

    Not squared: that would hardly count the slow creep of a whole stance, which is most of what a foot slips.
    """
    return (_foot_speed(env, asset_cfg) * feet_in_contact(env, sensor_name)).sum(dim=1)


def low_swing(env: ManagerBasedRlEnv, sensor_name: str, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """Sum over feet in the air of their horizontal speed, m/s, by how far they are below :data:`CLEARANCE`, 0..1."""
    robot: Entity = env.scene[asset_cfg.name]
    height = robot.data.site_pos_w[:, asset_cfg.site_ids, 2] - env.scene.env_origins[:, 2:]
    in_air = 1 - feet_in_contact(env, sensor_name)
    return (_foot_speed(env, asset_cfg) * in_air * (1 - height / CLEARANCE).clamp(0, 1)).sum(dim=1)


def power(env: ManagerBasedRlEnv) -> torch.Tensor:
    """Positive mechanical power of all actuators, W."""
    data = env.scene["robot"].data
    return (data.qfrc_actuator * data.joint_vel).clamp(min=0).sum(dim=1)


def _foot_speed(env: ManagerBasedRlEnv, asset_cfg: SceneEntityCfg) -> torch.Tensor:
    """[N, F] horizontal speed of the feet, m/s."""
    robot: Entity = env.scene[asset_cfg.name]
    return robot.data.site_lin_vel_w[:, asset_cfg.site_ids, :2].norm(dim=-1)


def feet_in_contact(env: ManagerBasedRlEnv, sensor_name: str) -> torch.Tensor:
    """[N, F] float: 1 where a foot touches the ground."""
    found = cast(ContactSensor, env.scene[sensor_name]).data.found
    assert found is not None
    return (found > 0).float()
