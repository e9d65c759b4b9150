"""A linear layer that is a mixture of experts: ``y = sum_e c_e (x W_e + b_e)``."""

import math

import torch
from torch import nn


class MoELayer(nn.Module):
    """One linear map per expert, mixed by the gate's coefficients.

    Parameters are named as existing checkpoints name them: ``expert_weights.{e}`` [in, out]
    (not transposed, unlike ``nn.Linear``) and ``expert_biases.{e}`` [out].

    Args:
        input_dim: width of the input.
        output_dim: width of the output.
        num_experts: number of linear maps.
    """

    def __init__(self, input_dim: int, output_dim: int, num_experts: int) -> None:
        super().__init__()
        bound = math.sqrt(3.0 / input_dim)  # unit variance kept by each expert
        self.expert_weights = nn.ParameterList(
            [nn.Parameter(torch.empty(input_dim, output_dim).uniform_(-bound, bound)) for _ in range(num_experts)]
        )
        self.expert_biases = nn.ParameterList(
            [nn.Parameter(torch.empty(output_dim).uniform_(-bound, bound)) for _ in range(num_experts)]
        )

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Apply every expert and mix the results.

        Args:
            x: [N, input_dim].
            coefficients: [N, num_experts], from the gate.

        Returns:
            [N, output_dim], ``sum_e c_e (x W_e + b_e)``.
        """
        y = torch.zeros((), dtype=x.dtype, device=x.device)
        for e, (weight, bias) in enumerate(zip(self.expert_weights, self.expert_biases)):
            y = torch.addcmul(y, coefficients[:, e : e + 1], torch.addmm(bias, x, weight))
        return y

    def forward_blended(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """The same sum in the order that existing implementations compute it.

        They blend a weight matrix per sample, ``W = sum_e c_e W_e`` [N, in, out], and multiply by
        that: equal to :meth:`forward` up to rounding, at N x in x out extra memory. Kept as the
        yardstick of the benchmarks and as a second opinion in the tests.
        """
        weights = torch.stack(list(self.expert_weights))
        biases = torch.stack(list(self.expert_biases))
        blended_weight = torch.einsum("ne,eio->nio", coefficients, weights)
        blended_bias = coefficients @ biases
        return torch.bmm(x.unsqueeze(1), blended_weight).squeeze(1) + blended_bias
