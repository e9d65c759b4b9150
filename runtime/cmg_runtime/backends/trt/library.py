"""The TensorRT libraries, and everything that one of them does differently: no other module looks at a version.

``tensorrt`` (10.1 and newer, for data-centre and older cards) builds on the GPU that will run the plan.
``tensorrt_rtx`` (1.2 and newer, for RTX cards) builds anywhere, and finishes a plan just in time where it is loaded.
Their Python interfaces are otherwise the same. What differs:

- 10.x is strongly typed on request, 11 and RTX always are.
- RTX takes the compute capabilities to build for; ``tensorrt`` builds for the GPU at hand and knows options for others.
- RTX must be told at build time that a plan is to be captured in a CUDA graph, and says of a context whether it can
  be; with ``tensorrt`` a capture is tried.
- RTX keeps what it compiled just in time in a runtime cache; ``tensorrt`` keeps its measurements in a timing cache.
- RTX takes settings of a context from a configuration object, which earlier versions of 10.x do not have.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, List, Optional, Sequence, Tuple

from cmg_runtime.errors import BackendUnavailable, first_line

logger = logging.getLogger(__name__)

LIBRARIES = ("tensorrt", "tensorrt_rtx")

ALIGNMENT = 256
"""Bytes; of every address that TensorRT is given."""

MISSING = {
    "tensorrt": (
        "REQUIRE_USER_ALLOCATION",
        "is_stream_capturable",
        "ComputeCapability",
        "num_compute_capabilities",
        "set_compute_capability",
        "IRuntimeCache",
        "create_runtime_cache",
        "set_runtime_cache",
        "deserialize",
        "cuda_graph_strategy",
        "CudaGraphStrategy",
        "DISABLED",
        "dynamic_shapes_kernel_specialization_strategy",
        "DynamicShapesKernelSpecializationStrategy",
        "EAGER",
    ),
    "tensorrt_rtx": (),
}
"""Names that this project uses and that no version of the library has. RTX lacks no name, but it refuses to build
version-compatible plans and has nothing to measure: see :func:`limits`."""


def import_library(name: str, version: str = "") -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        version: what to recommend where it is not installed.

    Raises:
        BackendUnavailable: it is not installed, or its shared libraries are missing or of another CUDA.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        package = name.replace("_", "-") + (f"=={version}" if version else "")
        raise BackendUnavailable(
            f"{name} cannot be imported ({first_line(error)}); `pip install {package}`, or choose another backend"
        ) from None


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
    """A ``trt.Builder`` or a ``trt.Runtime``; None where the library finds no CUDA driver that is new enough for it."""
    try:
        return kind(its_logger)
    except TypeError:  # what the bindings make of a null pointer
        return None


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


def may_load(built: str, here: str, version_compatible: bool) -> bool:
    """Whether a plan of version ``built`` loads in version ``here``: the same one, or, where it was built to be
    compatible, a newer one of the same major version."""
    if built == here:
        return True
    old, new = _major_minor(built), _major_minor(here)
    return version_compatible and old[0] == new[0] and old <= new


def _major_minor(version: str) -> Tuple[int, int]:
    parts = (version.split(".") + ["0"])[:2]
    return int(parts[0]), int(parts[1])
