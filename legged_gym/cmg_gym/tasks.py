"""The tasks as mjlab knows them."""

from __future__ import annotations

from mjlab.tasks.registry import register_mjlab_task

from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.rl_cfg import make_rl_cfg

TASK = "CMG-Residual-Flat-Unitree-G1"

register_mjlab_task(
    task_id=TASK,
    env_cfg=make_env_cfg(),
    play_env_cfg=make_env_cfg(play=True),
    rl_cfg=make_rl_cfg(),
    runner_cls=ResidualRunner,
)
