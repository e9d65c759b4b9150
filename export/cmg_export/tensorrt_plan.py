"""ONNX -> TensorRT plan, with whichever of the two TensorRT libraries can build here.

``tensorrt_rtx`` builds without a GPU, for RTX cards; ``tensorrt`` builds on the GPU that will run the plan.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

RTX_TARGETS = ("8.6", "8.9", "12.0")
"""Compute capabilities that an RTX plan is built for: RTX 30, 40 and 50."""

LARGEST_BATCH = 8192
"""Plans take every batch from 1 to this, or to num_envs where that is more."""


class PlanError(Exception):
    """TensorRT could not build a plan. One line."""


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries; their Python interfaces are the same but for what stands here."""

    library: str
    suffix: str
    version: str
    compute_capability: tuple[str, ...]


def find_flavour() -> tuple[Flavour | None, str]:
    """The library to build with, or None and the reason in one line."""
    if torch.cuda.is_available() and (trt := _imported("tensorrt")):
        major, minor = torch.cuda.get_device_capability()
        return Flavour("tensorrt", "trt.plan", trt.__version__, (f"{major}.{minor}",)), ""
    if trt := _imported("tensorrt_rtx"):
        return Flavour("tensorrt_rtx", "rtx.plan", trt.__version__, RTX_TARGETS), ""
    if importlib.util.find_spec("tensorrt"):
        return None, "tensorrt builds only where its GPU is, and there is none"
    return None, "neither tensorrt nor tensorrt_rtx is installed"


def build_plan(flavour: Flavour, onnx_path: Path, num_envs: int, path: Path) -> dict[str, Any]:
    """Build a strongly typed plan: its precision is that of the ONNX graph, and float32 products are not TF32.

    Args:
        onnx_path: a file written by ``export_onnx``.
        num_envs: the batch that the plan is tuned for; it takes any from 1 to ``max(num_envs, LARGEST_BATCH)``.
        path: the file to write.

    Returns:
        The artifact's ``target`` for the manifest.

    Raises:
        PlanError: the library refused the graph or the build.
    """
    trt = importlib.import_module(flavour.library)
    messages: list[str] = []
    logger = _collecting_logger(trt, messages)
    builder = trt.Builder(logger)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # implied where it is gone
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        messages.extend(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise _plan_error(flavour, onnx_path, messages)

    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default
    profile = builder.create_optimization_profile()
    largest = max(num_envs, LARGEST_BATCH)
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        width = tensor.shape[1]
        profile.set_shape(tensor.name, (1, width), (num_envs, width), (largest, width))
    config.add_optimization_profile(profile)
    if flavour.library == "tensorrt_rtx":
        config.num_compute_capabilities = len(flavour.compute_capability)
        for index, capability in enumerate(flavour.compute_capability):
            target = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
            config.set_compute_capability(target, index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _plan_error(flavour, onnx_path, messages)
    path.write_bytes(bytes(plan))
    return {
        "device": "cuda",
        "library": flavour.library,
        "compute_capability": list(flavour.compute_capability),
        "batch": {"min": 1, "opt": num_envs, "max": largest},
    }


def _imported(library: str) -> Any:
    if importlib.util.find_spec(library) is None:
        return None
    try:
        return importlib.import_module(library)
    except (ImportError, OSError, RuntimeError):  # its shared libraries are missing, or of another CUDA
        return None


def _collecting_logger(trt: Any, messages: list[str]) -> Any:
    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                messages.append(msg)

    return Collector()


def _plan_error(flavour: Flavour, onnx_path: Path, messages: list[str]) -> PlanError:
    said = " ".join(messages[0].split()) if messages else "without saying why"
    return PlanError(f"{flavour.library} {flavour.version} cannot build {onnx_path.name} ({said})")
