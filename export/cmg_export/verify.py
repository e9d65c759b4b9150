"""``python -m cmg_export.verify``: check and time one backend of a published engine on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from cmg_export.errors import FORESEEN, ExportError
from cmg_export.parity import Truth, format_table, run_parity
from cmg_export.read.checkpoint import load_source
from cmg_export.timing import interleave
from CMG_Ref.command_line import require_between, run
from cmg_runtime import BackendUnavailable, Engine, load_engine, read_manifest
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.manifest import Artifact

MODULE = "cmg_export.verify"
YARDSTICK = "torch"
CALLS, SECONDS = 500, 5.0


@dataclass(frozen=True)
class Arguments:
    """Run one backend of an engine folder on this machine: the whole of parity, then a small latency benchmark.

    Nothing that is published changes; the folder collects the caches and the first-load record that it gets wherever
    the backend is loaded. Exit status: 0 every artifact of the backend passed, 1 one failed or could not run, 2 wrong
    input, 130 interrupted.
    """

    engine_folder: Annotated[Path, tyro.conf.arg(metavar="ENGINE_FOLDER")]
    """The folder that `make engine` wrote."""
    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The checkpoint that it was made from."""
    backend: Annotated[str, tyro.conf.arg(metavar="NAME")] = "trt"
    """Which one: trt, torch, onnx, ..."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the stats are, if not in the checkpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where torch sees a device, else the CPU."""
    num_envs: Annotated[int, tyro.conf.arg(metavar="N")] = 4096
    """Environments of the latency benchmark."""


def verify(arguments: Arguments) -> bool:
    """Run everything and print it; whether every artifact of the backend passed.

    Raises:
        ExportError, EngineError: one line.
    """
    require_between("num_envs", arguments.num_envs, 1)
    if arguments.backend not in BACKENDS:
        raise ExportError(f"unknown backend {arguments.backend!r}; expected one of {', '.join(BACKENDS)}")
    manifest = read_manifest(arguments.engine_folder)
    artifacts = [a for a in manifest.artifacts if a.backend == arguments.backend]
    if not artifacts:
        raise ExportError(
            f"{arguments.engine_folder} has nothing for backend {arguments.backend!r}; "
            "build it on this machine with `make engine` (docs/tensorrt.md says what a plan needs)"
        )
    checkpoint = load_source(arguments.engine_folder, manifest, arguments.checkpoint, arguments.data)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            print("torch sees no CUDA device here, so it is the CPU", flush=True)
    engines, refusals = _load(arguments, artifacts, device)
    for line in refusals:
        print(line, flush=True)
    if not engines:
        return False
    truth = Truth.from_checkpoint(checkpoint)
    report = run_parity(arguments.engine_folder, manifest, truth, artifacts, device=device)
    print(f"\n{format_table(report)}\n\n{_latency(engines, arguments, device)}", flush=True)
    return all(artifact.status == "passed" for artifact in report.artifacts)


def _load(arguments: Arguments, artifacts: Sequence[Artifact], device: str) -> tuple[dict[str, Engine], list[str]]:
    """The backend's engines by artifact name, each proved at its first load, and why others do not run."""
    engines, refusals = {}, []
    for artifact in artifacts:
        try:
            engine = load_engine(
                arguments.engine_folder, arguments.num_envs, device, artifact.backend, artifact.precision
            )
        except BackendUnavailable as error:
            refusals.append(str(error))
            continue
        print(f"{artifact.name}: {engine.selection}", flush=True)
        engines[artifact.name] = engine
    return engines, refusals


def _latency(engines: dict[str, Engine], arguments: Arguments, device: str) -> str:
    """Table of ``engine.step()``, with the torch backend's beside it."""
    yardstick = load_engine(arguments.engine_folder, arguments.num_envs, device, YARDSTICK)
    engines = {**engines, f"{YARDSTICK}_{yardstick.precision}": yardstick}
    for engine in engines.values():
        engine.reset()
    samples = interleave({name: engine.step for name, engine in engines.items()}, yardstick.device, CALLS, SECONDS)
    lines = [
        f"engine.step(), {arguments.num_envs} environments, us",
        f"{'artifact':<20}{'p50':>9}{'p99':>9}{'max':>9}{'calls':>8}  clock",
    ]
    for name, found in samples.items():
        timing = found.timing()
        clock = "wall" if timing.gpu is None else "GPU"
        cost = timing.cost
        lines.append(f"{name:<20}{cost.p50:>9.1f}{cost.p99:>9.1f}{cost.max:>9.1f}{timing.count:>8}  {clock}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Arguments, _report, argv, MODULE, FORESEEN)


def _report(arguments: Arguments) -> int:
    passed = verify(arguments)
    if not passed:
        print(f"{MODULE}: {arguments.backend} is not verified on this machine", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
