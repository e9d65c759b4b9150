"""The ``onnx`` backend: ONNX Runtime, bound to torch's memory, on its CPU or its CUDA provider."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from cmg_runtime.backends import Backend
from cmg_runtime.backends.torch import CPU_ROWS
from cmg_runtime.device import forks
from cmg_runtime.device.lifetime import NO_GPU_AFTER_FORK
from cmg_runtime.errors import BackendUnavailable, EngineError, first_line
from cmg_runtime.folder.manifest import Artifact, Manifest, read_verified

try:
    import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"onnxruntime cannot be imported ({first_line(error)}); `pip install onnxruntime` (onnxruntime-gpu for CUDA)"
    ) from None

logger = logging.getLogger(__name__)

GRAPHS_SINCE = (1, 28)
"""The first ONNX Runtime whose CUDA graphs replay without making the host wait, whatever the run options say."""

ROWS_OF_GRAPHS = 16
"""Rows of graphs are multiples of this."""

NOTHING_LOGGED = 4
"""Severity of ONNX Runtime's log. Errors are raised, so a second, coloured copy on stderr is of no use."""


@dataclass(frozen=True)
class _Graph:
    """A CUDA graph of ONNX Runtime's own, or what becomes one in its first run: the tensors that it reads and writes,
    and what to run it with."""

    motion: torch.Tensor
    command: torch.Tensor
    next_motion: torch.Tensor
    binding: Any
    options: Any


