"""The rollout objective: how far the generator drifts from a clip when it feeds on its own output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from CMG_Ref.module import CMG
from CMG_Ref.robot_g1.gait import StanceVelocity

Weights = list[torch.Tensor]


def stack_experts(model: CMG) -> Weights:
    """For each layer the experts side by side: weight [in, E * out] and bias [E * out], alternating.

    The same arithmetic as ``CMG.forward`` with one matrix product a layer; done once per rollout, and
    gradients flow through to the model's own parameters.
    """
    stacked: Weights = []
    for layer in model.layers:
        stacked.append(torch.cat(list(layer.expert_weights), dim=1))
        stacked.append(torch.cat(list(layer.expert_biases)))
    return stacked


def stacked_forward(
    motion: torch.Tensor, command: torch.Tensor, gate: Weights, layers: Weights, num_experts: int
) -> torch.Tensor:
    """``CMG.forward`` on stacked experts: [N, D], [N, 3] -> [N, D], normalised."""
    x = torch.cat([motion, command], dim=-1)
    hidden = F.elu(F.linear(x, gate[0], gate[1]))
    coefficients = torch.softmax(F.linear(hidden, gate[2], gate[3]), dim=-1).unsqueeze(-1)
    for index in range(0, len(layers), 2):
        each = torch.addmm(layers[index + 1], x, layers[index]).view(x.shape[0], num_experts, -1)
        x = (coefficients * each).sum(dim=1)
        if index < len(layers) - 2:
            x = F.elu(x)
    return x


def rollout(
    model: CMG, motion: torch.Tensor, command: torch.Tensor, forward: Callable[..., torch.Tensor] = stacked_forward
) -> torch.Tensor:
    """Free-running frames: start [N, D] and commands [K, N, 3] -> [K, N, D], all normalised."""
    gate = [model.gating.gating_network[i].get_parameter(name) for i in (0, 2) for name in ("weight", "bias")]
    layers = stack_experts(model)
    num_experts = len(model.layers[0].expert_weights)
    frames = []
    for k in range(command.shape[0]):
        motion = forward(motion, command[k], gate, layers, num_experts)
        frames.append(motion)
    return torch.stack(frames)


def disturb(
    motion: torch.Tensor, command: torch.Tensor, noise: float | torch.Tensor, command_noise: float
) -> tuple[torch.Tensor, ...]:
    """Noise on the start state and on the commands, so that the generator learns to come back.

    Each row's start gets its own amplitude, uniform up to ``noise`` (one for all, or [N, 1]) and, for one row in ten,
    up to four times that.
    """
    amplitude = torch.rand(motion.shape[0], 1, device=motion.device)
    strong = torch.rand(motion.shape[0], 1, device=motion.device) < 0.1
    amplitude = noise * amplitude * (1 + 3 * strong)
    return (
        motion + amplitude * torch.randn_like(motion),
        command + command_noise * torch.randn_like(command[:1]),  # constant over the window
    )


def liveliness(motion: torch.Tensor) -> torch.Tensor:
    """How fast the joints of windows [K, N, D] move, [N]: root mean square of their normalised speeds, 0.15 to 1.

    Standing is taken as a little lively, so that it is neither learnt to the last digit nor left without noise.
    """
    joints = motion.shape[-1] // 2
    return motion[..., joints:].square().mean(dim=(0, 2)).sqrt().clamp(0.15, 1.0)


class WalkingVelocity:
    """How far the velocity over ground that a rollout implies is from that of the clip.

    Where the future is uncertain, the pose with the least squared error is a mean of poses: steps come out too
    short. Velocity is averaged over the window before it is compared, so it does not shrink with uncertainty.
    Both sides are read from the standing foot, so the estimate's own bias cancels. G1 only.
    """

    def __init__(self, stats: dict[str, Any], device: torch.device) -> None:
        joints = stats["num_joints"]
        self._joints = joints
        self._mean = torch.as_tensor(stats["motion_mean"][:joints], device=device)
        self._std = torch.as_tensor(stats["motion_std"][:joints], device=device)
        self._estimator = StanceVelocity(device)

    def error(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared difference of window velocities ((m/s)^2, (rad/s)^2) of [K, N, D] normalised frames."""
        with torch.no_grad():
            wanted = self._velocity(target)
        return (self._velocity(predicted) - wanted).square().mean()

    def _velocity(self, motion: torch.Tensor) -> torch.Tensor:
        return self._estimator.mean(motion[..., : self._joints] * self._std + self._mean)
