"""What the pieces of a captured step work on: mjlab's environment with one world more, and some buffers."""

from __future__ import annotations

import copy

import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg, types
from mjlab.managers.recorder_manager import NullRecorderManager

from cmg_gym.captured.constants import HostConstants
from cmg_gym.captured.physics import Physics
from cmg_gym.captured.refusals import CounterRead, Hoisted, Refusal
from cmg_gym.captured.state import State
from cmg_gym.captured.statistics import EpisodeStatistics

STATEFUL = (
    "event_manager",
    "command_manager",
    "action_manager",
    "observation_manager",
    "termination_manager",
    "reward_manager",
    "metrics_manager",
    "scene",
)


class CapturedWorld(ManagerBasedRlEnv):
    """mjlab's environment with a spare world behind the robots', and what the pieces of a captured step work on.

    Args:
        cfg: with ``scene.num_envs`` robots; it is copied.

    Attributes:
        num_robots: N.
        state: what managers, terms, sensors and entities keep.
        statistics: of episodes that have ended.
        action_in: [N + 1, A] where the pieces find the actions.
        reset_buf: [N + 1] bool, the robot's episode has ended in this step.
        reset_ids: [N + 1] int64, a robot whose episode has ended, else the spare world.
        reset_mask: [N + 1] bool, likewise, the spare world always.
        physics: the halves of its step.
        constants: a context for code that is captured, or tried.
        steps: 0-d int32, on the device: how many there were.
        reward_sums: [T, N + 1] of each reward in the episodes so far; there from the first reset on.
        observations: what the last step observed, as ``obs_buf``; there from the first reset on.
        hoisted: terms that are evaluated before the graph that uses them.
        refused: what runs between the graphs, and why.
    """

    observations: types.VecEnvObs
    reward_sums: torch.Tensor

    def __init__(self, cfg: ManagerBasedRlEnvCfg, device: str, render_mode: str | None = None) -> None:
        cfg = copy.deepcopy(cfg)
        self.num_robots = cfg.scene.num_envs
        cfg.scene.num_envs += 1
        self.counter_may_be_read = True
        self._step_counter = 0
        super().__init__(cfg, device, render_mode)
        assert isinstance(self.recorder_manager, NullRecorderManager) and cfg.auto_reset
        self.everyone = torch.arange(self.num_envs, device=device)
        self.action_in = torch.zeros(self.num_envs, self.action_manager.total_action_dim, device=device)
        self.reset_buf = torch.zeros(self.num_envs, dtype=torch.bool, device=device)
        self.reset_ids = torch.full_like(self.everyone, self.num_robots)
        self.reset_mask = self.sim._reset_mask._tensor  # the simulation's own, which Warp reads
        self.steps = torch.zeros((), dtype=torch.int32, device=device)
        self.statistics = EpisodeStatistics(self.everyone.device)
        self.state = State([(name, getattr(self, name)) for name in STATEFUL])
        self.physics = Physics(self.sim)
        self.constants = HostConstants(self.everyone.device)
        self.hoisted: list[Hoisted] = []
        self.refused: list[Refusal] = []

    @property
    def common_step_counter(self) -> int:
        """Steps since the beginning. A graph would go on with the number of its capture."""
        if not self.counter_may_be_read:
            raise CounterRead
        return self._step_counter

    @common_step_counter.setter
    def common_step_counter(self, value: int) -> None:
        self._step_counter = value

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """[N + 1] int64 control steps of the episodes so far; assigned values are copied to where graphs look."""
        return self._episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if not hasattr(self, "_episode_length_buf"):
            self._episode_length_buf = value
        elif value is not self._episode_length_buf:
            self._episode_length_buf.copy_(value)

    def padded(self, chosen: torch.Tensor) -> torch.Tensor:
        """``chosen`` [N + 1] bool as ids [N + 1] int64: of a robot that is not, the spare world's."""
        return torch.where(chosen, self.everyone, self.num_robots)
