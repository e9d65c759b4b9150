"""The one-product form of the generator: the graph that torch, TorchScript and ONNX artifacts are all made from.

Each layer ``y = sum_e c_e (x W_e + b_e)`` is one matrix product: no weight tensor per sample ever exists. Its experts
are mixed on the product's narrower side, so that no tensor of ``num_experts * hidden_dim`` columns is made where one
of fewer does:

- a layer that widens weighs its input, ``y = (c (x) x) vstack(W_e) + c b``;
- any other weighs its output, ``y = sum_e c_e (x [W_1|...|W_E] + [b_1|...|b_E])_e``.

``docs/tensorrt.md`` lists the kernels that TensorRT makes of this, and of the alternatives. Normalisation is part of
the graph, so inputs and outputs are in radians, rad/s, m/s.

Measured on an H200 with two older forms, not with this one (hidden 512, 4 experts, 3 layers, 4096 environments, torch
in a CUDA graph): every layer weighing its input took 401 us in fp32 and 227 us in fp16, every layer weighing its
output 405 and 251 us, at the same error (one step, relative to float64: fp32 5e-7, fp16 5.7e-4). With the first of the
two in fp16, rounding the coefficients before the multiplication gave 8.1e-4 and a gate in half precision 7.6e-4, both
1.0e-3; the gate is 3 % of the arithmetic, and in half precision it was no faster (239 us).
"""

# Without postponed annotations: TorchScript reads the types of the classes' tensors from them.
from typing import Dict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cmg_runtime.folder.manifest import PRECISIONS


class OneProductNetwork(nn.Module):
    """Motion state + command -> next motion state, physical units in and out.

    In "fp16" the operands of the experts' products are half precision and their results come back in half
    precision, as half-precision matrix units give them. Everything else is float32: normalisation, the gate,
    the multiplication by the gate's coefficients, the sum over experts, biases, ELU.

    Args:
        weights: the arrays of ``weights.npz`` (float32):
            ``gate.0.weight`` [in, H], ``gate.0.bias`` [H], ``gate.1.weight`` [H, E], ``gate.1.bias`` [E];
            for each layer l, ``layers.{l}.weight`` [E * in, out] (experts stacked, expert-major) and
            ``layers.{l}.bias`` [E, out]; ``motion_mean``, ``motion_std`` [motion_dim],
            ``command_min``, ``command_max`` [command_dim].
        precision: "fp32" or "fp16".
        half_on_cpu: what to do with half-precision operands on a CPU, where PyTorch's own product is some eighty
            times slower than in float32. False multiplies them in float32, which is exact, and rounds the
            result; True computes the half-precision product itself, which is what exporters must record.

    Raises:
        ValueError: an unknown precision.
        KeyError: an array is missing.
    """

    motion_mean: torch.Tensor
    motion_std: torch.Tensor
    command_centre: torch.Tensor
    command_half_range: torch.Tensor

    def __init__(self, weights: Dict[str, np.ndarray], precision: str = "fp32", half_on_cpu: bool = False) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        low, high = (np.asarray(weights[name], dtype=np.float64) for name in ("command_min", "command_max"))
        self.register_buffer("motion_mean", _float32(weights["motion_mean"]))
        self.register_buffer("motion_std", _float32(weights["motion_std"]))
        self.register_buffer("command_centre", _float32((high + low) / 2))
        self.register_buffer("command_half_range", _float32((high - low) / 2))
        self.gate = _Gate(
            _Linear(weights["gate.0.weight"], weights["gate.0.bias"]),
            _Linear(weights["gate.1.weight"], weights["gate.1.bias"]),
        )
        num_layers = sum(name.startswith("layers.") and name.endswith(".weight") for name in weights)
        self.layers = nn.ModuleList(
            [
                _MixtureLayer(
                    weights[f"layers.{index}.weight"],
                    weights[f"layers.{index}.bias"],
                    half_operands=precision == "fp16",
                    half_on_cpu=half_on_cpu,
                    activation=index < num_layers - 1,
                )
                for index in range(num_layers)
            ]
        )

    def forward(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        """One frame forward.

        Args:
            motion: [N, motion_dim] float32, joint positions (rad) then joint velocities (rad/s).
            command: [N, command_dim] float32, m/s, m/s, rad/s.

        Returns:
            [N, motion_dim] float32, the next motion state.
        """
        motion = (motion - self.motion_mean) / self.motion_std
        command = (command - self.command_centre) / self.command_half_range
        x = torch.cat([motion, command], dim=1)
        coefficients = self.gate(x)
        for layer in self.layers:
            x = layer(x, coefficients)
        return x * self.motion_std + self.motion_mean


class _Gate(nn.Module):
    """``softmax(W2 elu(W1 x + b1) + b2)``, of functions: TorchScript writes torch's own modules in a random order."""

    def __init__(self, hidden: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.hidden = hidden
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.output(F.elu(self.hidden(x))), dim=1)


class _Linear(nn.Module):
    """``x W + b`` in float32, with W [in, out]."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("weight", _float32(weight))
        self.register_buffer("bias", _float32(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


class _MixtureLayer(nn.Module):
    """``sum_e c_e (x W_e + b_e)`` as one product, then ELU where ``activation`` is set.

    Its ``weight`` is [E * in, out], experts one below the other, where the input is weighed, and [in, E * out], experts
    side by side, where the output is; its ``bias`` is [E, out] and [E * out].
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, weight: np.ndarray, bias: np.ndarray, half_operands: bool, half_on_cpu: bool, activation: bool
    ) -> None:
        super().__init__()
        self.num_experts, self.width_out = bias.shape
        self.width_in = weight.shape[0] // self.num_experts
        self.weighs_input = self.width_in < self.width_out
        if not self.weighs_input:
            experts = weight.reshape(self.num_experts, self.width_in, self.width_out)
            weight = experts.transpose(1, 0, 2).reshape(self.width_in, -1)
        self.register_buffer("weight", _float32(weight).half() if half_operands else _float32(weight))
        self.register_buffer("bias", _float32(bias if self.weighs_input else bias.reshape(-1)))
        self.half_operands = half_operands
        self.half_on_cpu = half_on_cpu
        self.activation = activation

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        column = coefficients.unsqueeze(2)
        if self.weighs_input:
            operand = (column * x.unsqueeze(1)).reshape(-1, self.num_experts * self.width_in)
            y = self.product(operand, torch.mm(coefficients, self.bias))
        else:
            experts = self.product(x, self.bias).reshape(-1, self.num_experts, self.width_out)
            y = (experts * column).sum(1)
        return F.elu(y) if self.activation else y

    def product(self, operand: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``operand weight + bias``, a new float32 tensor."""
        if not self.half_operands:
            return torch.addmm(bias, operand, self.weight)
        if self.half_on_cpu or operand.is_cuda:
            return torch.mm(operand.half(), self.weight).float() + bias
        return torch.mm(operand.half().float(), self.weight.float()).half().float() + bias


def _float32(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)
