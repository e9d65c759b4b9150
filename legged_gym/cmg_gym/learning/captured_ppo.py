"""PPO whose rollout and update are CUDA graphs; on a CPU the same work runs call by call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import GaussianDistribution
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

from cmg_gym.learning.policy_update import PolicyUpdate
from cmg_gym.learning.recording import Recorder
from cmg_gym.learning.rollout import Rollout
from cmg_gym.ppo import SharedNormalizationPPO
from cmg_runtime import EngineError


class CapturedPPO(SharedNormalizationPPO):
    """:class:`~cmg_gym.ppo.SharedNormalizationPPO` on fixed buffers: the host waits for the device twice an iteration.

    Once at the end of the rollout, where it asks whether the environment returned NaN, and once at that of the update.
    Checkpoints are those of rsl_rl's PPO, and either loads the other's.
    """

    def __init__(self, actor: MLPModel, critic: MLPModel, storage: RolloutStorage, *rest: Any, **named: Any) -> None:
        super().__init__(actor, critic, storage, *rest, **named)
        _require_known(self)
        self._rate = torch.tensor(self.learning_rate, dtype=torch.float32, device=self.device)
        self._recorder = Recorder(self._rate.device)
        # An optimiser whose learning rate and count of steps are on the device. It knows plain SGD, too.
        self._options: dict[str, Any] = {"lr": self._rate, "fused": True, "capturable": self._rate.is_cuda}
        self._options = {name: value for name, value in self._options.items() if name in self.optimizer.defaults}
        self._usual_options = {name: self.optimizer.defaults[name] for name in self._options}
        parameters = [*actor.parameters(), *critic.parameters()]
        self.optimizer = type(self.optimizer)(parameters, **self._options)

    @cached_property
    def rollout(self) -> Rollout:
        """Recorded when it is first asked for."""
        with torch.inference_mode(False):
            return Rollout(self._raw_actor, self._raw_critic, self.storage, self.gamma, self._recorder)

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Draw actions [num_envs, num_actions], which the next call overwrites, and store what goes with them."""
        if self.storage.step >= self.storage.num_transitions_per_env:
            raise OverflowError("the rollout is full: update() comes before the next step")
        if self.storage.step == 0:
            self.rollout.begin()
        return self.rollout.act(obs)

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> None:
        """Store what a step has come to; wait for the last of a rollout.

        Raises:
            ValueError: the environment returned NaN in this rollout.
        """
        self.rollout.record(obs, rewards, dones, extras.get("time_outs"))
        self.storage.step += 1
        if self.storage.step == self.storage.num_transitions_per_env:
            self.rollout.require_numbers()

    def compute_returns(self, obs: TensorDict) -> None:
        """As the uncaptured one's, for the observations that the last step has come to."""
        self._returns()
        self.normalize_advantages_together()

    def update(self) -> dict[str, float]:
        """As rsl_rl's."""
        self.share_normalization()
        losses, self.learning_rate = self._policy_update.run()
        self.storage.clear()
        assert self._raw_actor.distribution is not None
        with torch.no_grad():  # rsl_rl logs its standard deviation; what is in it may lie in a graph's memory
            self._raw_actor.distribution.update(self.storage.actions[0])
        return dict(zip(("value", "surrogate", "entropy"), losses, strict=True))

    def save(self) -> dict:
        """What rsl_rl's PPO saves: its optimiser has other options."""
        saved = super().save()
        for group in saved["optimizer_state_dict"]["param_groups"]:
            group.update(self._usual_options, lr=self.learning_rate)
        return saved

    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        """Load what either PPO has saved."""
        self.__dict__.pop("_policy_update", None)  # it has recorded steps of the optimiser's state, which is replaced
        optimizer = dict(loaded_dict["optimizer_state_dict"])
        optimizer["param_groups"] = [
            {**group, **self._options, "lr": float(group["lr"])} for group in optimizer["param_groups"]
        ]
        goes_on = super().load({**loaded_dict, "optimizer_state_dict": optimizer}, load_cfg, strict)
        self._rate.fill_(self.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        return goes_on

    @cached_property
    def _returns(self) -> Callable[[], None]:
        return self._recorder.record(self._enqueue_returns)

    @cached_property
    def _policy_update(self) -> PolicyUpdate:
        with torch.inference_mode(False):
            return PolicyUpdate(self, self._rate, self._recorder)

    def _enqueue_returns(self) -> None:
        advantages = self.storage.advantages
        PPO.compute_returns(self, self.rollout.observations)
        self.storage.advantages = advantages.copy_(self.storage.advantages)  # rsl_rl puts a new tensor there


def _require_known(algorithm: PPO) -> None:
    """Refuse what would be left out.

    Raises:
        EngineError: other networks or extensions than feed-forward ones with Gaussian actions.
    """
    models = (algorithm._raw_actor, algorithm._raw_critic)
    plain = all(type(model) is MLPModel for model in models)
    if not plain or not isinstance(models[0].distribution, GaussianDistribution) or algorithm.rnd or algorithm.symmetry:
        raise EngineError(
            "captured training knows MLPModel with a GaussianDistribution, and neither RND nor symmetry; "
            "train with --no-captured"
        )
