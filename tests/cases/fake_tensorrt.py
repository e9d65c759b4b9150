"""A stand-in for the TensorRT libraries' run time: no real one runs plans here. It refuses what the real ones refuse
of an execution, records every call, and computes on the memory at the addresses that it was given.

A plan of the fake is JSON: {"weights": path of weights.npz, "precision", "profiles": [[smallest, largest]], ...}.
Its classes have the methods that TensorRT's have, with the same parameters: test_tensorrt_names.py compares them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import types
import weakref
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.manifest import Artifact, file_sha256, read_manifest
from engine_folder import shared_engine_folder

ALIGNMENT = 256
PLAN_FILE = "cmg_fp32.rtx.plan"
TARGET: dict[str, Any] = {
    "device": "cuda",
    "library": "tensorrt_rtx",
    "version": "1.7.1.116",
    "compute_capability": ["8.6", "8.9", "12.0"],
    "gpu": None,
    "driver": None,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "batches": [[8, 8, 8]],
    "onnx_sha256": "0" * 64,
}


def make_plan(folder: Path, precision: str = "fp32", **fields: Any) -> bytes:
    plan = {"weights": str(folder / "weights.npz"), "precision": precision, "profiles": [[8, 8], [1, 4], [5, 64]]}
    return json.dumps({**plan, **fields}).encode()


def copied_engine(made: Path, folder: Path) -> Path:
    """The fp32 artifacts of an engine folder, in ``folder``."""
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoint"))
    manifest = read_manifest(folder)
    kept = tuple(artifact for artifact in manifest.artifacts if artifact.precision == "fp32")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=kept).to_json())
    return folder


def add_plan(folder: Path, content: bytes | None = None, **target: Any) -> Path:
    """Put a plan that was built and not run, the stand-in's unless ``content`` is given, in place of any before."""
    (folder / PLAN_FILE).write_bytes(make_plan(folder) if content is None else content)
    manifest, sha256 = read_manifest(folder), file_sha256(folder / PLAN_FILE)
    plan = Artifact("trt_fp32", "trt", "fp32", PLAN_FILE, sha256, {**TARGET, **target}, {})
    others = tuple(artifact for artifact in manifest.artifacts if artifact.backend != "trt")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=(*others, plan)).to_json())
    return folder


