"""The peers: the textbook form of the network as existing implementations run it, and the rewritten one compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import Checkpoint
from CMG_Ref.checkpoint.reader import reference_model
from cmg_runtime.backends.one_product import OneProductNetwork


class ReferenceForm(nn.Module):
    """``CMG.forward(blended=True)``, a weight matrix for every environment, with physical units in and out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        stats = checkpoint.stats
        self.model = reference_model(checkpoint.state_dict, checkpoint.sizes)
        for name in ("motion_mean", "motion_std", "command_min", "command_max"):
            self.register_buffer(name, torch.tensor(getattr(stats, name), dtype=torch.float32))
        self.eval()

    def forward(self, motion: Any, command: Any) -> Any:
        """[N, motion_dim] rad and rad/s, [N, command_dim] m/s and rad/s -> the next motion state."""
        state = (motion - self.motion_mean) / self.motion_std
        scaled = 2 * (command - self.command_min) / (self.command_max - self.command_min) - 1  # type: ignore[operator]
        return self.model(state, scaled, blended=True) * self.motion_std + self.motion_mean


def one_product(checkpoint: Checkpoint, precision: str) -> nn.Module:
    """The network that the artifacts are made from."""
    return OneProductNetwork(one_product_weights(checkpoint), precision).eval()


def compiled(network: nn.Module, mode: str) -> Callable[..., torch.Tensor]:
    """``torch.compile`` for one batch size, without its tables of tried kernels."""
    from torch._inductor import select_algorithm  # slow to import, and not there in every build

    select_algorithm.PRINT_AUTOTUNE = False
    return torch.compile(network, mode=mode, dynamic=False)


def into(network: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]:
    """``network`` as a function that writes into its third argument."""

    def step(motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        with torch.no_grad():
            out.copy_(network(motion, command))

    return step
