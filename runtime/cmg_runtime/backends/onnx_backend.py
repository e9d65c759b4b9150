"""The ``onnx`` backend: ONNX Runtime, bound to torch's memory, on its CPU or its CUDA provider."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmg_runtime.errors import BackendUnavailable, EngineError, first_line
from cmg_runtime.manifest import Artifact, Manifest, read_verified

try:
    import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"onnxruntime cannot be imported ({first_line(error)}); `pip install onnxruntime` (onnxruntime-gpu for CUDA)"
    ) from None


class OnnxBackend:
    """See :class:`cmg_runtime.backends.Backend`.

    Nothing is copied on the way in or out: ONNX Runtime reads and writes the tensors' own memory. On CUDA it
    works on a stream of its own, which waits for the caller's and is waited for by it, so the host never waits.
    """

    def __init__(self, session: Any, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._session = session
        self._device = device
        self._stream = stream
        self._binding = session.io_binding()
        self._bound_to: tuple[Any, ...] | None = None
        self._run_options = onnxruntime.RunOptions()
        if stream is not None:
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> OnnxBackend:
        content = read_verified(folder, artifact)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that spin between frames gain nothing here and take cores from the simulator.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            session = onnxruntime.InferenceSession(content, options, providers=_providers(device, stream))
        except BackendUnavailable:
            raise
        except Exception as error:  # its exception types are not public
            raise BackendUnavailable(
                f"onnxruntime {onnxruntime.__version__} cannot run {artifact.file} ({first_line(error)}); "
                "choose another backend"
            ) from None
        if stream is not None and session.get_providers()[0] != "CUDAExecutionProvider":
            raise BackendUnavailable(
                "onnxruntime's CUDA provider did not start, probably for want of a CUDA or cuDNN library; "
                "see its log, or choose another backend"
            )
        return cls(session, device, stream)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        self._bind(motion, command, out)
        if self._stream is None:
            self._session.run_with_iobinding(self._binding, self._run_options)
            return
        with torch.cuda.device(self._device):  # which onnxruntime may change for this thread
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            self._session.run_with_iobinding(self._binding, self._run_options)
            caller.wait_stream(self._stream)

    def _bind(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        tensors = {"motion": motion, "command": command, "next_motion": out}
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() or tensor.dtype != torch.float32 or tensor.device != self._device:
                raise EngineError(
                    f"{name} is {tensor.dtype} on {tensor.device}; expected contiguous float32 on {self._device}"
                )
        addresses = tuple((tensor.data_ptr(), tensor.shape) for tensor in tensors.values())
        if addresses == self._bound_to:
            return
        self._bound_to = None
        for name, tensor in tensors.items():
            bind = self._binding.bind_output if name == "next_motion" else self._binding.bind_input
            bind(name, self._device.type, self._device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._bound_to = addresses


def _providers(device: torch.device, stream: torch.cuda.Stream | None) -> list[Any]:
    if stream is None:
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            "this onnxruntime has no CUDA provider; `pip install onnxruntime-gpu`, or use device='cpu'"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA libraries that came with torch
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    options: dict[str, str] = {
        "device_id": str(device.index or 0),
        "use_tf32": "0",  # on by default
        "user_compute_stream": str(stream.cuda_stream),
    }
    return [("CUDAExecutionProvider", options)]
