"""The ``fused`` backend: our own kernels, from the same ``weights.npz`` as the ``torch`` backend.

What they compute, and why so: :mod:`cmg_runtime.backends.fused.cluster` for half precision on Hopper GPUs,
:mod:`cmg_runtime.backends.fused.layers` for all else. What they cost: ``docs/performance.md``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.device.triton_support import why_not
from cmg_runtime.errors import BackendUnavailable, first_line
from cmg_runtime.folder.arrays import read_weights
from cmg_runtime.folder.manifest import Artifact, Manifest
from cmg_runtime.guard import Guard

if TYPE_CHECKING:
    from cmg_runtime.backends.fused.cluster import ClusterNetwork
    from cmg_runtime.backends.fused.launch import FrameNetwork
    from cmg_runtime.backends.fused.packing import Packed

logger = logging.getLogger(__name__)


class FusedBackend(Backend):
    """See :class:`cmg_runtime.backends.Backend`.

    Calls share scratch memory, so they must follow each other on the device, as calls on one stream do. A number of
    rows that was never seen may compile kernels, and a larger one than before allocates: make a first call with it
    before capturing a CUDA graph. A captured graph stays valid whatever comes later.

    Rows may be any distance apart in memory; values within a row are contiguous.

    A load may time tiles, once on a kind of GPU: see :mod:`cmg_runtime.backends.fused.tuning`.
    """

    capturable = True

    def __init__(self, network: FrameNetwork, cluster: Optional[ClusterNetwork], device: torch.device) -> None:
        self._network = network
        self._cluster = cluster
        if cluster is not None:
            self.batches = cluster.batches
        self._device = device

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> FusedBackend:
        reason = why_not(device)
        if reason:
            raise BackendUnavailable(f"the fused backend cannot run here: {reason}; use backend='torch'")
        from cmg_runtime.backends.fused.launch import OPERANDS, FrameNetwork
        from cmg_runtime.backends.fused.packing import pack
        from cmg_runtime.backends.fused.tuning import choose_tiles

        weights = read_weights(folder, artifact, manifest)
        try:
            packed = pack(weights, OPERANDS[artifact.precision][0], device)
            tiles = choose_tiles(weights, packed, artifact.precision, device)
        except ValueError as error:
            raise BackendUnavailable(f"{first_line(error)}; use backend='torch'") from None
        network = FrameNetwork(packed, artifact.precision, num_envs, device, tiles)
        return cls(network, _cluster_network(packed, artifact.precision, device), device)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        if self._device.type == "cpu":
            self._network(motion, command, out)
            return
        with torch.cuda.device(self._device):  # Triton launches on the current device
            if self._cluster is not None and self._cluster.suits_one_frame(len(motion)):
                self._cluster(motion, command, out)
            else:
                self._network(motion, command, out)

    def guarded_step(
        self,
        motion: torch.Tensor,
        command: torch.Tensor,
        out: torch.Tensor,
        guard: Guard,
        columns: torch.Tensor,
        ahead: int,
    ) -> None:
        if self._cluster is not None and self._cluster.suits_one_frame(len(motion)):
            self._cluster.rollout(motion, command.unsqueeze(0), out.unsqueeze(0), guard, columns, ahead)
        else:
            super().guarded_step(motion, command, out, guard, columns, ahead)

    def rollout(
        self,
        motion: torch.Tensor,
        commands: torch.Tensor,
        out: torch.Tensor,
        guard: Optional[Guard] = None,
        columns: Optional[torch.Tensor] = None,
        ahead: int = 1,
    ) -> None:
        many = super().rollout if self._cluster is None else self._cluster.rollout
        many(motion, commands, out, guard, columns, ahead)


def _cluster_network(packed: Packed, precision: str, device: torch.device) -> Optional[ClusterNetwork]:
    """The kernel for many frames at once, where it fits."""
    from cmg_runtime.backends.fused.cluster import ClusterNetwork, fits
    from cmg_runtime.device.nvrtc import CudaError

    if not fits(packed.shapes, precision, device):
        return None
    try:
        return ClusterNetwork(packed, device)
    except CudaError as error:
        logger.warning("frames are made one by one, for the cluster kernel does not load: %s", error)
        return None
