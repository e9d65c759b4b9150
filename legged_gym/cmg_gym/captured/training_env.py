"""What PPO runs: an environment's robots, without the spare world of a captured one."""

from __future__ import annotations

from typing import Any, cast

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from cmg_gym.captured.env import CapturedEnv
from cmg_gym.captured.pieces import copied, flat


class TrainingEnv(RslRlVecEnvWrapper):
    """mjlab's wrapper for rsl_rl, of a captured environment and of one that is not.

    Of a captured one, what :meth:`step` returns lies in two sets of buffers in turn: it is valid until the step after
    the next one. No call waits for the GPU but :meth:`episode_statistics`.

    Attributes:
        num_envs: N, the robots.
    """

    def __init__(self, env: ManagerBasedRlEnv, clip_actions: float | None = None) -> None:
        super().__init__(env, clip_actions)
        self.captured = env.unwrapped if isinstance(env.unwrapped, CapturedEnv) else None
        if self.captured is not None:
            self.num_envs = self.captured.num_robots
            self._buffers = [self._new_buffers(self.captured) for _ in range(2)]

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """[N] int64 control steps of the episodes so far; assigned values are copied."""
        return self.unwrapped.episode_length_buf[: self.num_envs]

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.unwrapped.episode_length_buf[: self.num_envs] = value

    def get_observations(self) -> TensorDict:
        """[N, ...] what was observed last, by group; new tensors where a step would overwrite them."""
        observations = self._of_robots(self.unwrapped.observation_manager.compute())
        return observations if self.captured is None else observations.clone()

    def reset(self) -> tuple[TensorDict, dict]:
        """Begin all episodes anew."""
        _, extras = self.env.reset()
        return self.get_observations(), extras

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """As mjlab's: observations, rewards [N], ended episodes [N] int64, and extras."""
        if self.captured is None:
            return super().step(actions)
        if self.clip_actions is not None:
            actions = torch.clamp(actions, -self.clip_actions, self.clip_actions)
        observations, rewards, terminated, truncated, extras = self.captured.step(actions)
        self._buffers.reverse()
        kept, kept_rewards, dones, time_outs = self._buffers[0]
        robots = slice(self.num_envs)
        for mine, new in zip(flat(kept), flat(observations), strict=True):
            mine.copy_(new[robots])
        kept_rewards.copy_(cast("torch.Tensor", rewards)[robots])
        torch.logical_or(terminated[robots], truncated[robots], out=dones)
        time_outs.copy_(truncated[robots])
        extras = dict(extras)
        if not self.cfg.is_finite_horizon:
            extras["time_outs"] = time_outs
        return TensorDict(kept, batch_size=[self.num_envs]), kept_rewards, dones, extras

    def episode_statistics(self) -> dict[str, float]:
        """What mjlab logs, of the episodes that have ended since the last call: of a captured environment only, others
        log it in ``extras``."""
        return self.captured.episode_statistics() if self.captured is not None else {}

    def _of_robots(self, observations: Any) -> TensorDict:
        whole = TensorDict(observations, batch_size=[len(flat(observations)[0])])
        return cast("TensorDict", whole[: self.num_envs])

    def _new_buffers(self, env: CapturedEnv) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
        observations = copied(env.obs_buf, self.num_envs)
        dones = torch.zeros(self.num_envs, dtype=torch.int64, device=env.device)
        return observations, torch.zeros(self.num_envs, device=env.device), dones, torch.zeros_like(dones).bool()
