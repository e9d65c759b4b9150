"""Pushes: the root's velocity changes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mjlab.managers import SceneEntityCfg

if TYPE_CHECKING:
    from mjlab.entity import Entity
    from mjlab.envs import ManagerBasedRlEnv

AXES = ("x", "y", "z", "roll", "pitch", "yaw")

ROBOT = SceneEntityCfg("robot")


def push_by_setting_velocity(
    env: ManagerBasedRlEnv,
    env_ids: torch.Tensor,
    velocity_range: dict[str, tuple[float, float]],
    asset_cfg: SceneEntityCfg = ROBOT,
) -> None:
    """Add a uniform random velocity to the root's, m/s and rad/s, world.

    As mjlab's term of this name, in fewer kernels, and in a graph.

    Args:
        env_ids: [n] int64, whose robots.
        velocity_range: (lowest, highest) by axis: x, y, z, roll, pitch, yaw; 0 where one is missing.
    """
    robot: Entity = env.scene[asset_cfg.name]
    low, high = zip(*(velocity_range.get(axis, (0.0, 0.0)) for axis in AXES), strict=True)
    lowest = torch.tensor(low, device=env.device)
    width = torch.tensor([top - bottom for bottom, top in zip(low, high, strict=True)], device=env.device)
    change = torch.addcmul(lowest, torch.rand(len(env_ids), len(AXES), device=env.device), width)
    robot.write_root_link_velocity_to_sim(robot.data.root_link_vel_w[env_ids] + change, env_ids=env_ids)
