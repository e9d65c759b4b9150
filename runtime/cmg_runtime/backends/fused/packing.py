"""``weights.npz`` in the layout that the kernels read: experts side by side, scaled, padded with zeros.

A layer's weights become one matrix [OUT * E, IN]. Its rows come in blocks of 16 output columns, and within a block
expert by expert: row ``(o // 16 * E + e) * 16 + o % 16`` holds ``W_e[:, o]``. Any tile of whole blocks then holds all
experts of its columns, and in the accumulator of a matrix unit the experts of a column lie in one thread.

The gate's and the first layer's input has two more entries, both 1. Their weights are the bias, as a value of the
operands' type and what that rounds away: the bias then costs nothing and keeps its digits.

Hidden values are kept multiplied by log2(e), so that ELU takes powers of two: weights that lead to them are multiplied
by it, weights that lead away are divided by it, and in between both cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np
import torch

GRANULE = 16
MAX_EXPERTS = 16
MAX_INPUT = 254
LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Shapes:
    """Sizes of the network as the kernels see them. Padded widths are multiples of 64 or powers of two."""

    motion: int
    inputs: int
    inputs_padded: int
    experts: int
    gate: int
    hidden: int
    outputs: int
    num_layers: int

    @property
    def fuses_last(self) -> bool:
        """Whether the last layer goes behind the last middle one: there is one, and its tile fits in registers."""
        return self.num_layers >= 3 and self.outputs * self.experts <= 256


@dataclass(frozen=True)
class Packed:
    """The packed arrays on the device. ``layers`` are (weight [OUT * E, IN], bias [OUT * E] float32); the bias of the
    first is in its weight already, that of a last layer which is not also the first is ``last_bias`` [E, OUT] too."""

    shapes: Shapes
    shift: torch.Tensor
    scale: torch.Tensor
    motion_std: torch.Tensor
    gate_weight: torch.Tensor
    gate_out_weight: torch.Tensor
    gate_out_bias: torch.Tensor
    layers: Tuple[Tuple[torch.Tensor, torch.Tensor], ...]
    last_bias: torch.Tensor


def pack(weights: Dict[str, np.ndarray], dtype: torch.dtype, device: torch.device) -> Packed:
    """Pack the arrays of ``weights.npz`` (see ``OneProductNetwork``).

    Args:
        dtype: of the products' operands; biases and normalisation stay float32.

    Raises:
        KeyError: an array is missing.
        ValueError: more experts or inputs than the kernels are made for.
    """
    shapes = _shapes(weights)

    def operand(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=dtype, device=device).contiguous()

    def constant(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=device).contiguous()

    wide = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}
    low, high = wide["command_min"], wide["command_max"]
    shift = np.concatenate([wide["motion_mean"], (high + low) / 2, [-1.0, -1.0]])  # (0 - -1) * 1 is 1
    scale = np.concatenate([1 / wide["motion_std"], 2 / (high - low), [1.0, 1.0]])
    gate_weight = _with_bias(wide["gate.0.weight"].T * LOG2E, wide["gate.0.bias"] * LOG2E, dtype)
    gate_out_bias = np.full(shapes.experts, -1e30)
    gate_out_bias[: len(wide["gate.1.bias"])] = wide["gate.1.bias"]
    layers = [_layer(wide, index, shapes, dtype) for index in range(shapes.num_layers)]
    last_bias = wide[f"layers.{shapes.num_layers - 1}.bias"]
    return Packed(
        shapes=shapes,
        shift=constant(_pad(shift, (max(shapes.inputs_padded, shapes.outputs),))),
        scale=constant(_pad(scale, (shapes.inputs_padded,))),
        motion_std=constant(_pad(wide["motion_std"], (shapes.outputs,))),
        gate_weight=operand(_pad(gate_weight, (shapes.gate, shapes.inputs_padded))),
        gate_out_weight=constant(_pad(wide["gate.1.weight"].T / LOG2E, (shapes.experts, shapes.gate))),
        gate_out_bias=constant(gate_out_bias),
        layers=tuple((operand(weight), constant(bias)) for weight, bias in layers),
        last_bias=constant(_pad(last_bias, (shapes.experts, shapes.outputs))),
    )


def _layer(
    wide: Dict[str, np.ndarray], index: int, shapes: Shapes, dtype: torch.dtype
) -> Tuple[np.ndarray, np.ndarray]:
    """Weight [OUT * E, IN] and bias [OUT * E] of one layer."""
    first, last = index == 0, index == shapes.num_layers - 1
    stacked, bias = wide[f"layers.{index}.weight"], wide[f"layers.{index}.bias"]
    weight = stacked.reshape(len(bias), -1, stacked.shape[1]).transpose(0, 2, 1)  # [E, out, in]
    unit_out = 1.0 if last else LOG2E
    weight = weight * (unit_out if first else unit_out / LOG2E)
    bias = bias * unit_out
    if first:
        weight = _with_bias(weight, bias, dtype)
    width_in = shapes.inputs_padded if first else shapes.hidden
    width_out = shapes.outputs if last else shapes.hidden
    return (
        _side_by_side(weight, shapes.experts, width_out, width_in),
        _side_by_side(bias[:, :, None], shapes.experts, width_out, 1)[:, 0],
    )


def _with_bias(weight: np.ndarray, bias: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """[.., out, in] -> [.., out, in + 2]."""
    rounded = torch.tensor(bias).to(dtype).double().numpy()
    return np.concatenate([weight, rounded[..., None], (bias - rounded)[..., None]], axis=-1)


def _shapes(weights: Dict[str, np.ndarray]) -> Shapes:
    inputs, gate = weights["gate.0.weight"].shape
    experts = weights["gate.1.weight"].shape[1]
    motion = len(weights["motion_mean"])
    if experts > MAX_EXPERTS or inputs > MAX_INPUT:
        raise ValueError(
            f"{experts} experts and {inputs} inputs; these kernels are made for at most {MAX_EXPERTS} and {MAX_INPUT}"
        )
    num_layers = sum(name.startswith("layers.") and name.endswith(".weight") for name in weights)
    hidden = weights["layers.0.weight"].shape[1]
    return Shapes(
        motion=motion,
        inputs=inputs,
        inputs_padded=_power_of_two(inputs + 2),
        experts=1 << (experts - 1).bit_length(),
        gate=_multiple_of_64(gate),
        hidden=_multiple_of_64(hidden) if num_layers > 1 else 0,
        outputs=_power_of_two(motion),
        num_layers=num_layers,
    )


def _side_by_side(by_expert: np.ndarray, experts: int, width_out: int, width_in: int) -> np.ndarray:
    """[E, out, in] -> [width_out * experts, width_in] in the order that this module describes."""
    padded = _pad(by_expert, (experts, width_out, width_in))
    blocks = padded.reshape(experts, width_out // GRANULE, GRANULE, width_in)
    return blocks.transpose(1, 0, 2, 3).reshape(-1, width_in)


def _pad(array: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    return np.pad(array, [(0, to - have) for have, to in zip(array.shape, shape)])


def _power_of_two(value: int) -> int:
    return max(GRANULE, 1 << (value - 1).bit_length())


def _multiple_of_64(value: int) -> int:
    return (value + 63) // 64 * 64
