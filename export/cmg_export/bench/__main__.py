"""``python -m cmg_export.bench``: time an engine and its peers; table, JSON and pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from cmg_export.bench.contenders import check_backends
from cmg_export.bench.plots import draw
from cmg_export.bench.report import format_table
from cmg_export.bench.results import FILE_NAME, BenchError, write_file
from cmg_export.bench.run import INTERRUPTED, run_bench
from cmg_export.bench.settings import Settings
from cmg_export.errors import FORESEEN
from CMG_Ref import command_line, interrupts
from cmg_runtime.folder.manifest import read_manifest

MODULE = "cmg_export.bench"
GPU_SIZES = (64, 256, 1024, 4096, 16384, 65536)
CPU_SIZES = (16, 64, 256)


@dataclass(frozen=True)
class Options:
    """Time every backend of an engine that runs here, and what a user would run otherwise, in turns.

    Prints a table and writes bench.json, latency.png and distribution.png; cut short, of what it has. Exit status: 0
    done, 1 an error of the device or a library cut it short, 2 wrong input, 130 interrupted or asked to end. A figure
    that misses its bar is no error.
    """

    engine: Path = Path("engines/g1_neutral")
    """The engine folder."""
    checkpoint: Path = Path("CMG_Ref/runs/g1_neutral/cmg_final.pt")
    """The checkpoint that it was made from: the float64 reference and the peers take their weights from it."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the stats are, if not in the checkpoint: cmg_training_data.pt or a YAML file."""
    out: Path = Path("build/bench")
    """Where the JSON and the pictures go."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    backends: tuple[str, ...] = ()
    """Which of them; none means all."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave the peers out, and time a tenth of the calls."""
    num_envs: int | None = None
    """Environments of the table; 4096 on a GPU, 64 on a CPU."""
    sizes: tuple[int, ...] = ()
    """Numbers of environments of the sweep; 64 to 65536 on a GPU, 16 to 256 on a CPU."""
    steps: int | None = None
    """Calls of step() by each clock; 10000 on a GPU, 200 on a CPU."""
    horizon: int = 96
    """Frames of the window."""
    minutes: float = 8.0
    """What has not been begun by then is left out, the sweep first. On an H200 the whole takes seven minutes."""
    seed: int = 0
    """Of states, commands and choices of environments."""


def settings(options: Options) -> Settings:
    """The options with what depends on the machine filled in.

    Raises:
        BenchError: one of them is wrong.
    """
    check_backends(options.backends)
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    num_envs = (4096 if on_gpu else 64) if options.num_envs is None else options.num_envs
    sizes = options.sizes or (GPU_SIZES if on_gpu else CPU_SIZES)
    steps = (10_000 if on_gpu else 200) if options.steps is None else options.steps
    numbers = [("num_envs", num_envs), ("steps", steps), ("horizon", options.horizon), *(("sizes", n) for n in sizes)]
    for name, value in numbers:
        command_line.require_between(name, value, 1)
    if not options.minutes > 0:  # NaN is not
        raise BenchError(f"--minutes is {options.minutes:g}; expected more than 0")
    command_line.require_seed(options.seed)
    read_manifest(options.engine)
    if options.device == "cuda" and not on_gpu:
        raise BenchError("device is cuda, but torch sees no GPU; use --device cpu")
    return Settings(
        folder=options.engine,
        checkpoint=options.checkpoint,
        data=options.data,
        device=device,
        backends=options.backends,
        peers=not options.quick,
        num_envs=num_envs,
        sizes=sizes,
        steps=-(-steps // 10) if options.quick else steps,
        horizon=options.horizon,
        minutes=options.minutes,
        seconds=2.0 if on_gpu else 1.0,
        seed=options.seed,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, _run, argv, MODULE, FORESEEN)


def _run(options: Options) -> int:
    report, samples = run_bench(settings(options))
    write_file(options.out / FILE_NAME, report.to_json().encode())
    print(format_table(report), flush=True)
    draw(report, samples, options.out)
    print(f"\n{FILE_NAME} and pictures are in {options.out}", flush=True)
    return {"": 0, INTERRUPTED: 130}.get(report.cut_short, 1)


if __name__ == "__main__":
    interrupts.note_interrupts()
    sys.exit(main())
