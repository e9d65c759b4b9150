"""rsl_rl's PPO, with the same normalisation on every GPU."""

from __future__ import annotations

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.modules import EmpiricalNormalization
from tensordict import TensorDict


class SharedNormalizationPPO(PPO):
    """PPO whose GPUs update by observations and advantages that are normalised by the statistics of all their robots.

    So several GPUs learn as one does with all the robots. rsl_rl 5.4 averages gradients over the GPUs, but every GPU
    normalises by what its own robots have seen: the same weights are another policy on each. During a rollout they
    still are, by what this rollout has added. Since rsl_rl 5.5 its own normalisers of observations are shared.
    """

    def compute_returns(self, obs: TensorDict) -> None:
        """As rsl_rl's, with advantages [steps, num_envs, 1] of mean 0 and standard deviation 1 over all GPUs."""
        super().compute_returns(obs)
        self.normalize_advantages_together()

    def normalize_advantages_together(self) -> None:
        """What makes :meth:`compute_returns` so; nothing on one GPU."""
        if self.is_multi_gpu and not self.normalize_advantage_per_mini_batch:
            advantages = self.storage.returns - self.storage.values
            advantages -= _mean_over_processes(advantages.mean())
            count = advantages.numel() * self.gpu_world_size
            variance = _mean_over_processes(advantages.square().mean()) * count / (count - 1)
            self.storage.advantages.copy_(advantages / (variance.sqrt() + 1e-8))

    def update(self) -> dict[str, float]:
        """As rsl_rl's, after :meth:`share_normalization`."""
        self.share_normalization()
        return super().update()

    def share_normalization(self) -> None:
        """Share what the rollout has taught the normalisers of observations; nothing on one GPU."""
        if self.is_multi_gpu:
            for model in (self._raw_actor, self._raw_critic):
                if isinstance(model.obs_normalizer, EmpiricalNormalization):
                    share_statistics(model.obs_normalizer)


@torch.inference_mode()  # as the rollouts in which rsl_rl updates these buffers
def share_statistics(normalizer: EmpiricalNormalization) -> None:
    """Give the normaliser of every process the mean and variance [1, observations] of the samples of all.

    The mean of the means; and, by the law of total variance, the mean of the variances plus the variance of the means.
    That is exact where all have seen equally many samples, as all GPUs have; ``count`` stays the number of one's own.
    """
    mean = _mean_over_processes(normalizer._mean)
    variance = _mean_over_processes(normalizer._var + (normalizer._mean - mean).square())
    normalizer._mean[:] = mean
    normalizer._var[:] = variance
    normalizer._std[:] = variance.sqrt()


def _mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of every process's ``value``, of the same shape in each; a new tensor."""
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
