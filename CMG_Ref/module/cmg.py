"""The Conditional Motion Generator: motion state + velocity command -> next motion state."""

from __future__ import annotations

from typing import Sequence, cast

import torch
from torch import nn
from torch.nn import functional as F

from .gating_network import GatingNetwork
from .moe_layer import MoELayer


class CMG(nn.Module):
    """Mixture-of-experts network that predicts the motion state one frame (1/50 s) ahead.

    It sees and gives normalised values: motion ``(m - mean) / std``, command min-max to [-1, 1].
    The gate is computed once a frame; ELU follows every layer but the last.

    Args:
        motion_dim: width of the motion state, joint positions then joint velocities (58 for a G1).
        command_dim: width of the command (3: vx, vy, yaw rate in the robot's own frame).
        hidden_dim: width of the hidden layers, and of the gate's unless given.
        num_experts: experts in every layer.
        num_layers: number of layers, at least 1.
        gating_hidden_dim: hidden width of the gate; None for ``hidden_dim``.
    """

    def __init__(
        self,
        motion_dim: int = 58,
        command_dim: int = 3,
        hidden_dim: int = 512,
        num_experts: int = 4,
        num_layers: int = 3,
        gating_hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        input_dim = motion_dim + command_dim
        self.motion_dim = motion_dim
        self.command_dim = command_dim
        self.gating = GatingNetwork(input_dim, gating_hidden_dim or hidden_dim, num_experts)
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [motion_dim]
        layers = [MoELayer(width_in, width_out, num_experts) for width_in, width_out in zip(widths[:-1], widths[1:])]
        self.layers = cast("Sequence[MoELayer]", nn.ModuleList(layers))

    def forward(self, motion: torch.Tensor, command: torch.Tensor, blended: bool = False) -> torch.Tensor:
        """Predict the next motion state.

        Args:
            motion: [N, motion_dim], normalised.
            command: [N, command_dim], normalised.
            blended: compute each layer through per-sample weights, as existing implementations do
                (see :meth:`MoELayer.forward_blended`): same result, far more memory.

        Returns:
            [N, motion_dim], normalised.
        """
        x = torch.cat([motion, command], dim=-1)
        coefficients = self.gating(x)
        for index, layer in enumerate(self.layers):
            x = layer.forward_blended(x, coefficients) if blended else layer(x, coefficients)
            if index < len(self.layers) - 1:
                x = F.elu(x)
        return x
