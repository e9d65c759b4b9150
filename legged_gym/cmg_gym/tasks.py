"""The tasks as mjlab knows them."""

from __future__ import annotations

from mjlab.tasks.registry import register_mjlab_task

from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.robots import G1, ROBOTS

TASK = G1.task

for robot in ROBOTS:
    register_mjlab_task(
        task_id=robot.task,
        env_cfg=make_env_cfg(robot=robot),
        play_env_cfg=make_env_cfg(play=True, robot=robot),
        rl_cfg=make_rl_cfg(robot),
        runner_cls=ResidualRunner,
    )