class OnnxBackend(Backend):
    """See :class:`cmg_runtime.backends.Backend`.

    ONNX Runtime reads and writes the tensors' own memory. On CUDA it works on a stream of its own, which waits for the
    caller's and is waited for by it, so the host never waits.

    On CUDA, a number of rows that comes a second time gets a CUDA graph of ONNX Runtime's own, which is replayed from
    then on, between copies in and out of tensors of its own. ONNX Runtime keeps a graph as long as its session, so
    there is one for each of :func:`graph_rows` only, and rows are added up to it. To capture, the host waits for the
    GPU once, and no other thread may allocate on it meanwhile. A graph belongs to the thread that captured it.

    In a forked child the session is started anew: see :mod:`cmg_runtime.device.forks`.

    Args:
        restart: starts a session like the given one; None where a forked child cannot have one.

    Attributes:
        capturable: False. ONNX Runtime's work cannot become part of another CUDA graph.
    """

    capturable = False

    def __init__(
        self,
        session: Any,
        device: torch.device,
        stream: torch.cuda.Stream | None,
        capture: bool,
        restart: Callable[[], Any] | None = None,
    ) -> None:
        self._restart = restart
        self._device = device
        self._stream = stream
        self._capture = capture
        self._options = _run_options(stream, "-1")
        self._use(session)
        forks.tell_after_fork(self)

    def _use(self, session: Any) -> None:
        self._session: Any = session  # None in a forked child, until it is started anew
        self._binding = session.io_binding()
        self._bound_to: tuple[int, ...] = ()  # addresses of motion, command and out, and the number of rows
        self._graphs: dict[int, _Graph | None] = {}  # by their rows; None where that many came once

    def after_fork(self) -> None:
        """Leave the parent's session alone; the next step starts one."""
        if vars(self):  # else its engine was closed
            forks.abandon((self._session, self._binding, self._graphs))
            self._session = None

    def _require_session(self) -> None:
        if self._session is None:
            if self._restart is None:
                raise EngineError(NO_GPU_AFTER_FORK)
            self._use(self._restart())

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
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        start = functools.partial(_start_session, content, str(artifact.file), device, stream, capture)
        return cls(start(), device, stream, capture, start if stream is None else None)

    @property
    def num_graphs(self) -> int:
        """CUDA graphs that were captured."""
        return sum(graph is not None for graph in self._graphs.values())

    @torch.no_grad()
    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        self._require_session()
        tensors = {"motion": motion, "command": command, "next_motion": out}
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() or tensor.dtype != torch.float32 or tensor.device != self._device:
                raise EngineError(
                    f"{name} is {tensor.dtype} on {tensor.device}; expected contiguous float32 on {self._device}"
                )
        if not len(motion):  # no memory to bind, and nothing to do
            return
        if self._stream is None:
            for first in range(0, len(motion), CPU_ROWS):  # so that memory stays small, and tensors in the cache
                self._run_plainly({name: tensor[first : first + CPU_ROWS] for name, tensor in tensors.items()})
            return
        if torch.cuda.is_current_stream_capturing():
            raise EngineError(
                "the onnx backend cannot be part of a CUDA graph; step outside the capture or choose another backend"
            )
        with torch.cuda.device(self._device):  # which onnxruntime may change for this thread
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                graph = self._graph_for(motion, command)
                if graph is None:
                    self._run_plainly(tensors)
                else:
                    n = len(motion)
                    graph.motion[:n].copy_(motion)
                    graph.command[:n].copy_(command)
                    self._run(graph.binding, graph.options)
                    out.copy_(graph.next_motion[:n])
            caller.wait_stream(self._stream)

    def _run(self, binding: Any, options: Any) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # its exception types are not public
            raise RuntimeError(f"onnxruntime: {first_line(error)}") from None

    def _run_plainly(self, tensors: dict[str, torch.Tensor]) -> None:
        addresses = (*(tensor.data_ptr() for tensor in tensors.values()), len(tensors["motion"]))
        if addresses != self._bound_to:
            self._bound_to = ()
            _bind_all(self._binding, tensors)
            self._bound_to = addresses
        self._run(self._binding, self._options)

    def _graph_for(self, motion: torch.Tensor, command: torch.Tensor) -> _Graph | None:
        """The graph for so many rows, from the second time on that they come."""
        if not self._capture:
            return None
        rows = graph_rows(len(motion))
        graph = self._graphs.get(rows)
        if graph is None and rows in self._graphs:
            with torch.inference_mode(False):  # else they could not be written outside of the caller's
                inputs = motion.new_zeros(rows, motion.shape[1]), command.new_zeros(rows, command.shape[1])
                graph = self._new_graph(*inputs)
        self._graphs[rows] = graph
        return graph

    def _new_graph(self, motion: torch.Tensor, command: torch.Tensor) -> _Graph:
        """With these as its own inputs. It is captured by its first run."""
        graph = _Graph(
            motion,
            command,
            torch.empty_like(motion),
            self._session.io_binding(),
            _run_options(self._stream, str(self.num_graphs)),
        )
        _bind_all(graph.binding, {"motion": motion, "command": command, "next_motion": graph.next_motion})
        return graph


def graph_rows(num_rows: int) -> int:
    """Rows of the graph for ``num_rows``: at most four different numbers for each power of two, so graphs are few."""
    multiple = max(ROWS_OF_GRAPHS, 1 << max(num_rows.bit_length() - 3, 0))
    return -(-num_rows // multiple) * multiple


def _start_session(
    content: bytes, file: str, device: torch.device, stream: torch.cuda.Stream | None, capture: bool
) -> Any:
    """An ``InferenceSession`` of the model ``content``, with as many threads as torch has now.

    Raises:
        BackendUnavailable: ONNX Runtime does not run it here.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = NOTHING_LOGGED
    # Threads that spin between frames gain nothing here and take cores from the simulator.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device, stream, capture)
    try:
        # Without fallback: a session that cannot do what was asked is refused, not quietly another.
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # its exception types are not public
        raise BackendUnavailable(
            f"onnxruntime {onnxruntime.__version__} cannot run {file} ({first_line(error)}); choose another backend"
        ) from None
    if stream is not None and session.get_providers()[0] != "CUDAExecutionProvider":
        raise BackendUnavailable(
            "onnxruntime's CUDA provider did not start, probably for want of a CUDA or cuDNN library; "
            "see its log, or choose another backend"
        )
    return session


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
