"""The TensorRT libraries, and everything that one of them does differently: no other module looks at a version.

``tensorrt`` (10.1 and newer, for data-centre and older cards) builds on the GPU that will run the plan.
``tensorrt_rtx`` (1.2 and newer, for RTX cards) builds anywhere, and finishes a plan just in time where it is loaded.
``tensorrt_lean`` and ``tensorrt_dispatch`` are small parts of ``tensorrt`` that run version-compatible plans and build
none: the first is the runtime itself, the second loads the copy of it that such a plan carries.
Their Python interfaces are otherwise the same. What differs:

- 10.x is strongly typed on request, 11 and RTX always are.
- RTX takes the compute capabilities to build for; ``tensorrt`` builds for the GPU at hand and knows options for others.
- RTX must be told at build time that a plan is to be captured in a CUDA graph, and says of a context whether it can
  be; with ``tensorrt`` a capture is tried.
- RTX keeps what it compiled just in time in a runtime cache; ``tensorrt`` keeps its measurements in a timing cache.
- RTX takes settings of a context from a configuration object, which earlier versions of 10.x do not have.
- Without a GPU, the lean runtime makes a ``Runtime`` all the same, and the process crashes when that is used.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, List, Optional, Sequence, Tuple

import torch

from cmg_runtime.errors import BackendUnavailable, first_line

logger = logging.getLogger(__name__)

RUNNERS = {"tensorrt": ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"), "tensorrt_rtx": ("tensorrt_rtx",)}
"""What builds a plan: what runs it, the first choice first. All but the first take version-compatible plans only."""

RTX_CARDS = ("8.6", "8.9", "12.0")
"""Compute capabilities of RTX 30, 40 and 50."""

ALIGNMENT = 256
"""Bytes; of every address that TensorRT is given."""


def import_library(name: str) -> Any:
    """The module of one of the libraries.

    Raises:
        BackendUnavailable: it is not installed, or its shared libraries are missing or of another CUDA.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(f"{name} cannot be imported ({first_line(error)})") from None


def find_runner(built_by: str, version: str, version_compatible: bool) -> Any:
    """The module of the first installed library that loads such a plan.

    Args:
        built_by, version: the library that built the plan.

    Raises:
        BackendUnavailable: there is none; why, and what to install.
    """
    names = RUNNERS[built_by] if version_compatible else RUNNERS[built_by][:1]
    reasons = []
    for name in names:
        try:
            trt = import_library(name)
        except BackendUnavailable as error:
            reasons.append(str(error))
            continue
        if _may_load(version, trt.__version__, version_compatible):
            return trt
        reasons.append(f"{name} here is {trt.__version__}")
    package = f"{built_by.replace('_', '-')}=={version}"
    if version_compatible:
        package = f"{_lean_package()}>={version},<{_major_minor(version)[0] + 1}"
    raise BackendUnavailable(f"{', '.join(reasons)}; `pip install '{package}'`, or choose another backend")


def advice(device: torch.device) -> str:
    """What to install for this GPU, and which plan it then takes; goes on after a semicolon."""
    capability = torch.cuda.get_device_capability(device)
    number = "{}.{}".format(*capability)
    if capability < (7, 5):
        return f"TensorRT takes compute capability 7.5 and newer, not {number}; choose another backend"
    if number in RTX_CARDS:
        return f"for {number}: `pip install tensorrt-rtx` and `make engine`, or choose another backend"
    return (
        f"for {number}: `pip install tensorrt` and `make engine` on this GPU, with ARGS=--version-compatible where "
        f"`pip install {_lean_package()}` is to run it, or choose another backend"
    )


def _lean_package() -> str:
    """For the CUDA that torch is built with."""
    return f"tensorrt-lean-cu{(torch.version.cuda or '13').split('.')[0]}"


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps errors until ``said()`` asks for them; warnings go to Python's logging."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.errors.append(" ".join(msg.split()))
            elif severity == levels.WARNING:
                logger.info("%s: %s", trt.__name__, " ".join(msg.split()))

        def said(self) -> str:
            """The first error since the last call, which is the cause of those after it; cut short."""
            first = self.errors[0][:300] if self.errors else "without saying why"
            del self.errors[:]
            return first

    return Logger()


def make(kind: Any, its_logger: Any) -> Any:
    """A ``trt.Builder``; None where the library finds no CUDA driver that is new enough for it."""
    try:
        return kind(its_logger)
    except TypeError:  # what the bindings make of a null pointer
        return None


