"""mjlab's own velocity task under fixed commands, to be measured as ours is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from mjlab.rl import MjlabOnPolicyRunner
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg
from mjlab.tasks.velocity.mdp import UniformVelocityCommand, UniformVelocityCommandCfg

from cmg_gym.captured import TrainingEnv, make_env
from cmg_gym.conditions import Conditions
from cmg_gym.learning.policies import Policy, find_checkpoint
from cmg_gym.learning.resume import read_checkpoint
from cmg_gym.mdp.heading import heading_of
from cmg_gym.mdp.reference_command import heading_velocity
from cmg_gym.robots import G1
from cmg_runtime import EngineError
from cmg_runtime.errors import first_line

VELOCITY_TASK = "Mjlab-Velocity-Flat-Unitree-G1"


class HeldTwist:
    """The task's command term, as far as an evaluation asks ours: a command for each robot that nothing changes."""

    def __init__(self, env: TrainingEnv) -> None:
        self._term = cast(UniformVelocityCommand, env.unwrapped.command_manager.get_term("twist"))
        self.robot = self._term.robot
        self.target = SimpleNamespace(dof_pos=torch.full_like(self.robot.data.joint_pos, torch.nan))
        """There is no reference."""

    @property
    def command(self) -> torch.Tensor:
        """[num_envs, 3] m/s, m/s, rad/s."""
        return self._term.vel_command_b

    def hold(self, command: torch.Tensor) -> None:
        """Give the robots their commands [N, 3]; a reset draws others."""
        self._term.vel_command_b[: len(command)] = command

    def robot_velocity(self) -> torch.Tensor:
        """As :meth:`ReferenceCommand.robot_velocity`."""
        return heading_velocity(self.robot, heading_of(self.robot.data.root_link_quat_w))


def open_velocity_task(
    policy: Path, num_envs: int, seconds: float, conditions: Conditions, device: str, captured: bool, seed: int
) -> tuple[TrainingEnv, Policy]:
    """The task's play environment with episodes of ``seconds``, and a policy that mjlab's ``train`` has trained in it.

    Args:
        policy: a checkpoint ``model_N.pt``, or a run's folder for its newest one.

    Raises:
        EngineError: it is neither, or another task's.
    """
    checkpoint = find_checkpoint(policy)
    saved = read_checkpoint(checkpoint)  # mjlab's own way would run code in it
    cfg = load_env_cfg(VELOCITY_TASK, play=True)
    cfg.scene.num_envs, cfg.episode_length_s, cfg.seed = num_envs, seconds, seed
    twist = cast(UniformVelocityCommandCfg, cfg.commands["twist"])
    twist.resampling_time_range = (1e9, 1e9)
    twist.heading_command, twist.ranges.heading = False, None
    twist.rel_standing_envs = twist.rel_heading_envs = twist.rel_forward_envs = twist.rel_world_envs = 0.0
    conditions.apply(cfg, G1)
    env = TrainingEnv(make_env(cfg, device, None if captured else False))
    runner = MjlabOnPolicyRunner(env, asdict(load_rl_cfg(VELOCITY_TASK)), device=device)
    try:
        runner.alg.load(saved, {"actor": True}, True)
    except (RuntimeError, KeyError) as error:  # of weights that do not fit
        raise EngineError(f"{checkpoint} is no policy of {VELOCITY_TASK} ({first_line(error)})") from None
    return env, runner.get_inference_policy(device)
