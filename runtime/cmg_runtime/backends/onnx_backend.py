"""The ``onnx`` backend: ONNX Runtime, bound to torch's memory, on its CPU or its CUDA provider."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmg_runtime.backends.torch_backend import CPU_ROWS
from cmg_runtime.errors import BackendUnavailable, EngineError, first_line
from cmg_runtime.manifest import Artifact, Manifest, read_verified

try:
    import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"onnxruntime cannot be imported ({first_line(error)}); `pip install onnxruntime` (onnxruntime-gpu for CUDA)"
    ) from None

logger = logging.getLogger(__name__)

GRAPHS_SINCE = (1, 28)
"""The first ONNX Runtime whose CUDA graphs replay without making the host wait, whatever the run options say."""

MAX_GRAPHS = 64
"""Graphs that are captured at most: ONNX Runtime keeps each as long as its session."""

MAX_SEEN = 1024
"""Tensors of uses not captured that are remembered at most."""

NOTHING_LOGGED = 4
"""Severity of ONNX Runtime's log. Errors are raised, so a second, coloured copy on stderr is of no use."""

_Addresses = tuple  # of motion, command and out, and the number of rows


class OnnxBackend:
    """See :class:`cmg_runtime.backends.Backend`.

    Nothing is copied on the way in or out: ONNX Runtime reads and writes the tensors' own memory. On CUDA it
    works on a stream of its own, which waits for the caller's and is waited for by it, so the host never waits.

    On CUDA, tensors that come a second time, at the same addresses and with the same number of rows, get a CUDA graph
    of ONNX Runtime's own, which is replayed from then on; others run kernel by kernel. To capture, the host waits for
    the GPU once, and no other thread may allocate on it meanwhile. A graph belongs to the thread that captured it.

    Attributes:
        capturable: False. ONNX Runtime's work cannot become part of another CUDA graph.
    """

    capturable = False

    def __init__(self, session: Any, device: torch.device, stream: torch.cuda.Stream | None, capture: bool) -> None:
        self._session = session
        self._device = device
        self._stream = stream
        self._capture = capture
        self._binding = session.io_binding()
        self._bound_to: _Addresses | None = None
        self._options = _run_options(stream, "-1")
        self._graphs: dict[_Addresses, tuple[Any, Any]] = {}  # the binding and the run options of each
        self._seen: set[_Addresses] = set()

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> OnnxBackend:
        content = read_verified(folder, artifact)
        if device.type != "cuda":
            return cls._start(content, artifact, device, capture=False)
        with torch.cuda.device(device):  # which onnxruntime changes for this thread when a session starts
            if _version() >= GRAPHS_SINCE:
                try:
                    return cls._start_with_graphs(content, artifact, manifest, device)
                except BackendUnavailable as error:
                    logger.info("%s runs without CUDA graphs: %s", artifact.name, error)
            return cls._start(content, artifact, device, capture=False)

    @classmethod
    def _start_with_graphs(
        cls, content: bytes, artifact: Artifact, manifest: Manifest, device: torch.device
    ) -> OnnxBackend:
        """In a frame of its own, so that a session which cannot capture is freed before another one starts."""
        backend = cls._start(content, artifact, device, capture=True)
        _try_capture(backend, manifest)
        return backend

    @classmethod
    def _start(cls, content: bytes, artifact: Artifact, device: torch.device, capture: bool) -> OnnxBackend:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = NOTHING_LOGGED
        # Threads that spin between frames gain nothing here and take cores from the simulator.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        providers = _providers(device, stream, capture)
        try:
            # Without fallback: a session that cannot do what was asked is refused, not quietly another.
            session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
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
        return cls(session, device, stream, capture)

    @property
    def num_graphs(self) -> int:
        """CUDA graphs that were captured."""
        return len(self._graphs)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        tensors = {"motion": motion, "command": command, "next_motion": out}
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() or tensor.dtype != torch.float32 or tensor.device != self._device:
                raise EngineError(
                    f"{name} is {tensor.dtype} on {tensor.device}; expected contiguous float32 on {self._device}"
                )
        if self._stream is None:
            for first in range(0, len(motion), CPU_ROWS):  # so that memory stays small, and tensors in the cache
                self._run({name: tensor[first : first + CPU_ROWS] for name, tensor in tensors.items()})
            return
        if torch.cuda.is_current_stream_capturing():
            raise EngineError(
                "the onnx backend cannot be part of a CUDA graph; step outside the capture or choose another backend"
            )
        with torch.cuda.device(self._device):  # which onnxruntime may change for this thread
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            self._run(tensors)
            caller.wait_stream(self._stream)

    def _run(self, tensors: dict[str, torch.Tensor]) -> None:
        try:
            self._session.run_with_iobinding(*self._bind(tensors))
        except Exception as error:  # its exception types are not public
            raise RuntimeError(f"onnxruntime: {first_line(error)}") from None

    def _bind(self, tensors: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """The binding of these tensors, and the options to run it with: of a graph, or of a plain run."""
        addresses = (*(tensor.data_ptr() for tensor in tensors.values()), len(tensors["motion"]))
        graph = self._graphs.get(addresses)
        if graph is not None:
            return graph
        if self._capture and addresses in self._seen and len(self._graphs) < MAX_GRAPHS:
            graph = (self._session.io_binding(), _run_options(self._stream, str(len(self._graphs))))
            _bind_all(graph[0], tensors)
            self._graphs[addresses] = graph  # captured by the run that follows
            return graph
        if addresses != self._bound_to:
            self._bound_to = None
            _bind_all(self._binding, tensors)
            self._bound_to = addresses
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
        if self._capture:
            self._seen.add(addresses)
        return self._binding, self._options


def _bind_all(binding: Any, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        bind = binding.bind_output if name == "next_motion" else binding.bind_input
        device = tensor.device
        bind(name, device.type, device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())


def _run_options(stream: torch.cuda.Stream | None, graph_id: str) -> Any:
    """Options of a run on ``stream``: ``graph_id`` names a graph to capture or replay; "-1" is neither."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = NOTHING_LOGGED
    if stream is not None:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def _try_capture(backend: OnnxBackend, manifest: Manifest, rows: int = 16) -> None:
    """Capture one graph, of a few rows.

    Raises:
        BackendUnavailable: it cannot be captured.
    """
    motion = torch.zeros(rows, manifest.sizes.motion_dim, device=backend._device)
    command, out = motion.new_zeros(rows, manifest.sizes.command_dim), torch.empty_like(motion)
    try:
        for _ in range(2):
            backend.step(motion, command, out)
        torch.cuda.synchronize(backend._device)
    except Exception as error:  # onnxruntime's exception types are not public
        raise BackendUnavailable(f"a graph cannot be captured ({first_line(error)})") from None


def _version() -> tuple[int, int]:
    major, minor = onnxruntime.__version__.split(".")[:2]
    return int(major), int(minor)


def _providers(device: torch.device, stream: torch.cuda.Stream | None, capture: bool) -> list[Any]:
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
        "enable_cuda_graph": "1" if capture else "0",
    }
    return [("CUDAExecutionProvider", options)]
