"""What a run of the benchmark measures: the command line's options, and what follows from the machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from cmg_export.errors import ExportError
from cmg_export.machine import pick_device
from CMG_Ref.command_line import require_between, require_seed
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.manifest import Manifest, read_manifest
from cmg_runtime.inputs import require_choice

GPU_SIZES = (64, 256, 1024, 4096, 16384, 65536)
CPU_SIZES = (16, 64, 256)

Section = Literal["engine", "dropin", "time-share"]


@dataclass(frozen=True)
class DropinOptions:
    """Of the section dropin: the motion generator's and the motion library's calls, beside the reference's way."""

    num_motions: int = 1024
    """Trajectories of the pregenerated motion library."""
    frames: int = 500
    """Of a pregenerated trajectory."""
    count: int = 200
    """Calls of each that are wanted."""
    seconds: float = 1.0
    """That one implementation may take at each call, by each clock; slow ones get fewer calls, at least 3."""


@dataclass(frozen=True)
class TimeShareOptions:
    """Of the section time-share: the training environment's steps, the reference's part of them, and training."""

    policy: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Walks in it: a checkpoint model_N.pt, a training run's folder, or an exported policy's; else the bundled one."""
    steps: int = 200
    """Timed, of each backend and in each of two ways, and of each training environment; rounded up to whole rounds of
    commands."""
    warm_up: int = 30
    """Steps before them."""
    iterations: int = 20
    """Of PPO from scratch, of each training environment; the second half counts. At least 2."""
    textbook_envs: int = 1024
    """Environments of one frame of the textbook form of the network; it needs some 5 MB for each."""


@dataclass(frozen=True)
class Options:
    """Time every backend of an engine that runs here, and what a user would run otherwise, in turns.

    Prints a table and writes bench.json and, of the section engine, latency.png and distribution.png; cut short, of
    what it has. Exit status: 0 done, 1 an error of the device or a library cut it short, 2 wrong input, 130 interrupted
    or asked to end. A figure that misses its target is no error.
    """

    engine: Path = Path("engines/g1_all")
    """The engine folder."""
    checkpoint: Path = Path("CMG_Ref/runs/g1_all/cmg_final.pt")
    """The checkpoint that it was made from: the float64 reference and other implementations have its weights."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the stats are, if not in the checkpoint: cmg_training_data.pt or a YAML file."""
    out: Path = Path("build/bench")
    """Where the JSON and the pictures go."""
    sections: tuple[Section, ...] = ("engine",)
    """engine: the network and the whole engine. dropin: the drop-in interfaces beside the reference implementation's
    way. time-share: the reference's part of a training environment's step, and what training takes; it takes mjlab."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    backends: tuple[str, ...] = ()
    """Which of them; none means all, for dropin the one that auto takes."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave the other implementations out, and time a tenth of the calls."""
    num_envs: int | None = None
    """Environments of the table; 4096 on a GPU, 64 on a CPU."""
    sizes: tuple[int, ...] = ()
    """Numbers of environments of the sweep; 64 to 65536 on a GPU, 16 to 256 on a CPU."""
    steps: int | None = None
    """Calls of step() by each clock; 10000 on a GPU, 200 on a CPU."""
    horizon: int = 96
    """Frames of the window."""
    minutes: float = 8.0
    """What of the section engine has not been begun by then is left out, the sweep first. On an H200 the whole takes
    seven minutes."""
    seed: int = 0
    """Of states, commands and choices of environments."""
    dropin: DropinOptions = field(default_factory=DropinOptions)
    time_share: TimeShareOptions = field(default_factory=TimeShareOptions)


@dataclass(frozen=True)
class Settings:
    """The options, with what depends on the machine and the engine.

    Attributes:
        num_envs: environments of the table.
        sizes: numbers of environments of the sweep; ``num_envs`` is always one.
        steps: calls of ``step()`` by each clock.
        seconds: how long one implementation may take by one clock at one size; ``step()`` may take five times as long.
    """

    options: Options
    manifest: Manifest
    device: torch.device
    num_envs: int
    sizes: tuple[int, ...]
    steps: int
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def calls(self, count: int) -> int:
        """So many, or a tenth of them if it has to be quick."""
        return -(-count // 10) if self.options.quick else count


def settings(options: Options) -> Settings:
    """The options with what depends on the machine filled in.

    Raises:
        ExportError, EngineError: one of them is wrong.
    """
    for backend in options.backends:
        require_choice(backend, "backend", tuple(BACKENDS))
    if not options.sections:
        raise ExportError("--sections is empty; expected engine, dropin or time-share")
    device = pick_device(options.device)
    on_gpu, dropin, share = device.type == "cuda", options.dropin, options.time_share
    num_envs = (4096 if on_gpu else 64) if options.num_envs is None else options.num_envs
    sizes = options.sizes or (GPU_SIZES if on_gpu else CPU_SIZES)
    steps = (10_000 if on_gpu else 200) if options.steps is None else options.steps
    counts = [("num-envs", num_envs), ("steps", steps), ("horizon", options.horizon), *(("sizes", n) for n in sizes)]
    counts += [
        (f"dropin.{name}", getattr(dropin, name.replace("-", "_"))) for name in ("num-motions", "frames", "count")
    ]
    counts += [("time-share.steps", share.steps), ("time-share.textbook-envs", share.textbook_envs)]
    for name, value in counts:
        require_between(name, value, 1)
    require_between("time-share.warm-up", share.warm_up, 0)
    require_between("time-share.iterations", share.iterations, 2)
    for name, value in (("minutes", options.minutes), ("dropin.seconds", dropin.seconds)):
        if not value > 0:  # NaN is not
            raise ExportError(f"--{name} is {value:g}; expected more than 0")
    require_seed(options.seed)
    manifest = read_manifest(options.engine)
    made = Settings(options, manifest, device, num_envs, sizes, steps, 2.0 if on_gpu else 1.0)
    return replace(made, steps=made.calls(steps))
