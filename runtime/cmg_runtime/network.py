"""The one-product form of the generator: the graph that every artifact is made from.

The layer ``y = sum_e c_e (x W_e + b_e)`` is one matrix product, ``y = (c (x) x) vstack(W_e) + c b``:
no weight tensor per sample ever exists. Normalisation is part of the graph, so inputs and outputs
are in radians, rad/s, m/s.

Why so, measured with hidden 512, 4 experts, 3 layers. The other order, ``sum_e c_e (x [W_1|...|W_E])_e``, has the
same error (fp32 5e-7, fp16 5.7e-4 against 5.6e-4, one step, relative to float64) and one operation more a layer, and
is slower on an H200 (4096 environments, CUDA graph: fp32 405 against 401 us, fp16 251 against 227 us).
In fp16, rounding the coefficients before the multiplication gives 8.1e-4 and a gate in half precision 7.6e-4, both
1.0e-3; the gate is 3 % of the arithmetic, and in half precision it was no faster (239 us).
"""

# Without postponed annotations: TorchScript reads the types of the classes' tensors from them.
from typing import Dict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cmg_runtime.manifest import PRECISIONS


class OneProductNetwork(nn.Module):
    """Motion state + command -> next motion state, physical units in and out.

    In "fp16" the operands of the experts' products are half precision and their results come back in half
    precision, as half-precision matrix units give them. Everything else is float32: normalisation, the gate,
    the multiplication by the gate's coefficients (rounded to half once, after it), biases, ELU.

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
    """``sum_e c_e (x W_e + b_e)`` as one product, then ELU where ``activation`` is set."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, weight: np.ndarray, bias: np.ndarray, half_operands: bool, half_on_cpu: bool, activation: bool
    ) -> None:
        super().__init__()
        self.register_buffer("weight", _float32(weight).half() if half_operands else _float32(weight))
        self.register_buffer("bias", _float32(bias))
        self.rows = weight.shape[0]
        self.half_operands = half_operands
        self.half_on_cpu = half_on_cpu
        self.activation = activation

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        scaled = (coefficients.unsqueeze(2) * x.unsqueeze(1)).reshape(-1, self.rows)
        bias = torch.mm(coefficients, self.bias)
        if not self.half_operands:
            y = torch.addmm(bias, scaled, self.weight)
        elif self.half_on_cpu or x.is_cuda:
            y = torch.mm(scaled.half(), self.weight).float() + bias
        else:
            y = torch.mm(scaled.half().float(), self.weight.float()).half().float() + bias
        return F.elu(y) if self.activation else y


def _float32(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)
