"""What a soak does: the command line's options, and what follows from the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from cmg_export.errors import ExportError
from cmg_export.machine import pick_device, require_device
from CMG_Ref.command_line import require_between, require_seed
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Options:
    """Step an engine with a window, under random resets and command changes, and check it at sampled moments.

    Checked: the windows of sampled environments against a plain rollout in float64; that no memory grows; that a step
    takes as long at the end as at the beginning; and that the engine's counters say what was done. Prints a table and
    writes soak.json. Exit status: 0 passed, 1 a check failed, 2 wrong input or the engine failed, 130 interrupted.
    """

    engine: Path = Path("engines/g1_all")
    """The engine folder."""
    checkpoint: Path = Path("CMG_Ref/runs/g1_all/cmg_final.pt")
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


@dataclass(frozen=True)
class Settings:
    """The options, with what depends on the machine and the engine: see there."""

    options: Options
    manifest: Manifest
    device: torch.device
    num_envs: int
    steps: int
    slowdown: float


def settings(options: Options) -> Settings:
    """The options with what depends on the machine filled in.

    Raises:
        ExportError, EngineError: one of them is wrong.
    """
    if options.backend != "auto" and options.backend not in BACKENDS:
        raise ExportError(f"unknown backend {options.backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    device = pick_device(options.device)
    on_gpu = device.type == "cuda"
    num_envs = (4096 if on_gpu else 16) if options.num_envs is None else options.num_envs
    steps = (1_000_000 if on_gpu else 2000) if options.steps is None else options.steps
    slowdown = (1.25 if on_gpu else 2.0) if options.slowdown is None else options.slowdown
    require_seed(options.seed)
    lowest = [("num-envs", num_envs, 1), ("horizon", options.horizon, 2), ("checks", options.checks, 10)]
    lowest += [("steps", steps, options.checks), ("sampled", options.sampled, 1)]
    lowest += [("change-every", options.change_every, 1)]
    for name, value, least in lowest:
        require_between(name, value, least)
    for name, value in (("slowdown", slowdown), ("minutes", options.minutes)):
        if not value > 0:
            raise ExportError(f"--{name} is {value:g}; expected more than 0")
    manifest = read_manifest(options.engine)
    require_device(options.device, device)
    return Settings(options, manifest, device, num_envs, steps, slowdown)
