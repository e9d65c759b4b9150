"""A rollout's samples, shuffled once for all the mini-batches of an iteration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage


class Samples(NamedTuple):
    """Samples [n, ...] of a rollout."""

    actor_latent: torch.Tensor
    """What the actor's network is given: its observations, normalised; nothing in an update changes them."""
    critic_latent: torch.Tensor
    actions: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor
    advantages: torch.Tensor
    actions_log_prob: torch.Tensor
    mean: torch.Tensor
    """Of the distribution that ``actions`` were drawn from."""
    std: torch.Tensor


class MiniBatches:
    """Mini-batches in tensors that stay where they are.

    Attributes:
        parts: the mini-batches; every epoch has the same, as rsl_rl's do.
    """

    def __init__(self, actor: MLPModel, critic: MLPModel, storage: RolloutStorage, number: int) -> None:
        self._actor, self._critic, self._storage = actor, critic, storage
        size = storage.num_envs * storage.num_transitions_per_env // number
        self._shuffled = Samples(*(values.new_zeros(number * size, *values.shape[1:]) for values in self._in_order()))
        self.parts = [
            Samples(*(values[start : start + size] for values in self._shuffled))
            for start in range(0, number * size, size)
        ]

    def fill(self) -> None:
        """Shuffle the storage's samples into the mini-batches."""
        count = len(self._shuffled.actions)
        order = torch.randperm(count, device=self._shuffled.actions.device)
        for values, shuffled in zip(self._in_order(), self._shuffled, strict=True):
            torch.index_select(values, 0, order, out=shuffled)

    def _in_order(self) -> Samples:
        """Those of the storage."""
        storage = self._storage
        assert storage.distribution_params is not None
        observations = storage.observations.flatten(0, 1)
        mean, std = storage.distribution_params
        rest = (storage.actions, storage.values, storage.returns, storage.advantages, storage.actions_log_prob)
        return Samples(
            self._actor.get_latent(observations),
            self._critic.get_latent(observations),
            *(values.flatten(0, 1) for values in (*rest, mean, std)),
        )
