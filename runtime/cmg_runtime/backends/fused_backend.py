"""The ``fused`` backend: our own Triton kernels, from the same ``weights.npz`` as the ``torch`` backend.

What the kernels compute, and why so: :mod:`cmg_runtime.kernels.network`; what they cost: ``docs/performance.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cmg_runtime.errors import BackendUnavailable, first_line
from cmg_runtime.kernels import why_not
from cmg_runtime.manifest import Artifact, Manifest
from cmg_runtime.weights import read_weights

if TYPE_CHECKING:
    from cmg_runtime.kernels.frame import FrameNetwork


class FusedBackend:
    """See :class:`cmg_runtime.backends.Backend`.

    Calls share scratch memory, so they must follow each other on the device, as calls on one stream do. A number of
    rows that was never seen may compile kernels, and a larger one than before allocates: make a first call with it
    before capturing a CUDA graph. A captured graph stays valid whatever comes later.

    Rows may be any distance apart in memory; values within a row are contiguous.
    """

    capturable = True

    def __init__(self, network: FrameNetwork, device: torch.device) -> None:
        self._network = network
        self._device = device

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> FusedBackend:
        reason = why_not(device)
        if reason:
            raise BackendUnavailable(f"the fused backend cannot run here: {reason}; use backend='torch'")
        from cmg_runtime.kernels.frame import OPERANDS, FrameNetwork
        from cmg_runtime.kernels.packing import pack

        weights = read_weights(folder, artifact, manifest)
        try:
            packed = pack(weights, OPERANDS[artifact.precision][0], device)
        except ValueError as error:
            raise BackendUnavailable(f"{first_line(error)}; use backend='torch'") from None
        return cls(FrameNetwork(packed, artifact.precision, num_envs, device), device)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        if self._device.type == "cpu":
            self._network(motion, command, out)
            return
        with torch.cuda.device(self._device):  # Triton launches on the current device
            self._network(motion, command, out)
