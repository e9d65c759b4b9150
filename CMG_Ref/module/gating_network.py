"""The gate: how much each expert contributes, once per frame."""

import torch
from torch import nn


class GatingNetwork(nn.Module):
    """Two linear layers and a softmax: ``softmax(W2 elu(W1 x + b1) + b2)``.

    Args:
        input_dim: width of ``x``, the normalised motion state and command together.
        hidden_dim: width between the two linear layers.
        num_experts: number of coefficients given out.
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.gating_network = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.ELU(),
            nn.Linear(hidden_dim, num_experts),
            nn.Softmax(dim=-1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``x`` [N, input_dim] to coefficients [N, num_experts], positive, each row summing to 1."""
        return self.gating_network(x)
