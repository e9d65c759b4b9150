"""What runs an artifact: one backend, one module, imported only when it is asked for.

To add a backend, write its class and give it a row in :data:`BACKENDS`. If it runs a file that engine folders have
already, ``weights.npz`` for example, it is in every folder built from then on; else ``cmg_export.compile`` has to write
the file.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from torch import Tensor  # not torch itself: here that name becomes this package's own module
from torch import device as Device

from cmg_runtime.device.lifetime import NotCopied
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Artifact, Manifest
from cmg_runtime.guard import Guard

WEIGHTS_FILE, TORCHSCRIPT_FILE, ONNX_FILE = "weights.npz", "cmg_{precision}.ts", "cmg_{precision}.onnx"
PLAN_FILE = "cmg_{precision}.{suffix}"


@dataclass(frozen=True)
class BackendRow:
    """What is known of a backend without importing it.

    Attributes:
        name: in manifests, arguments and messages.
        where: "module:class".
        file: the artifact that it runs in an engine folder; "{precision}" stands for fp32 or fp16, "{suffix}" for the
            TensorRT library's.
        order: "cpu" or "cuda" -> its place among what "auto" tries on such a device, the fastest first. It is not made
            for a device that has no place here.
        widest_bytes: what it takes on a GPU for each value of the network's widest tensor, where it makes that tensor
            for all environments together.
    """

    name: str
    where: str
    file: str
    order: Mapping[str, int]
    widest_bytes: int = 0


# The orders are by speed. On a CPU ``onnx`` takes half of ``torch``'s time for few environments, and the same for
# thousands; on a GPU ``fused`` takes a fifth of it (docs/performance.md), the two are level, and ``torch`` shares the
# caller's stream and needs no other library. ``trt`` makes nine kernels of the network where ``torch`` launches some
# thirty; it has not been timed (docs/tensorrt.md). ``torch`` holds the widest tensor twice, ``fused`` makes no such
# tensor, ``trt`` what its plan says.
_ROWS = (
    BackendRow("torch", "cmg_runtime.backends.torch:TorchBackend", WEIGHTS_FILE, {"cpu": 1, "cuda": 2}, widest_bytes=8),
    BackendRow(
        "torchscript",
        "cmg_runtime.backends.torchscript:TorchScriptBackend",
        TORCHSCRIPT_FILE,
        {"cpu": 2, "cuda": 4},
        widest_bytes=4,
    ),
    BackendRow("onnx", "cmg_runtime.backends.onnx:OnnxBackend", ONNX_FILE, {"cpu": 0, "cuda": 3}, widest_bytes=4),
    BackendRow("fused", "cmg_runtime.backends.fused.backend:FusedBackend", WEIGHTS_FILE, {"cuda": 0}),
    BackendRow("trt", "cmg_runtime.backends.trt.backend:TrtBackend", PLAN_FILE, {"cuda": 1}),
)

BACKENDS: Dict[str, BackendRow] = {row.name: row for row in _ROWS}
"""Every backend by its name. All else that names them follows from here."""


class Backend(NotCopied):
    """One artifact, loaded and ready to run on one device.

    Attributes:
        capturable: whether it is worth trying to record :meth:`step` and :meth:`rollout` in a CUDA graph, on a CUDA
            device.
        library: what runs the artifact, with its version, where several could; for ``engine.selection``.
        batches: rows up to which a :meth:`rollout` takes the same time, and with one more a good deal longer.
    """

    capturable: bool
    library: str = ""
    batches: Tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: Device) -> Backend:
        """Read the artifact's file, checked against its hash, and make it ready.

        Args:
            num_envs: the batch that :meth:`step` will mostly be called with.

        Raises:
            BackendUnavailable: this backend cannot run here, or not on this device.
            EngineError: the artifact's file is missing or is not what the manifest says.
        """
        raise NotImplementedError

    @classmethod
    def how_to_get(cls, device: Device) -> str:
        """What to do where a folder has no artifact that this backend could run on this device; after a semicolon."""
        return "ask for one of these that passed, or rebuild it"

    def step(self, motion: Tensor, command: Tensor, out: Tensor) -> None:
        """Write the next motion state into ``out``.

        Enqueued on the device's current stream; the host does not wait. No gradient is recorded.

        Args:
            motion: [N, motion_dim] float32, rad and rad/s, contiguous, on the backend's device. Any N.
            command: [N, command_dim] float32, m/s, m/s, rad/s, contiguous.
            out: [N, motion_dim] float32, contiguous, sharing no memory with the inputs.
        """
        raise NotImplementedError

    def guarded_step(
        self, motion: Tensor, command: Tensor, out: Tensor, guard: Guard, columns: Tensor, ahead: int
    ) -> None:
        """:meth:`step`, and then :meth:`cmg_runtime.guard.Guard.apply`. A backend may have a faster way to the same."""
        self.step(motion, command, out)
        guard.apply(out, columns, ahead)

    def rollout(
        self,
        motion: Tensor,
        commands: Tensor,
        out: Tensor,
        guard: Optional[Guard] = None,
        columns: Optional[Tensor] = None,
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
    module, _, attribute = BACKENDS[name].where.partition(":")
    return getattr(importlib.import_module(module), attribute)
