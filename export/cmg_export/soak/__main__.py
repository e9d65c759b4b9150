"""``python -m cmg_export.soak``: step an engine for as long as asked, under random resets and commands, and look."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from cmg_export.bench.results import write_file
from cmg_export.errors import FORESEEN
from cmg_export.soak.report import FILE_NAME, format_table
from cmg_export.soak.run import Settings, SoakError, run_soak
from CMG_Ref import command_line
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.manifest import read_manifest

MODULE = "cmg_export.soak"


@dataclass(frozen=True)
class Options:
    """Step an engine with a window, under random resets and command changes, and check it at sampled moments.

    Checked: the windows of sampled environments against a plain rollout in float64; that no memory grows; that a step
    takes as long at the end as at the beginning; and that the engine's counters say what was done. Prints a table and
    writes soak.json. Exit status: 0 passed, 1 a check failed, 2 wrong input or the engine failed, 130 interrupted.
    """

    engine: Path = Path("engines/g1_neutral")
    """The engine folder."""
    checkpoint: Path = Path("CMG_Ref/runs/g1_neutral/cmg_final.pt")
    """The checkpoint that it was made from: the plain rollout takes its weights from it."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the stats are, if not in the checkpoint: cmg_training_data.pt or a YAML file."""
    out: Path = Path("build/soak")
    """Where soak.json goes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    backend: str = "auto"
    """As of load_engine."""
    precision: Literal["auto", "fp32", "fp16"] = "auto"
    """As of load_engine."""
    num_envs: int | None = None
    """Environments; 4096 on a GPU, 16 on a CPU."""
    steps: int | None = None
    """Steps after the warm-up; a million on a GPU, 2000 on a CPU."""
    horizon: int = 96
    """Frames of the window, at least 2."""
    checks: int = 20
    """Moments at which it is looked at, at least 10."""
    sampled: int = 512
    """Environments whose windows a check compares, others each time."""
    change_every: int = 250
    """Steps from one reset or command change to the next, on average."""
    slowdown: float | None = None
    """How many times as long a step may take at the end; 1.25 on a GPU, 2 on a CPU."""
    minutes: float = 60.0
    """The run ends at the first check after that, whatever is left."""
    seed: int = 0
    """Of everything random."""


def settings(options: Options) -> Settings:
    """The options with what depends on the machine filled in.

    Raises:
        SoakError: one of them is wrong.
    """
    if options.backend != "auto" and options.backend not in BACKENDS:
        raise SoakError(f"unknown backend {options.backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    num_envs = (4096 if on_gpu else 16) if options.num_envs is None else options.num_envs
    steps = (1_000_000 if on_gpu else 2000) if options.steps is None else options.steps
    slowdown = (1.25 if on_gpu else 2.0) if options.slowdown is None else options.slowdown
    command_line.require_seed(options.seed)
    lowest = [("num-envs", num_envs, 1), ("horizon", options.horizon, 2), ("checks", options.checks, 10)]
    lowest += [("steps", steps, options.checks), ("sampled", options.sampled, 1)]
    lowest += [("change-every", options.change_every, 1)]
    for name, value, least in lowest:
        command_line.require_between(name, value, least)
    for name, value in (("slowdown", slowdown), ("minutes", options.minutes)):
        if not value > 0:
            raise SoakError(f"--{name} is {value:g}; expected more than 0")
    read_manifest(options.engine)
    if options.device == "cuda" and not on_gpu:
        raise SoakError("device is cuda, but torch sees no GPU; use --device cpu")
    return Settings(
        folder=options.engine,
        checkpoint=options.checkpoint,
        data=options.data,
        device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"),
        backend=options.backend,
        precision=None if options.precision == "auto" else options.precision,
        num_envs=num_envs,
        horizon=options.horizon,
        steps=steps,
        checks=options.checks,
        sampled=options.sampled,
        change_every=options.change_every,
        slowdown=slowdown,
        minutes=options.minutes,
        seed=options.seed,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, _run, argv, MODULE, FORESEEN, "interrupted; nothing was written")


def _run(options: Options) -> int:
    report = run_soak(settings(options))
    write_file(options.out / FILE_NAME, report.to_json().encode())
    print(f"\n{format_table(report)}\n\n{FILE_NAME} is in {options.out}", flush=True)
    for failure in report.failures:
        print(f"{MODULE}: {failure}", file=sys.stderr)
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
