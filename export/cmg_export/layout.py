"""Parameter names and shapes of a checkpoint: find the weights, work out the sizes, compare name by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from cmg_export.errors import CheckpointError
from cmg_runtime.manifest import Sizes

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""


def read_state_dict(content: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Parameter name -> finite float32 tensor, from a bare state dict or a dict with ``model_state_dict``.

    Raises:
        CheckpointError: no weights there, a value that is no float tensor, or one that is not finite.
    """
    weights = content.get("model_state_dict", content)
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: model_state_dict holds no parameters; expected name -> tensor")
    if not any(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} has neither model_state_dict nor parameters (its keys: {_some(weights)}); expected a checkpoint"
        )
    for prefix in _WRAPPERS * 2:  # a compiled model inside DataParallel has both, in either order
        if all(str(name).startswith(prefix) for name in weights):
            weights = {name[len(prefix) :]: value for name, value in weights.items()}
    tensors = {}
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise CheckpointError(f"{path}: parameter {name} is a {kind}; expected a floating-point tensor")
        if value.layout != torch.strided or value.is_meta:
            raise CheckpointError(f"{path}: parameter {name} is sparse or has no values; expected a dense tensor")
        tensor = value.detach().to(torch.float32).contiguous()
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: parameter {name} holds NaN or infinite values; expected finite weights")
        tensors[str(name)] = tensor
    return tensors


def read_sizes(state_dict: dict[str, torch.Tensor], path: Path) -> Sizes:
    """Sizes of the network, after comparing every parameter's name and shape with what they imply.

    Raises:
        CheckpointError: naming the missing or unexpected parameters, or the shape that does not fit.
    """
    layers = [int(match[1]) for name in state_dict if (match := re.match(r"layers\.(\d+)\.", name))]
    last_layer = max(layers, default=0)
    if last_layer >= len(state_dict):
        raise CheckpointError(
            f"{path}: unexpected parameters of layers.{last_layer}; expected layers numbered from 0 without gaps"
        )
    gate_in = _matrix(state_dict, "gating.gating_network.0.weight", path)
    gate_out = _matrix(state_dict, "gating.gating_network.2.weight", path)
    first = _matrix(state_dict, "layers.0.expert_weights.0", path)
    last = _matrix(state_dict, f"layers.{last_layer}.expert_weights.0", path)
    motion_dim, command_dim = last.shape[1], gate_in.shape[1] - last.shape[1]
    if command_dim < 1 or motion_dim < 2 or motion_dim % 2:
        raise CheckpointError(
            f"{path}: the network takes {gate_in.shape[1]} values and its last layer, layers.{last_layer}, gives "
            f"{motion_dim}; expected an even motion state and, on the way in, a command beside it"
        )
    sizes = Sizes(
        motion_dim=motion_dim,
        command_dim=command_dim,
        num_joints=motion_dim // 2,
        hidden_dim=first.shape[1],
        gating_hidden_dim=gate_in.shape[0],
        num_experts=gate_out.shape[0],
        num_layers=last_layer + 1,
    )
    _compare(state_dict, _expected_shapes(sizes), path)
    return sizes


def _matrix(state_dict: dict[str, torch.Tensor], name: str, path: Path) -> torch.Tensor:
    if name not in state_dict:
        raise CheckpointError(f"{path}: parameter {name} is missing (there are: {_some(state_dict)})")
    if state_dict[name].dim() != 2 or 0 in state_dict[name].shape:
        raise CheckpointError(f"{path}: parameter {name} has shape {list(state_dict[name].shape)}; expected a matrix")
    return state_dict[name]


def _expected_shapes(sizes: Sizes) -> dict[str, list[int]]:
    width_in = sizes.motion_dim + sizes.command_dim
    shapes = {
        "gating.gating_network.0.weight": [sizes.gating_hidden_dim, width_in],
        "gating.gating_network.0.bias": [sizes.gating_hidden_dim],
        "gating.gating_network.2.weight": [sizes.num_experts, sizes.gating_hidden_dim],
        "gating.gating_network.2.bias": [sizes.num_experts],
    }
    widths = [width_in] + [sizes.hidden_dim] * (sizes.num_layers - 1) + [sizes.motion_dim]
    for layer in range(sizes.num_layers):
        for expert in range(sizes.num_experts):
            shapes[f"layers.{layer}.expert_weights.{expert}"] = widths[layer : layer + 2]
            shapes[f"layers.{layer}.expert_biases.{expert}"] = [widths[layer + 1]]
    return shapes


def _compare(state_dict: dict[str, torch.Tensor], shapes: dict[str, list[int]], path: Path) -> None:
    missing = [name for name in shapes if name not in state_dict]
    if missing:
        raise CheckpointError(f"{path}: parameters are missing: {_some(missing)}")
    extra = [name for name in state_dict if name not in shapes]
    if extra:
        raise CheckpointError(f"{path}: parameters that no CMG of this size has: {_some(extra)}")
    for name, shape in shapes.items():
        found = list(state_dict[name].shape)
        if found != shape:
            raise CheckpointError(f"{path}: parameter {name} has shape {found}; expected {shape}")


def _some(names: Any, limit: int = 6) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
