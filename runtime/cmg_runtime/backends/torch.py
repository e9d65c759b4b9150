"""The ``torch`` backend: the one-product network in plain PyTorch, from ``weights.npz``. Needs nothing but torch."""

from __future__ import annotations

from pathlib import Path

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.device.precision import full_precision
from cmg_runtime.folder.arrays import read_weights
from cmg_runtime.folder.manifest import Artifact, Manifest

CPU_ROWS = 512
"""Environments that go through the network together on a CPU: the widest tensor, [rows, num_experts * hidden_dim], then
stays in its cache (4 MB for hidden 512 and 4 experts), and memory stays small for any number of environments."""


class TorchBackend(Backend):
    """See :class:`cmg_runtime.backends.Backend`."""

    capturable = True

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self._network = network
        self._device = device

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> TorchBackend:
        network = OneProductNetwork(read_weights(folder, artifact, manifest), artifact.precision)
        return cls(network.to(device).eval(), device)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        rows = CPU_ROWS if self._device.type == "cpu" else max(len(motion), 1)
        with full_precision(self._device):
            for first in range(0, len(motion), rows):
                part = slice(first, first + rows)
                out[part].copy_(self._network(motion[part], command[part]))
