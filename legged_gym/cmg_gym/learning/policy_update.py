"""PPO's update as work on fixed buffers: rsl_rl's arithmetic, decisions and logs without a wait in between."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch
from rsl_rl.algorithms import PPO
from torch import nn

from cmg_gym.learning.mini_batches import MiniBatches, Samples
from cmg_gym.learning.recording import Recorder

LOWEST_RATE, HIGHEST_RATE, RATE_STEP = 1e-5, 1e-2, 1.5
"""Of rsl_rl's adaptive learning rate."""


class PolicyUpdate:
    """The optimisation of one iteration: gradients of a mini-batch, their mean over the GPUs, a step of the optimiser.

    Args:
        algorithm: whose models, storage, optimiser and coefficients these are; the optimiser's steps can be captured.
        learning_rate: [] the optimiser's, which this adapts.
    """

    def __init__(self, algorithm: PPO, learning_rate: torch.Tensor, recorder: Recorder) -> None:
        self._algorithm = algorithm
        self._actor, self._critic = algorithm._raw_actor, algorithm._raw_critic
        self._learning_rate = learning_rate
        self._parameters = [
            value for model in (self._actor, self._critic) for value in model.parameters() if value.requires_grad
        ]
        # The gradients one after the other and, behind them, the KL divergence: what GPUs take the mean of, in one.
        sizes = [*(value.numel() for value in self._parameters), 1]
        self._shared = self._parameters[0].new_zeros(sum(sizes))
        for value, gradient in zip(self._parameters, self._shared.split(sizes), strict=False):
            value.grad = gradient.view_as(value)
        self._losses = self._parameters[0].new_zeros(3)
        self._batches = MiniBatches(self._actor, self._critic, algorithm.storage, algorithm.num_mini_batches)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable=True.*", category=UserWarning)  # not captured yet
            self._make_optimizer_state()
            self._gradients = [
                recorder.record(functools.partial(self._enqueue_gradients, part), [self._losses])
                for part in self._batches.parts
            ]
            changes = [*self._parameters, *self._optimizer_state(), learning_rate, self._shared]
            self._step = recorder.record(self._enqueue_step, changes)

    def run(self) -> tuple[list[float], float]:
        """Learn from the storage. At its end the host waits for the device, once.

        Returns:
            Means of value loss, surrogate loss and entropy over all mini-batches; the learning rate.
        """
        epochs = self._algorithm.num_learning_epochs
        self._batches.fill()
        self._losses.zero_()
        for _ in range(epochs):
            for gradients in self._gradients:
                gradients()
                if self._algorithm.is_multi_gpu:
                    torch.distributed.all_reduce(self._shared)
                self._step()
        *losses, learning_rate = torch.cat([self._losses, self._learning_rate.view(1)]).tolist()
        return [loss / (epochs * len(self._gradients)) for loss in losses], learning_rate

    def _optimizer_state(self) -> Iterator[torch.Tensor]:
        state = self._algorithm.optimizer.state
        return (value for own in state.values() for value in own.values() if isinstance(value, torch.Tensor))

    def _make_optimizer_state(self) -> None:
        """Let the optimiser make the state that it else makes at its first step: nothing new is kept in a graph."""
        if not self._algorithm.optimizer.state:
            learning_rate = self._learning_rate.clone()
            self._learning_rate.zero_()
            self._algorithm.optimizer.step()
            self._learning_rate.copy_(learning_rate)
            for value in self._optimizer_state():
                value.zero_()

    def _enqueue_gradients(self, samples: Samples) -> None:
        """Add up the losses, and put gradients and KL divergence of a mini-batch into the shared buffer."""
        with torch.enable_grad():
            value_loss, surrogate_loss, entropy, kl = self._losses_of(samples)
            coefficients = self._algorithm.value_loss_coef, self._algorithm.entropy_coef
            loss = surrogate_loss + coefficients[0] * value_loss - coefficients[1] * entropy
            gradients = torch.autograd.grad(loss, self._parameters)
        torch.cat([*(gradient.flatten() for gradient in gradients), kl.view(1)], out=self._shared)
        self._losses += torch.stack([value_loss, surrogate_loss, entropy]).detach()

    def _losses_of(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Value loss, surrogate loss, entropy and KL divergence, means over the samples."""
        algorithm, actor, clip = self._algorithm, self._actor, self._algorithm.clip_param
        assert actor.distribution is not None
        actor.distribution.update(actor.mlp(samples.actor_latent))
        values = self._critic.mlp(samples.critic_latent)
        with torch.no_grad():
            kl = actor.get_kl_divergence((samples.mean, samples.std), actor.output_distribution_params).mean()
        advantages = samples.advantages.squeeze(1)
        if algorithm.normalize_advantage_per_mini_batch:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = (actor.get_output_log_prob(samples.actions) - samples.actions_log_prob.squeeze(1)).exp()
        surrogate_loss = torch.max(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip, 1.0 + clip)).mean()
        value_losses = (values - samples.returns).square()
        if algorithm.use_clipped_value_loss:
            clipped = samples.values + (values - samples.values).clamp(-clip, clip)
            value_losses = torch.max(value_losses, (clipped - samples.returns).square())
        return value_losses.mean(), surrogate_loss, actor.output_entropy.mean(), kl

    def _enqueue_step(self) -> None:
        """Adapt the learning rate, clip the gradients and apply them."""
        algorithm = self._algorithm
        if algorithm.is_multi_gpu:
            self._shared /= algorithm.gpu_world_size
        if algorithm.desired_kl is not None and algorithm.schedule == "adaptive":
            adapt(self._learning_rate, self._shared[-1], algorithm.desired_kl)
        for model in (self._actor, self._critic):
            nn.utils.clip_grad_norm_(model.parameters(), algorithm.max_grad_norm)
        algorithm.optimizer.step()


def adapt(learning_rate: torch.Tensor, kl: torch.Tensor, desired_kl: float) -> None:
    """Change ``learning_rate`` [] as rsl_rl does: down where ``kl`` [] is above twice ``desired_kl``, up below half."""
    lower = (learning_rate / RATE_STEP).clamp(min=LOWEST_RATE)
    higher = (learning_rate * RATE_STEP).clamp(max=HIGHEST_RATE)
    raised = torch.where((kl < desired_kl / 2.0) & (kl > 0.0), higher, learning_rate)
    learning_rate.copy_(torch.where(kl > desired_kl * 2.0, lower, raised))
