"""A generator that treats left and right alike, exactly.

Let S mirror the input (left and right joints change places, roll and yaw change sign) and let P swap the two
halves of the hidden units. If expert E-1-e is the mirror image of expert e, ``W' = S^T W P`` in the first layer,
``P^T W P`` in between and ``P^T W S`` in the last, and the gate is its own mirror image with the experts
reversed, then f(S x) = S f(x) for every input. Such weights make an ordinary checkpoint. They stay so in
training if gradients are made symmetric too, which also makes every window count for its mirror image.

Normalised values must mirror without an offset, so the stats must be symmetric (``compute_stats`` makes them so).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import mirror_map

Axis = tuple[torch.Tensor, torch.Tensor]
"""A signed permutation of one axis: ``mirrored[..., j] = sign[j] * values[..., index[j]]``."""


class MirrorSymmetry:
    """The mirror image of a CMG's parameters, and how to make parameters or gradients equal to theirs.

    Args:
        model: a CMG with even hidden widths.
        joint_names: order of the joints, in left/right pairs where they have sides.

    Raises:
        ValueError: an odd hidden width, or a joint without a twin.
    """

    def __init__(self, model: CMG, joint_names: Sequence[str]) -> None:
        device = next(model.parameters()).device
        joint_index, joint_sign = mirror_map(tuple(joint_names))
        joints = len(joint_index)
        motion = _axis(joint_index + [joints + i for i in joint_index], joint_sign * 2, device)
        command = _axis([0, 1, 2], [1.0, -1.0, -1.0], device)
        source = (torch.cat([motion[0], command[0] + 2 * joints]), torch.cat([motion[1], command[1]]))
        num_experts = len(model.layers[0].expert_weights)
        experts = _axis(list(range(num_experts))[::-1], [1.0] * num_experts, device)
        gate_hidden = _swap_halves(model.get_parameter("gating.gating_network.0.bias").shape[0], device)

        parameters = list(model.parameters())
        place = {id(p): i for i, p in enumerate(parameters)}
        self._partner = list(range(len(parameters)))
        self._axes: list[tuple[Axis, ...]] = [()] * len(parameters)
        for linear, row, column in ((0, gate_hidden, source), (2, experts, gate_hidden)):
            for name, axes in (("weight", (row, column)), ("bias", (row,))):
                self._axes[place[id(model.get_parameter(f"gating.gating_network.{linear}.{name}"))]] = axes
        for index, layer in enumerate(model.layers):
            width_in, width_out = layer.expert_weights[0].shape
            row = source if index == 0 else _swap_halves(width_in, device)
            column = motion if index == len(model.layers) - 1 else _swap_halves(width_out, device)
            for e in range(num_experts):
                for values, axes in ((layer.expert_weights, (row, column)), (layer.expert_biases, (column,))):
                    self._axes[place[id(values[e])]] = axes
                    self._partner[place[id(values[e])]] = place[id(values[num_experts - 1 - e])]

    @torch.no_grad()
    def symmetrise_(self, tensors: Sequence[torch.Tensor], scale: float = 0.5) -> None:
        """Make parameters, or their gradients, equal to their mirror image, in place: ``scale * (t + mirror(t))``.

        Args:
            tensors: one per parameter of the model, in the order of ``model.parameters()``.
            scale: 0.5 projects; ``sqrt(0.5)`` keeps the variance of independent random weights.
        """
        mirrored = [
            self._mirror(tensors[partner], axes) for partner, axes in zip(self._partner, self._axes, strict=True)
        ]
        for tensor, image in zip(tensors, mirrored, strict=True):
            tensor.add_(image).mul_(scale)

    @torch.no_grad()
    def shrink_asymmetry_(self, tensors: Sequence[torch.Tensor], kept: float) -> None:
        """Keep ``kept`` of each parameter's distance from the symmetric ones, in place: 1 all of it, 0 none."""
        symmetric = [tensor.clone() for tensor in tensors]
        self.symmetrise_(symmetric)
        for tensor, middle in zip(tensors, symmetric, strict=True):
            tensor.sub_(middle).mul_(kept).add_(middle)

    def initialise_(self, model: CMG) -> None:
        """Make freshly drawn weights symmetric, keeping their variance."""
        self.symmetrise_([p.data for p in model.parameters()], math.sqrt(0.5))

    @staticmethod
    def _mirror(values: torch.Tensor, axes: tuple[Axis, ...]) -> torch.Tensor:
        for dim, (index, sign) in enumerate(axes):
            values = values.index_select(dim, index) * sign.view([-1] + [1] * (values.dim() - dim - 1))
        return values


def is_symmetric(stats: dict[str, Any], joint_names: Sequence[str]) -> bool:
    """Whether normalised values mirror without an offset."""
    index, sign = mirror_map(tuple(joint_names))
    both, signs = index + [len(index) + i for i in index], np.array(sign * 2)
    mean, std = np.asarray(stats["motion_mean"]), np.asarray(stats["motion_std"])
    low, high = np.asarray(stats["command_min"]), np.asarray(stats["command_max"])
    return (
        np.array_equal(signs * mean[both], mean)
        and np.array_equal(std[both], std)
        and np.array_equal(-low[1:], high[1:])
    )


def _axis(index: list[int], sign: list[float], device: torch.device) -> Axis:
    return torch.tensor(index, device=device), torch.tensor(sign, device=device)


def _swap_halves(width: int, device: torch.device) -> Axis:
    if width % 2:
        raise ValueError(f"hidden width is {width}; expected an even number, its halves mirror each other")
    half = width // 2
    return _axis([*range(half, width), *range(half)], [1.0] * width, device)