def make_runtime(trt: Any, its_logger: Any) -> Any:
    """A ``trt.Runtime``; None where the library finds no GPU that it can use, and the logger says why."""
    if not torch.cuda.is_available():
        its_logger.errors.append("torch sees no CUDA GPU")
        return None
    runtime = make(trt.Runtime, its_logger)
    return None if its_logger.errors else runtime  # what is made in spite of an error cannot be used


# Building


def builds_without_gpu(name: str) -> bool:
    return name == "tensorrt_rtx"


def limits(name: str, version_compatible: bool, hardware: str) -> Optional[str]:
    """What the library cannot build, in one line, or None."""
    if name == "tensorrt_rtx" and version_compatible:
        return "tensorrt_rtx builds no version-compatible plans (its lean runtime is not distributed)"
    if name == "tensorrt_rtx" and hardware != "none":
        return "tensorrt_rtx has no hardware compatibility levels; name the compute capabilities as targets"
    return None


def network_flags(trt: Any) -> int:
    """Strong typing: the ONNX graph's precision is the plan's."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # implied where it is gone
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


def configure_build(trt: Any, config: Any, targets: Sequence[str], version_compatible: bool, hardware: str) -> None:
    """Set what the plan will run on, and that it will be captured in CUDA graphs. Float32 products are not TF32.

    Raises:
        ValueError: this version of the library does not know a target or a level.
    """
    flags = trt.BuilderFlag
    config.clear_flag(flags.TF32)  # on by default
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            capability = _member(trt.ComputeCapability, "SM" + target.replace(".", ""), f"target {target}")
            if not config.set_compute_capability(capability, index):
                raise ValueError(f"target {target} is refused by this version; choose other targets")
    if version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if hardware != "none":
        level = _member(trt.HardwareCompatibilityLevel, hardware.upper(), f"hardware compatibility {hardware}")
        config.hardware_compatibility_level = level


def keeps_timing_cache(name: str) -> bool:
    """Whether building measures kernels; what RTX builds is measured nowhere."""
    return name == "tensorrt"


def _member(enumeration: Any, name: str, what: str) -> Any:
    members = enumeration.__members__
    if name not in members:
        raise ValueError(f"{what} is not known to this version; expected one of {', '.join(members)}")
    return members[name]


# Running


def create_context(trt: Any, engine: Any, runtime_cache: Any) -> Any:
    """An execution context that is given its memory, or None where the library refuses.

    Args:
        runtime_cache: from :func:`create_runtime_cache`; None for none.
    """
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if runtime_cache is None:
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.set_runtime_cache(runtime_cache)
    # The runtime captures the whole step itself, and a shape's kernels are wanted now, not some steps later.
    config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def create_runtime_cache(trt: Any, engine: Any, content: Optional[bytes]) -> Any:
    """RTX: where just-in-time kernels are kept, filled from ``content`` if that was saved on a machine like this one.
    None for ``tensorrt``, which compiles nothing at load.

    The library compares ``content`` with the current CUDA device. The cache has to outlive its contexts.
    """
    if not hasattr(trt, "IRuntimeCache"):
        return None
    cache = engine.create_runtime_config().create_runtime_cache()
    if content and not cache.deserialize(content):
        logger.info("the saved runtime cache is of another GPU, driver or version; it is made anew")
    return cache


def saved_runtime_cache(cache: Any) -> Optional[bytes]:
    """What is in the cache by now, to be kept; None where there is no cache, or nothing to be had of it."""
    content = None if cache is None else cache.serialize()
    return None if content is None else bytes(content)


def is_capturable(context: Any, stream: int) -> bool:
    """Whether an enqueue can be part of a CUDA graph, asked outside of any capture: RTX knows; with ``tensorrt`` the
    capture itself tells."""
    return bool(context.is_stream_capturable(stream)) if hasattr(context, "is_stream_capturable") else True


def _may_load(built: str, here: str, version_compatible: bool) -> bool:
    """Whether a plan of version ``built`` loads in version ``here``: the same one, or, where it was built to be
    compatible, a newer one of the same major version."""
    if built == here:
        return True
    old, new = _major_minor(built), _major_minor(here)
    return version_compatible and old[0] == new[0] and old <= new


def _major_minor(version: str) -> Tuple[int, int]:
    parts = (version.split(".") + ["0"])[:2]
    return int(parts[0]), int(parts[1])
