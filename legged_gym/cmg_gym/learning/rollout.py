"""A rollout's inference and records, as work on fixed buffers."""

from __future__ import annotations

from typing import cast

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules import EmpiricalNormalization
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import check_nan
from tensordict import TensorDict

from cmg_gym.learning.episodes import EndedEpisodes
from cmg_gym.learning.recording import Recorder


class Rollout:
    """Fills rsl_rl's storage step by step, as rsl_rl's own PPO does, while the host does not wait.

    Attributes:
        actions: [num_envs, num_actions] what :meth:`act` has drawn; overwritten by the next.
        observations: of the last step, by group.
        episodes: those that ended in the rollout.
    """

    def __init__(
        self, actor: MLPModel, critic: MLPModel, storage: RolloutStorage, gamma: float, recorder: Recorder
    ) -> None:
        self._actor, self._critic, self._storage, self._gamma = actor, critic, storage, gamma
        num_envs, device = storage.num_envs, storage.rewards.device
        self.actions = torch.zeros_like(storage.actions[0])
        self.observations = cast("TensorDict", storage.observations[0].clone())
        self.episodes = EndedEpisodes(storage.num_transitions_per_env, num_envs, device)
        self._values = torch.zeros_like(storage.values[0])
        self._rewards = torch.zeros_like(storage.rewards[0])
        self._dones = torch.zeros_like(storage.dones[0])
        self._time_outs = torch.zeros_like(self._rewards)
        self._has_nan = torch.zeros((), dtype=torch.bool, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        if storage.distribution_params is None:  # rsl_rl makes them at the first step
            storage.distribution_params = (torch.zeros_like(storage.actions), torch.zeros_like(storage.actions))
        statistics = [
            buffer
            for model in (actor, critic)
            if isinstance(model.obs_normalizer, EmpiricalNormalization)
            for buffer in model.obs_normalizer.buffers()
        ]
        self._act = recorder.record(self._enqueue_act)
        self._record = recorder.record(
            self._enqueue_record, [*statistics, *self.episodes.buffers, self._has_nan, self._step]
        )

    def begin(self) -> None:
        """The next step is the first of a rollout."""
        self._step.zero_()

    def act(self, observations: TensorDict) -> torch.Tensor:
        """Draw :attr:`actions` for ``observations`` and store what goes with them."""
        self._take(observations)
        self._act()
        return self.actions

    def record(
        self, observations: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, time_outs: torch.Tensor | None
    ) -> None:
        """Store what a step has come to, and let the normalisers learn from the observations that follow it.

        Args:
            rewards, dones: [num_envs].
            time_outs: [num_envs] the episodes that ended only because their time was over; None for none.
        """
        self._take(observations)
        self._rewards.copy_(rewards.view(-1, 1))
        self._dones.copy_(dones.view(-1, 1))
        if time_outs is None:
            self._time_outs.zero_()
        else:
            self._time_outs.copy_(time_outs.view(-1, 1))
        self._record()

    def require_numbers(self) -> None:
        """Wait for the device.

        Raises:
            ValueError: the environment returned NaN in this rollout or before: rsl_rl's own error, of what it was.
        """
        if not self._has_nan.item():
            return
        storage = self._storage
        for step in range(storage.num_transitions_per_env):
            check_nan(storage.observations[step], storage.rewards[step], storage.dones[step])
        check_nan(self.observations, self._rewards, self._dones)

    def _take(self, observations: TensorDict) -> None:
        for buffer, values in zip(_tensors(self.observations), _tensors(observations), strict=True):
            buffer.copy_(values)

    def _enqueue_act(self) -> None:
        actor, storage = self._actor, self._storage
        assert actor.distribution is not None and storage.distribution_params is not None
        actor.distribution.update(actor.mlp(actor.get_latent(self.observations)))
        mean, std = actor.output_distribution_params
        # The draw of rsl_rl's own `sample`, which makes the host wait for the least standard deviation.
        self.actions.copy_(mean + std * torch.randn_like(mean))
        self._values.copy_(self._critic(self.observations))
        for values, value in zip(_tensors(storage.observations), _tensors(self.observations), strict=True):
            self._store(values, value)
        self._store(storage.actions, self.actions)
        self._store(storage.values, self._values)
        self._store(storage.actions_log_prob, actor.get_output_log_prob(self.actions))
        self._store(storage.distribution_params[0], mean)
        self._store(storage.distribution_params[1], std)

    def _enqueue_record(self) -> None:
        for model in (self._actor, self._critic):
            update_normalization(model, self.observations)
        for value in (*_tensors(self.observations), self._rewards):
            self._has_nan |= value.isnan().any()
        self.episodes.add(self._step, self._rewards.squeeze(1), self._dones.squeeze(1))
        self._store(self._storage.rewards, self._rewards + self._gamma * (self._values * self._time_outs))
        self._store(self._storage.dones, self._dones)
        self._step.add_(1).remainder_(self._storage.num_transitions_per_env)

    def _store(self, values: torch.Tensor, value: torch.Tensor) -> None:
        """Write ``value`` into ``values`` [num_steps, ...] at the current step, which only the device knows."""
        values.index_copy_(0, self._step, value.reshape(1, *values.shape[1:]))


def _tensors(observations: TensorDict) -> list[torch.Tensor]:
    """Those of all groups, in the order of their names."""
    return [cast("torch.Tensor", observations[group]) for group in sorted(observations.keys())]


def update_normalization(model: MLPModel, observations: TensorDict) -> None:
    """As the model's own method, which gives the normaliser another tensor of standard deviations every time."""
    normalizer = model.obs_normalizer
    if isinstance(normalizer, EmpiricalNormalization):
        std = normalizer._std
        model.update_normalization(observations)
        std.copy_(normalizer._std)
        normalizer._std = std
