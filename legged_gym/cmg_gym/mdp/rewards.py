"""Rewards: each gives [num_envs], before its weight and before the control step's length that mjlab multiplies with.

Tracking terms have the form exp(-error / std^2): 1 at no error, 0.37 where the error is std.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from mjlab.managers import RewardTermCfg, SceneEntityCfg
from mjlab.sensor import ContactSensor
from mjlab.utils.lab_api.math import quat_apply_inverse

from cmg_gym.mdp.observations import base_height
from cmg_gym.mdp.reference_command import reference

if TYPE_CHECKING:
    from mjlab.entity import Entity
    from mjlab.envs import ManagerBasedRlEnv

YAW_AVERAGED_S = 1.0
"""s: about a gait cycle (1.1 s at 0.8 m/s, 0.9 s at 1.2 m/s)."""

SWING_FROM, SWING_AT = 0.03, 0.06
"""m: a foot of the reference less than the first above the lowest stands; more than the second above it, it swings."""


def near(squared_error: torch.Tensor, std: float) -> torch.Tensor:
    """exp(-error^2 / std^2)."""
    return torch.exp(squared_error * (-1 / std**2))


def track_velocity(env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
    """exp(-|v - c|^2 / std^2): horizontal velocity of the root in its heading against the command in force, m/s."""
    command = reference(env, command_name)
    velocity = quat_apply_inverse(command.robot_heading(), command.robot.data.root_link_lin_vel_w)
    error = (velocity[:, :2] - command.command[:, :2]).square().sum(dim=1)
    return near(error, std)


class track_yaw_rate:  # named as mjlab names terms with state
    """exp(-e^2 / std^2): yaw rate of the root against the command in force, rad/s, over the last second or so.

    A walking root swings by 1 rad/s about the rate at which it turns, so the error w - c of an instant says little: e
    is its moving average, e <- e + (w - c - e) dt / YAW_AVERAGED_S, from zero at an episode's start.
    """

    def __init__(self, cfg: RewardTermCfg, env: ManagerBasedRlEnv) -> None:
        del cfg
        self._error = torch.zeros(env.num_envs, device=env.device)
        self._weight = env.step_dt / YAW_AVERAGED_S

    def __call__(self, env: ManagerBasedRlEnv, command_name: str, std: float) -> torch.Tensor:
        command = reference(env, command_name)
        error = command.robot.data.root_link_ang_vel_w[:, 2] - command.command[:, 2]
        self._error += (error - self._error) * self._weight
        return near(self._error.square(), std)

    def reset(self, env_ids: torch.Tensor | slice | None = None) -> None:
        """Episodes of ``env_ids`` begin."""
        self._error[slice(None) if env_ids is None else env_ids] = 0.0


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
    """Sum over feet in contact of their horizontal speed squared, (m/s)^2."""
    robot: Entity = env.scene[asset_cfg.name]
    speed = robot.data.site_lin_vel_w[:, asset_cfg.site_ids, :2].square().sum(dim=-1)
    return (speed * feet_in_contact(env, sensor_name)).sum(dim=1)


def feet_in_contact(env: ManagerBasedRlEnv, sensor_name: str) -> torch.Tensor:
    """[N, F] float: 1 where a foot touches the ground."""
    found = cast(ContactSensor, env.scene[sensor_name]).data.found
    assert found is not None
    return (found > 0).float()
