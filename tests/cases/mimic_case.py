"""A mimic environment as TWIST has them, without a simulation: what it asks its motion library, in which order."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Callable

import torch

from cmg_runtime.motion_lib import create_motion_lib_cmg
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES
from dropin_case import Case

NUM_ENVS = 32
DT = 0.02
OFFSETS = [1, *range(5, 100, 5)]
"""Frames that TWIST looks ahead: 20 of them."""

LINKS = ("imu_link", *KEY_BODIES, "head_mocap", "logo_link")
"""Of the robot that is simulated; the engine knows neither the first nor the last."""

Check = Callable[["MimicEnv", str, torch.Tensor, torch.Tensor, Any], None]
"""With the environment; "reset", "now" or "ahead"; the environments [M] that are asked for; times [M]; the answer."""


class Gym:
    """What a library asks Isaac Gym, of the first environment's robot."""

    def __init__(self, dofs: tuple[str, ...]) -> None:
        self.dofs = dofs

    def get_actor_dof_names(self, env: Any, actor: int) -> list[str]:
        assert (env, actor) == ("env 0", 3)
        return list(self.dofs)

    def get_actor_rigid_body_names(self, env: Any, actor: int) -> list[str]:
        assert (env, actor) == ("env 0", 3)
        return list(LINKS)


class SimulatedEnv:
    """What a legged_gym environment is when it loads its motions.

    Args:
        motion: keys of ``cfg.motion``.
    """

    def __init__(self, case: Case, device: str = "cpu", dt: float = DT, **motion: Any) -> None:
        settings: dict[str, Any] = {
            **{"use_cmg": True, "cmg_model_path": str(case.folder), "cmg_backend": "torch"},
            **{"cmg_num_motions": 48, "cmg_motion_length": 60, "key_bodies": list(KEY_BODIES)},
            **motion,
        }
        self.num_envs, self.device = NUM_ENVS, device
        self.gym, self.envs, self.actor_handles = Gym(case.manifest.joint_names), ["env 0", "env 1"], [3, 4]
        self.cfg = SimpleNamespace(
            motion=SimpleNamespace(**settings),
            env=SimpleNamespace(tar_obs_steps=OFFSETS),
            control=SimpleNamespace(decimation=10),
            sim=SimpleNamespace(dt=dt / 10),
            terrain=SimpleNamespace(mesh_type="plane"),
        )


class MimicEnv(SimulatedEnv):
    """The loop of a training. Every answer goes to ``check``.

    Args:
        falls: share of the environments that fall in a step.
        steered: motions by ``reset`` and ``step``, as whoever wants to steer calls them.
    """

    def __init__(
        self, case: Case, check: Check, seed: int, falls: float = 0.02, steered: bool = False, **motion: Any
    ) -> None:
        super().__init__(case, **motion)
        self.check, self.falls, self.steered = check, falls, steered
        self.random = torch.Generator().manual_seed(seed)
        self.lib = create_motion_lib_cmg(self)
        longest: Any = 0
        for i in range(self.lib.num_motions()):
            longest = max(longest, self.lib.get_motion_length(i))
        self.max_episode_length_s = longest.item()
        self.key_body_ids = self.lib.get_key_body_idx(key_body_names=list(KEY_BODIES))
        self.motion_ids = torch.zeros(NUM_ENVS, dtype=torch.int64)
        self.time_offsets = torch.zeros(NUM_ENVS)
        self.episode_length = torch.zeros(NUM_ENVS, dtype=torch.int64)
        self.offsets = torch.tensor(OFFSETS, dtype=torch.int)
        self.motion_difficulty = 9 * torch.ones(self.lib.num_motions())
        for _ in range(2):  # once in its base class, once in its own constructor
            self.reset_idx(torch.arange(NUM_ENVS))

    def ask(self, what: str, env_ids: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = times.clone()
        out = self.lib.calc_motion_frame(self.motion_ids[env_ids], times)
        assert torch.equal(given, times), "motion_times were changed"
        self.check(self, what, env_ids, times, out)
        out[0][:, 2] += 0.05  # as TWIST does, in place: must not reach what the library keeps
        return out

    def times(self) -> torch.Tensor:
        return self.episode_length * DT + self.time_offsets

    def reset_idx(self, env_ids: torch.Tensor) -> None:
        if len(env_ids) == 0:
            return
        self.motion_difficulty = 1 + 8 * torch.rand(self.lib.num_motions(), generator=self.random)
        if self.steered:
            motion_ids = self.lib.reset(env_ids, motion_difficulty=self.motion_difficulty)
        else:
            motion_ids = self.lib.sample_motions(len(env_ids), motion_difficulty=self.motion_difficulty)
        times = self.lib.sample_time(motion_ids)
        self.motion_ids[env_ids], self.time_offsets[env_ids] = motion_ids, times
        self.ask("reset", env_ids, times)
        self.episode_length[env_ids] = 0

    def step(self, reset: bool = True) -> tuple[torch.Tensor, ...]:
        everyone = torch.arange(NUM_ENVS)
        self.episode_length += 1
        if self.steered:
            self.lib.step()
        now = self.ask("now", everyone, self.times())
        if reset:
            over = self.episode_length * DT >= self.lib.get_motion_length(self.motion_ids)
            fallen = torch.rand(NUM_ENVS, generator=self.random) < self.falls
            self.reset_idx((over | fallen).nonzero().flatten())
        times = self.offsets * DT + self.times().unsqueeze(-1)
        ahead = self.ask("ahead", everyone.repeat_interleave(len(OFFSETS)), times.flatten())
        assert ahead[6][:, self.key_body_ids].shape == (NUM_ENVS * len(OFFSETS), len(KEY_BODIES), 3)
        return now

    def start_at_random_clocks(self) -> None:
        """``init_at_random_ep_len`` of the trainer."""
        most = math.ceil(self.max_episode_length_s / DT)
        self.episode_length = torch.randint(0, most, (NUM_ENVS,), generator=self.random)
