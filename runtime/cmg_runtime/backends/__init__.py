"""What runs an artifact. One backend, one module, imported only when it is asked for.

To add a backend, write its class and name it in :data:`BACKENDS`; to have ``backend="auto"`` consider it,
place it in :data:`cmg_runtime.loading.PREFERRED_BACKENDS`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Artifact, Manifest

BACKENDS: dict[str, str] = {
    "torch": "cmg_runtime.backends.torch:TorchBackend",
    "torchscript": "cmg_runtime.backends.torchscript:TorchScriptBackend",
    "onnx": "cmg_runtime.backends.onnx:OnnxBackend",
    "fused": "cmg_runtime.backends.fused.backend:FusedBackend",
    "trt": "cmg_runtime.backends.trt.backend:TrtBackend",
}


class Backend(Protocol):
    """One artifact, loaded and ready to run on one device.

    One that can make many frames in one call also has a method ``frames``, with the arguments of
    :meth:`cmg_runtime.backends.fused.cluster.ClusterNetwork.frames`.

    Attributes:
        capturable: whether it is worth trying to record :meth:`step` in a CUDA graph, on a CUDA device.
    """

    capturable: bool

    @classmethod
    def load(cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device) -> Backend:
        """Read the artifact's file, checked against its hash, and make it ready.

        Args:
            num_envs: the batch that :meth:`step` will mostly be called with.

        Raises:
            BackendUnavailable: this backend cannot run here, or not on this device.
            EngineError: the artifact's file is missing or is not what the manifest says.
        """
        ...

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        """Write the next motion state into ``out``.

        Enqueued on the device's current stream; the host does not wait. No gradient is recorded.

        Args:
            motion: [N, motion_dim] float32, rad and rad/s, contiguous, on the backend's device. Any N.
            command: [N, command_dim] float32, m/s, m/s, rad/s, contiguous.
            out: [N, motion_dim] float32, contiguous, sharing no memory with the inputs.
        """
        ...


def backend_class(name: str) -> type[Backend]:
    """The class of the backend called ``name``.

    Raises:
        EngineError: there is no such backend.
        BackendUnavailable: a library that it needs is not installed.
    """
    if name not in BACKENDS:
        raise EngineError(f"unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
