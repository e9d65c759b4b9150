"""``python -m cmg_export.bench.kernels``: the fused backend's network kernels alone, on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmg_export.bench.floor import describe
from cmg_export.bench.inputs import Inputs
from cmg_export.errors import FORESEEN, ExportError
from cmg_export.read.checkpoint import load_source
from cmg_export.timing import interleave
from CMG_Ref import command_line
from cmg_runtime import Manifest, read_manifest
from cmg_runtime.backends.fused.cluster_shapes import FEW, RESIDENT
from cmg_runtime.device.graphs import GraphRecorder, Piece
from cmg_runtime.device.triton_support import why_not
from cmg_runtime.folder.arrays import read_weights

MODULE = "cmg_export.bench.kernels"

FOR_FEW = {"streamed": FEW, "8 resident": RESIDENT[0], "16 resident": RESIDENT[1]}
"""Shapes for few rows."""

MOST_OF_FEW = 256
"""Rows up to which they are compared."""


@dataclass(frozen=True)
class Options:
    """Time Triton's kernels and the cluster kernel in half precision: one frame, and many frames in one launch.

    Medians by the GPU's clock, of CUDA graphs, in us. For few rows, many frames once more in each shape of the cluster
    kernel that could take them. Exit status: 0 done, 2 wrong input or no GPU.
    """

    engine: Path = Path("engines/g1_all")
    """The engine folder."""
    checkpoint: Path = Path("CMG_Ref/runs/g1_all/cmg_final.pt")
    """The checkpoint that it was made from: the float64 reference takes its weights from it."""
    rows: tuple[int, ...] = (16, 56, 64, 112, 224, 256, 512, 960, 1024, 2048, 4096, 8192, 65536)
    """Environments."""
    frames: int = 95
    """Frames of one launch; not timed beyond 4096 rows."""
    launches: int = 12
    """Single frames in one graph."""
    repeats: int = 30
    """Replays of each graph."""
    seed: int = 0
    """Of states and commands."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, _run, argv, MODULE, FORESEEN)


def _run(options: Options) -> int:
    command_line.require_positive(options, "frames", "launches", "repeats")
    command_line.require_seed(options.seed)
    if not options.rows:
        raise ExportError("--rows is empty; expected numbers of environments")
    for rows in options.rows:
        command_line.require_between("rows", rows, 1)
    manifest = read_manifest(options.engine)
    device = torch.device("cuda")
    reason = why_not(device) if torch.cuda.is_available() else "torch sees no GPU"
    if reason:
        raise ExportError(f"the kernels cannot run here: {reason}")
    kernels = _kernels(options, manifest, device)
    checkpoint = load_source(options.engine, manifest, options.checkpoint, None)
    inputs = Inputs(options.engine, manifest, checkpoint, options.seed)
    where = describe(device)
    print(f"{where.device}, one fp16 product of 8192^3 at {where.tflops['fp16']:.0f} TFLOP/s, clocks {where.clocks}")
    single = "".join(f"{name:>12}{'error':>9}" for name in kernels)
    print(f"{'rows':>6}{single}{options.frames:>9} frames" + "".join(f"{name:>14}" for name in FOR_FEW))
    for rows in options.rows:
        print(_row(options, kernels, inputs, rows, device), flush=True)
    return 0


def _kernels(options: Options, manifest: Manifest, device: torch.device) -> dict[str, Any]:
    """By name: both have ``(motion, command, out)``, the cluster kernel ``rollout`` too."""
    from cmg_runtime.backends.fused.cluster import ClusterNetwork, fits
    from cmg_runtime.backends.fused.launch import FrameNetwork
    from cmg_runtime.backends.fused.packing import pack
    from cmg_runtime.backends.fused.tuning import choose_tiles

    artifact = next((a for a in manifest.artifacts if (a.backend, a.precision) == ("fused", "fp16")), None)
    if artifact is None:
        raise ExportError(f"{options.engine} has no fused artifact in fp16; build it with --precision fp16 or all")
    weights = read_weights(options.engine, artifact, manifest)
    packed = pack(weights, torch.float16, device)
    tiles = choose_tiles(weights, packed, "fp16", device)
    kernels: dict[str, Any] = {"triton": FrameNetwork(packed, "fp16", max(options.rows), device, tiles)}
    if fits(packed.shapes, "fp16", device):
        kernels["cluster"] = ClusterNetwork(packed, device)
    return kernels


def _row(options: Options, kernels: dict[str, Any], inputs: Inputs, rows: int, device: torch.device) -> str:
    motion, command = inputs.draw(rows, device)
    runs: dict[str, Callable[[], object]] = {}
    errors: dict[str, float] = {}
    recorder = GraphRecorder(device)
    for name, network in kernels.items():
        out = torch.full_like(motion, float("nan"))
        piece = Piece(lambda network=network, out=out: network(motion, command, out))
        runs[name] = recorder.record([piece] * options.launches)
        runs[name]()
        errors[name] = inputs.error(motion, command, out)
    if "cluster" in kernels and rows <= 4096:
        commands = command.expand(options.frames, rows, -1).contiguous()
        frames = motion.new_empty(options.frames, *motion.shape)
        shapes = {"frames": None, **(FOR_FEW if rows <= MOST_OF_FEW else {})}
        for name, shape in shapes.items():
            if shape is not None and not kernels["cluster"].has(shape):
                continue
            piece = Piece(lambda shape=shape: kernels["cluster"].rollout(motion, commands, frames, shape=shape))
            runs[name] = recorder.record([piece])
    timed = interleave(runs, device, options.repeats, seconds=2.0, block=10)
    times = {name: samples.timing().cost.p50 for name, samples in timed.items()}
    single = "".join(f"{times[name] / options.launches:>12.1f}{errors[name]:>9.1e}" for name in kernels)
    widths = {"frames": 16, **dict.fromkeys(FOR_FEW, 14)}
    return f"{rows:>6}{single}" + "".join(
        f"{times[name]:>{width}.1f}" if name in times else f"{'-':>{width}}" for name, width in widths.items()
    )


if __name__ == "__main__":
    sys.exit(main())