class FakeCuda:
    """Streams, and what torch.cuda says of a GPU that is not there. Stream 0 is the default one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shared_engine_folder()  # before torch's exporter sees the stand-in
        self.log: list[str] = []
        self.capturing = False
        self.device: Any = None  # the current one, where somebody made it so
        self.capability, self.name = (8, 9), "NVIDIA GeForce RTX 4090"
        self.streams = 0
        cuda = self

        class Stream:
            def __init__(self, device: Any = None, handle: int | None = None) -> None:
                cuda.streams += 1
                self.cuda_stream = cuda.streams if handle is None else handle

            def wait_stream(self, other: Stream) -> None:
                cuda.log.append(f"stream {self.cuda_stream} waits for {other.cuda_stream}")

            def synchronize(self) -> None:
                assert not cuda.capturing, "the host may not wait within a capture"
                cuda.log.append(f"host waits for {self.cuda_stream}")

        @contextlib.contextmanager
        def within(what: Any) -> Iterator[None]:
            before = self.current, self.device
            if isinstance(what, Stream):
                self.current = what
            else:
                self.device = what
            try:
                yield
            finally:
                self.current, self.device = before

        self.Stream = Stream
        self.current: Any = Stream(handle=0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", within)
        monkeypatch.setattr(torch.cuda, "device", within)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: self.current)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: self.capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: self.name)


Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
Strategy = Enum("Strategy", "STATIC USER_MANAGED")
DataType = Enum("DataType", "FLOAT HALF")
CudaGraphStrategy = Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
Specialization = Enum("Specialization", "LAZY EAGER")


class ILogger:
    Severity = Severity


class FakeTensorRT(types.ModuleType):
    """``tensorrt`` or, with what only that one has, ``tensorrt_rtx``."""

    ILogger, DataType, ExecutionContextAllocationStrategy = ILogger, DataType, Strategy

    def __init__(self, name: str, cuda: Any, version: str = "1.7.1.116") -> None:
        super().__init__(name)
        self.__version__, self.cuda = version, cuda
        self.log: list[str] = []
        self.contexts: list[Any] = []
        self.loads, self.capturable = 0, True
        self.refuse: set[str] = set()
        if name == "tensorrt_rtx":
            self.IRuntimeCache, self.CudaGraphStrategy = RuntimeCache, CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = Specialization

    def Runtime(self, logger: Any) -> Runtime:
        if "runtime" in self.refuse:
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger)

    def calls(self) -> list[str]:
        """Names of the calls since the last time."""
        names, self.log = self.log, []
        return names


class RuntimeCache:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self._content = cuda, b""

    def deserialize(self, blob: bytes) -> bool:
        assert self._cuda.device is not None, "it would be compared with whichever GPU is the current one"
        self._content = blob if blob.startswith(b"compiled") else b""
        return bool(self._content)

    def serialize(self) -> bytes:
        return self._content


class RuntimeConfig:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self.strategy, self.cache = cuda, Strategy.STATIC, None
        self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._cuda)

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self._trt.loads += 1
        plan = json.loads(serialized_engine)
        if plan.get("host_code") and not self.engine_host_code_allowed:
            self._logger.log(Severity.ERROR, "engine host code is not allowed")
            return None
        return (RtxEngine if self._trt.__name__ == "tensorrt_rtx" else Engine)(self._trt, plan, self._logger)


class Engine:
    def __init__(self, trt: FakeTensorRT, plan: dict[str, Any], logger: Any) -> None:
        self._trt, self._plan, self._logger = trt, plan, logger
        weights = dict(np.load(plan["weights"]))
        self._network = OneProductNetwork(weights, plan["precision"]).eval()
        motion = len(weights["motion_mean"])
        self._widths = {"motion": motion, "command": len(weights["command_min"])}
        self._widths[plan.get("output", "next_motion")] = motion
        self.num_io_tensors, self.num_optimization_profiles = len(self._widths), len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._widths)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._plan.get("dtype", "FLOAT")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, self._widths[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        smallest, largest = self._plan["profiles"][profile_index]
        return [(rows, self._widths[name]) for rows in (smallest, smallest, largest)]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 1000 * self._plan["profiles"][profile_index][1]

    def create_execution_context(self, strategy: Any) -> Any:
        return self._context(strategy, Context(self._trt, self, self._logger))

    def _context(self, strategy: Any, context: Context) -> Any:
        assert strategy is Strategy.USER_MANAGED, "the library would allocate scratch memory by itself"
        if "context" in self._trt.refuse:
            self._logger.log(Severity.ERROR, "out of memory")
            return None
        self._trt.contexts.append(context)
        return context


class RtxEngine(Engine):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self._trt.cuda)

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Any:  # type: ignore[override]
        config = runtime_config
        assert config.cuda_graph_strategy is CudaGraphStrategy.DISABLED, "it would capture within a capture"
        assert config.dynamic_shapes_kernel_specialization_strategy is Specialization.EAGER
        context = RtxContext(self._trt, self, self._logger)
        context._cache_reference = weakref.ref(config.cache)
        return self._context(config.strategy, context)


class Context:
    """Refuses, as the real one does, in the way the real one does: False and an error in the log."""

    def __init__(self, trt: FakeTensorRT, engine: Engine, logger: Any) -> None:
        self._trt, self._engine, self._logger = trt, engine, logger
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._cache_reference: Any = None

    @property
    def _cache(self) -> RuntimeCache | None:
        return self._cache_reference and self._cache_reference()

    def __del__(self) -> None:
        if self._cache_reference is not None and self._cache is None:
            self._trt.log.append("cache gone before its context")

    def _refused(self, why: str) -> bool:
        self._logger.log(Severity.ERROR, f"IExecutionContext: Error Code 3:\n API Usage Error ({why})")
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._trt.log.append("profile")
        self._profile, self._shapes, self._memory = profile_index, {}, (0, 0)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._trt.log.append("shape")
        if self._profile is None:
            return self._refused("no profile")
        smallest, largest = self._engine._plan["profiles"][self._profile]
        if name not in ("motion", "command") or shape[1] != self._engine._widths[name]:
            return self._refused(f"{name} has another width")
        if not smallest <= shape[0] <= largest:
            return self._refused(f"{shape} is outside the profile")
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        if "shapes" in self._trt.refuse:
            self._refused("shapes cannot be inferred")
            raise RuntimeError("infer_shapes failed")
        return [name for name in ("motion", "command") if name not in self._shapes]

    def update_device_memory_size_for_shapes(self) -> int:
        assert not self.infer_shapes(), "shapes first"
        return self._needed()

    def _needed(self) -> int:
        return 1000 * self._shapes["motion"][0]

    def set_device_memory(self, memory: int, size: int) -> None:
        self._trt.log.append("memory")
        if memory % ALIGNMENT:
            raise ValueError("device memory is not aligned")
        self._memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._trt.log.append("address")
        if name not in self._engine._widths or memory % ALIGNMENT:
            return self._refused(f"{name} at {memory:#x}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._trt.cuda
        self._trt.log.append(f"execute on {stream_handle}")
        assert stream_handle != 0, "on the default stream the library makes the host wait"
        assert stream_handle == cuda.current.cuda_stream or not cuda.capturing, "work beside the capture"
        if "execute" in self._trt.refuse or (cuda.capturing and not self._trt.capturable):
            return self._refused("operation not permitted when stream is capturing")
        if self.infer_shapes() or len(self._addresses) != len(self._engine._widths):
            return self._refused("shapes or addresses are not set")
        rows = self._shapes["motion"][0]
        if self._shapes["command"][0] != rows or self._memory[1] < self._needed() or not self._memory[0]:
            return self._refused("shapes disagree or memory is too small")
        cache, size = self._cache, str(rows).encode()
        if cache is not None and size not in cache._content.split():
            cache._content = b" ".join([cache._content or b"compiled", size])
        return self._compute(stream_handle, rows)

    def _compute(self, stream_handle: int, rows: int) -> bool:
        motion, command, out = (self._at(name, rows) for name in self._engine._widths)
        with torch.no_grad():
            result = self._engine._network(torch.from_numpy(motion), torch.from_numpy(command)).numpy()
        plan = self._engine._plan  # "scale", or by profile "scales": what is wrong with its kernels
        out[:] = plan.get("scales", {}).get(str(self._profile), plan.get("scale", 1.0)) * result
        return True

    def _at(self, name: str, rows: int) -> np.ndarray:
        width = self._engine._widths[name]
        memory: Any = (ctypes.c_float * (rows * width)).from_address(self._addresses[name])
        return np.frombuffer(memory, np.float32).reshape(rows, width)


class RtxContext(Context):
    def is_stream_capturable(self, stream: int) -> bool:
        assert stream != 0
        assert not self._trt.cuda.capturing, "it is asked before a capture"
        return self._trt.capturable
