"""``python -m cmg_export.plan_layers GRAPH.onnx``: the kernels that TensorRT makes of a graph.

TensorRT's engine inspector tells the same, but only of a plan that is loaded on a GPU that can run it. The builder's
own log lists the layers as well, and RTX plans are built anywhere.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from cmg_export.compile.tensorrt import PlanOptions, find_flavour
from cmg_export.errors import FORESEEN, ExportError
from CMG_Ref.command_line import require_positive, run
from cmg_runtime.backends.trt import library

MODULE = "cmg_export.plan_layers"
_BYTES = {"half": 2, "float": 4}


@dataclass(frozen=True)
class Arguments:
    """List the kernels of a plan for a fixed batch, and the memory that they read and write."""

    graph: Annotated[Path, tyro.conf.arg(metavar="GRAPH")]
    """An ONNX file that cmg_export wrote."""
    num_envs: Annotated[int, tyro.conf.arg(metavar="N")] = 4096
    """The batch."""
    target: Annotated[str, tyro.conf.arg(metavar="CAPABILITY")] = "8.9"
    """Compute capability; one, since kernels may differ."""


@dataclass(frozen=True)
class Layer:
    """One kernel: TensorRT's name for it, and the batch-sized tensors that it reads and writes."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    mega_bytes: float


def plan_layers(arguments: Arguments) -> tuple[list[Layer], float]:
    """The kernels in order, and the plan's scratch memory in MB.

    Raises:
        ExportError: the plan cannot be built here, or this version's log lists no layers.
    """
    flavour, reason = find_flavour(replace(PlanOptions(), targets=(arguments.target,)))
    if flavour is None:
        raise ExportError(f"no plan can be built here: {reason}")
    trt, log = flavour.trt, []

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.append(msg)

    logger = Log()
    builder = library.make(trt.Builder, logger)
    if builder is None:
        raise ExportError(f"{flavour.library} {flavour.version} does not start; expected a CUDA driver that it can use")
    network = builder.create_network(library.network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not arguments.graph.is_file() or not parser.parse(arguments.graph.read_bytes()):
        raise ExportError(f"{arguments.graph} is no graph that TensorRT reads; expected an ONNX file of an engine")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    library.configure_build(trt, config, flavour.compute_capability, False, "none")
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = (arguments.num_envs, tensor.shape[1])
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise ExportError(f"TensorRT does not build {arguments.graph}")
    text = "\n".join(log)
    layers = [_layer(line, arguments.num_envs) for line in text.splitlines() if re.match(r"Name: .*LayerType: ", line)]
    layers = [layer for layer in layers if layer.writes]  # the others let parallel branches wait for each other
    if not layers:
        raise ExportError(f"the log of {flavour.library} {flavour.version} lists no layers")
    memory = re.search(r"Total Activation Memory: (\d+)", text)
    return layers, int(memory[1]) / 1e6 if memory else 0.0


def _layer(line: str, num_envs: int) -> Layer:
    name = re.sub(r"_myl\d+_\d+$", "", line.split(",")[0].removeprefix("Name: ")).removeprefix("__myl_")
    inputs, _, rest = line.partition("Outputs: ")
    sides = [_tensors(text, num_envs) for text in (inputs, rest.split("TacticName")[0])]
    size = sum(count * _BYTES[kind] for side in sides for _, kind, count in side)
    reads, writes = (tuple(f"{shape} {kind}" for shape, kind, _ in side) for side in sides)
    return Layer(name, reads, writes, size / 1e6)


def _tensors(text: str, num_envs: int) -> list[tuple[str, str, int]]:
    """(dimensions, type, number of values) of each tensor with a row per environment, once for each buffer."""
    found = re.findall(r"Name: (\S+), Dimensions: \[([\d,]+)\].*?Datatype: (\w+)", text)
    buffers = {name: (dims, kind) for name, dims, kind in found if dims.split(",")[0] == str(num_envs)}
    sizes = []
    for dims, kind in buffers.values():
        count = 1
        for dim in dims.split(","):
            count *= int(dim)
        sizes.append((f"[{dims}]", kind.lower(), count))
    return sizes


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Arguments, _print_layers, argv, MODULE, FORESEEN)


def _print_layers(arguments: Arguments) -> int:
    require_positive(arguments, "num_envs")
    if not re.fullmatch(r"\d{1,2}\.\d", arguments.target):
        raise ExportError(f"--target is {arguments.target!r}; expected a compute capability such as 8.9")
    layers, memory = plan_layers(arguments)
    for layer in layers:
        print(f"{layer.name[:46]:<46} {layer.mega_bytes:7.1f} MB  {' '.join(layer.reads)} -> {' '.join(layer.writes)}")
    total = sum(layer.mega_bytes for layer in layers)
    print(f"{len(layers)} kernels, {total:.0f} MB read and written, {memory:.0f} MB scratch memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
