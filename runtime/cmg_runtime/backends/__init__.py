"""What runs an artifact. One backend, one module, imported only when it is asked for.

To add a backend, write its class and name it in :data:`BACKENDS`; to have ``backend="auto"`` consider it,
place it in :data:`cmg_runtime.loading.PREFERRED_BACKENDS`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Optional

import torch

from cmg_runtime.device.lifetime import NotCopied
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Artifact, Manifest
from cmg_runtime.guard import Guard

BACKENDS: dict[str, str] = {
    "torch": "cmg_runtime.backends.torch:TorchBackend",
    "torchscript": "cmg_runtime.backends.torchscript:TorchScriptBackend",
    "onnx": "cmg_runtime.backends.onnx:OnnxBackend",
    "fused": "cmg_runtime.backends.fused.backend:FusedBackend",
    "trt": "cmg_runtime.backends.trt.backend:TrtBackend",
}


class Backend(NotCopied):
    """One artifact, loaded and ready to run on one device.

    Attributes:
        capturable: whether it is worth trying to record :meth:`step` and :meth:`rollout` in a CUDA graph, on a CUDA
            device.
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
        raise NotImplementedError

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        """Write the next motion state into ``out``.

        Enqueued on the device's current stream; the host does not wait. No gradient is recorded.

        Args:
            motion: [N, motion_dim] float32, rad and rad/s, contiguous, on the backend's device. Any N.
            command: [N, command_dim] float32, m/s, m/s, rad/s, contiguous.
            out: [N, motion_dim] float32, contiguous, sharing no memory with the inputs.
        """
        raise NotImplementedError

    def rollout(
        self,
        motion: torch.Tensor,
        commands: torch.Tensor,
        out: torch.Tensor,
        guard: Optional[Guard] = None,
        columns: Optional[torch.Tensor] = None,
        ahead: int = 1,
    ) -> None:
        """Write T frames into ``out``, each made from the one before it. A backend may have a faster way to the same.

        Enqueued as :meth:`step` is. Nothing is allocated where the rows of a frame are contiguous, in ``commands`` and
        in ``out``.

        Args:
            motion: [N, motion_dim] float32 that the first frame is made from. Rows here and below may be any distance
                apart; values of a row are contiguous.
            commands: [T, N, command_dim] float32 that lead to each frame.
            out: [T, N, motion_dim] float32, sharing no memory with the inputs.
            guard: replaces and counts the bad rows of every frame, before the next one is made from it.
            columns: [N] int64, each row's column, with a guard; see :meth:`cmg_runtime.guard.Guard.apply`.
            ahead: frames from the columns' current frame to the first one of ``out``.

        Raises:
            ValueError: a guard without columns.
        """
        if guard is not None and columns is None:
            raise ValueError("a guard needs the rows' columns")
        if not len(motion) or not len(out):
            return
        # Rows that lie apart get a frame when it is done, from one of two that are whole.
        whole = None if out[0].is_contiguous() else [out.new_empty(out.shape[1:]) for _ in range(2)]
        state = motion.contiguous()
        for t in range(len(out)):
            following = out[t] if whole is None else whole[t % 2]
            self.step(state, commands[t].contiguous(), following)
            if guard is not None and columns is not None:
                guard.apply(following, columns, ahead + t)
            if whole is not None:
                out[t].copy_(following)
            state = following


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
