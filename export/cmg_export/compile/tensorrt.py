"""ONNX -> TensorRT plan, with whichever of the two TensorRT libraries can build here.

``tensorrt_rtx`` builds without a GPU, for RTX cards; ``tensorrt`` builds on the GPU that will run the plan.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from cmg_export.errors import ExportError
from CMG_Ref import interrupts
from cmg_runtime.backends.trt import library as trt_library
from cmg_runtime.backends.trt.plan import driver_version
from cmg_runtime.errors import BackendUnavailable, first_line
from cmg_runtime.folder.kept_files import naming
from cmg_runtime.folder.manifest import file_sha256

SMALL_BATCH, LARGE_BATCH = 256, 8192
"""Beside the profile for exactly num_envs, plans have one for batches up to 256 and one for those up to 8192, or to
num_envs where that is more."""

TIMING_CACHE = "tensorrt.timing_cache"
"""File of the engine folder with the library's measurements; the next build of the folder reads it."""

_MIB = 1 << 20


class PlanError(Exception):
    """TensorRT could not build a plan. One line."""


@dataclass(frozen=True)
class PlanOptions:
    """How TensorRT plans are built."""

    library: Literal["auto", "tensorrt", "tensorrt_rtx", "none"] = "auto"
    """auto: tensorrt where it and a CUDA GPU are there, else tensorrt_rtx, else none."""

    targets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CAPABILITY...")] = trt_library.RTX_CARDS
    """Compute capabilities that tensorrt_rtx builds for (8.0, 8.6, 8.9, 12.0, 12.1); tensorrt builds for this GPU."""

    workspace_mib: Annotated[int | None, tyro.conf.arg(metavar="MIB")] = None
    """Most scratch memory that a plan may take; a plan that needs more is not built. Without it, what the GPU has."""

    version_compatible: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=("--version-compatible",))
    ] = False
    """tensorrt: newer versions of the same major version load the plan, and so does the lean runtime (45 MB). It has
    fewer kernels to choose from and may be slower, and is larger by a copy of that runtime."""

    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = "none"
    """tensorrt: which other GPUs load the plan. Fewer kernels to choose from."""

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ExportError: one line.
        """
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ExportError(f"--tensorrt.workspace-mib is {self.workspace_mib}; expected at least 1")
        for target in self.targets:
            if not re.fullmatch(r"\d{1,2}\.\d", target):
                raise ExportError(f"--tensorrt.targets has {target!r}; expected compute capabilities such as 8.9")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ExportError("--tensorrt.targets is empty or names one twice; expected each capability once")


@dataclass(frozen=True)
class Flavour:
    """The library that builds here, and what for."""

    library: str
    version: str
    compute_capability: tuple[str, ...]
    gpu: str | None
    trt: Any = field(repr=False, compare=False)

    @property
    def suffix(self) -> str:
        """Of plan files."""
        return "rtx.plan" if self.library == "tensorrt_rtx" else "trt.plan"


def find_flavour(options: PlanOptions = PlanOptions()) -> tuple[Flavour | None, str]:
    """The library to build with, or None and the reason in one line.

    Raises:
        ExportError: the library that was asked for by name cannot build here what was asked.
    """
    if options.library == "none":
        return None, "not asked for"
    wanted = tuple(trt_library.RUNNERS) if options.library == "auto" else (options.library,)
    reasons = []
    for library in wanted:
        reason = trt_library.limits(library, options.version_compatible, options.hardware_compatibility)
        if reason is None and not trt_library.builds_without_gpu(library) and not torch.cuda.is_available():
            reason = f"{library} builds only where its GPU is, and torch sees none"
        if reason is None:
            try:
                return _flavour(library, options), ""
            except BackendUnavailable as error:
                reason = str(error)
        reasons.append(reason)
    if options.library != "auto":
        raise ExportError(f"{reasons[0]}; choose another --tensorrt.library")
    return None, "; ".join(reasons)


def _flavour(library: str, options: PlanOptions) -> Flavour:
    trt = trt_library.import_library(library)
    if trt_library.builds_without_gpu(library):
        return Flavour(library, trt.__version__, options.targets, None, trt)
    major, minor = torch.cuda.get_device_capability()
    return Flavour(library, trt.__version__, (f"{major}.{minor}",), torch.cuda.get_device_name(), trt)


def build_plan(
    flavour: Flavour,
    onnx_path: Path,
    num_envs: int,
    path: Path,
    options: PlanOptions = PlanOptions(),
) -> dict[str, Any]:
    """Build a strongly typed plan: its precision is that of the ONNX graph, and float32 products are not TF32.

    A timing cache in the folder of ``path`` is read, and kept there, where the library measures anything.

    Args:
        onnx_path: a file written by ``export_onnx``.
        num_envs: the batch that the plan is tuned for; it takes any from 1 to ``max(num_envs, LARGE_BATCH)``.
        path: the file to write.

    Returns:
        The artifact's ``target`` for the manifest.

    Raises:
        PlanError: the library refused the graph or the build.
        KeyboardInterrupt: the build was interrupted.
    """
    with interrupts.held() as interrupted:  # TensorRT's callbacks swallow what a signal raises in them
        _build(flavour, onnx_path, num_envs, path, options, interrupted)
    return {
        "device": "cuda",
        "library": flavour.library,
        "version": flavour.version,
        "compute_capability": list(flavour.compute_capability),
        "gpu": flavour.gpu,
        "driver": driver_version() if flavour.gpu else None,
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "batches": [list(batch) for batch in profile_batches(num_envs)],
        "onnx_sha256": file_sha256(onnx_path),
    }


def _build(
    flavour: Flavour,
    onnx_path: Path,
    num_envs: int,
    path: Path,
    options: PlanOptions,
    interrupted: Callable[[], bool],
) -> None:
    trt = flavour.trt
    logger = trt_library.make_logger(trt)
    builder = trt_library.make(trt.Builder, logger)
    if builder is None:
        raise _plan_error(flavour, onnx_path, f"it does not start: {logger.said()}")
    network = builder.create_network(trt_library.network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        raise _plan_error(flavour, onnx_path, parser.get_error(0).desc() if parser.num_errors else logger.said())
    config = builder.create_builder_config()
    try:
        trt_library.configure_build(
            trt, config, flavour.compute_capability, options.version_compatible, options.hardware_compatibility
        )
    except ValueError as error:
        raise _plan_error(flavour, onnx_path, first_line(error)) from None
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    for smallest, usual, largest in profile_batches(num_envs):
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            width = tensor.shape[1]
            profile.set_shape(tensor.name, (smallest, width), (usual, width), (largest, width))
        if config.add_optimization_profile(profile) < 0:
            raise _plan_error(flavour, onnx_path, logger.said())
    cache = _attach_timing_cache(flavour, config, path.with_name(TIMING_CACHE))
    monitor = make_monitor(trt, interrupted)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    monitor.finish()
    if plan is None:
        raise _plan_error(flavour, onnx_path, logger.said())
    with naming(path):
        path.write_bytes(bytes(plan))
    if cache is not None:
        with naming(path.with_name(TIMING_CACHE)):
            path.with_name(TIMING_CACHE).write_bytes(bytes(config.get_timing_cache().serialize()))


def profile_batches(num_envs: int) -> list[tuple[int, int, int]]:
    """(smallest, usual, largest) batch of each optimisation profile: exactly num_envs, small ones, large ones."""
    return [
        (num_envs, num_envs, num_envs),
        (1, SMALL_BATCH // 4, SMALL_BATCH),
        (SMALL_BATCH + 1, LARGE_BATCH // 4, max(LARGE_BATCH, num_envs)),
    ]


def make_monitor(trt: Any, interrupted: Callable[[], bool]) -> Any:
    """A progress monitor for a builder's configuration: what TensorRT is doing, on one line of a terminal, as a build
    can take a minute. Call ``finish()`` after it.

    Outside a terminal it shows nothing. TensorRT ends the build at the next step after ``interrupted()`` is true.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._shown = sys.stderr.isatty()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._show(f"{phase_name}: {step + 1} of {self._steps.get(phase_name, '?')}")
            return not interrupted()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def finish(self) -> None:
            self._show("")

        def _show(self, text: str) -> None:
            if self._shown:
                print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    return Monitor()


def _attach_timing_cache(flavour: Flavour, config: Any, path: Path) -> Any:
    if not trt_library.keeps_timing_cache(flavour.library):
        return None
    saved = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(saved)
    if cache is None or not config.set_timing_cache(cache, False):  # torn, or of another GPU or version
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache  # it has to live as long as the build


def _plan_error(flavour: Flavour, onnx_path: Path, said: str) -> PlanError:
    said = " ".join(said.split())[:300]
    return PlanError(f"{flavour.library} {flavour.version} cannot build {onnx_path.name} ({said})")
