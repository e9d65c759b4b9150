"""The curriculum by learning iteration: which commands are drawn, how hard robots are pushed, what sloppiness costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cmg_gym.mdp.captures import for_all_robots
from cmg_gym.mdp.command_stages import stage_at
from cmg_gym.mdp.reference_command import reference

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv

PUSH = {"x": 0.5, "y": 0.5, "z": 0.4, "roll": 0.52, "pitch": 0.52, "yaw": 0.78}
"""Of a full push: largest change of the root's velocity, m/s and rad/s (those of mjlab's own velocity task)."""

PENALTIES = ("feet_slip", "low_swing", "power")
"""Rewards whose weight a stage takes a share of: who falls slips, too, and would learn to stand before it learned to
walk."""


def push_range(share: float) -> dict[str, tuple[float, float]]:
    """What ``push_by_setting_velocity`` takes, for a share 0..1 of the full push."""
    return {axis: (-share * largest, share * largest) for axis, largest in PUSH.items()}


@for_all_robots
def command_stage(
    env: ManagerBasedRlEnv, env_ids: torch.Tensor, command_name: str, steps_per_iteration: int, push_name: str
) -> dict[str, torch.Tensor]:
    """Enter the stage of the environment's step counter, which survives an interrupted training."""
    del env_ids  # every environment is in the same stage
    command = reference(env, command_name)
    stages = command.cfg.stages
    stage = stage_at(stages, env.common_step_counter / steps_per_iteration)
    command.sampler.stage = stage
    env.event_manager.get_term_cfg(push_name).params["velocity_range"] = push_range(stage.push)
    for name in (name for name in PENALTIES if name in env.cfg.rewards):
        env.reward_manager.get_term_cfg(name).weight = stage.penalty * env.cfg.rewards[name].weight
    return {"stage": torch.tensor(float(stages.index(stage))), "push": torch.tensor(stage.push)}
