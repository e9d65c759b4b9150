"""``python -m cmg_export.bench.dropin``: the drop-in interfaces beside the reference implementation's way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cmg_export.bench.dropin_reference import Network, ReferenceMotionLib, ReferencePregenerated, ReferenceRealtime
from cmg_export.bench.peers import ReferenceForm
from cmg_export.bench.timing import interleave
from cmg_export.errors import FORESEEN, ExportError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.command_line import require_positive, run
from cmg_runtime.backends import BACKENDS
from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.kept_files import replace_file
from cmg_runtime.folder.manifest import Manifest, read_manifest
from cmg_runtime.folder.sources import installed_versions
from cmg_runtime.inputs import require_choice
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG

MODULE = "cmg_export.bench.dropin"

OFFSETS = (1, *range(5, 100, 5))
"""Frames that TWIST looks ahead."""


@dataclass(frozen=True)
class Options:
    """Time get_motion, a reset of all environments and calc_motion_frame, in both modes, beside the reference's way.

    The runtime's numbers and the reference's are of the same run, in turns. On a CPU give small numbers.
    """

    engine: Path = Path("engines/g1_neutral")
    """The engine folder."""

    checkpoint: Path = Path("CMG_Ref/runs/g1_neutral/cmg_final.pt")
    """The checkpoint that it was made from, for the reference's way."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""

    backend: str = "auto"
    """The runtime's."""

    num_envs: int = 4096
    """Environments."""

    num_motions: int = 1024
    """Trajectories of the pregenerated motion library."""

    frames: int = 500
    """Of a pregenerated trajectory."""

    count: int = 200
    """Calls of each that are wanted."""

    seconds: float = 20.0
    """That one contender may take at each call; slow ones get fewer calls, at least 3."""

    out: Path | None = None
    """A file for the results as JSON."""


@dataclass(frozen=True)
class Row:
    """One line of the table: wall time of a call, until the GPU has finished, us."""

    what: str
    contender: str
    calls: int
    p50: float
    p99: float


class _Table:
    """Rows, printed as they come."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.rows: list[Row] = []
        self._options, self._device = options, device
        print(f"{'':34}{'':16}{'calls':>7}{'p50 us':>14}{'p99 us':>14}", flush=True)

    def compare(self, what: str, runs: dict[str, Callable[[], Any]]) -> None:
        """Time ``runs`` in turns, a row for each."""
        for name, samples in interleave(runs, self._device, self._options.count, self._options.seconds).items():
            p50, p99 = np.quantile(samples.wall, [0.5, 0.99]).tolist()
            self.rows.append(Row(what, name, len(samples.wall), p50, p99))
            print(f"{what:34}{name:16}{len(samples.wall):7d}{p50:14,.0f}{p99:14,.0f}", flush=True)


def measure(options: Options) -> list[Row]:
    """All rows, each interface's contenders in turns.

    Raises:
        ExportError, EngineError: the engine or the checkpoint cannot be used.
    """
    read_manifest(options.engine)
    checkpoint = load_checkpoint(options.checkpoint)
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and device.type == "cpu":
        raise ExportError("--device is cuda, and torch sees no GPU; use --device cpu")
    network = ReferenceForm(checkpoint).to(device)
    table = _Table(options, device)
    for mode in ("realtime", "pregenerated"):
        _compare_generators(options, device, network, mode, table)
    _compare_libraries(options, device, network, table)
    return table.rows


def _compare_generators(options: Options, device: torch.device, network: Network, mode: str, table: _Table) -> None:
    num_envs, frames = options.num_envs, options.frames
    ours = CMGMotionGenerator(
        options.engine, None, num_envs, device, mode, preload_duration=frames, backend=options.backend
    )
    bank, commands = ours.engine.bank, _commands(ours.engine.manifest, num_envs, device)
    if mode == "realtime":
        theirs = ReferenceRealtime(network, bank, num_envs)
    else:
        theirs = ReferencePregenerated(network, bank, num_envs, frames)

    # What a reset leaves to the first frame belongs to it.
    def restart_ours() -> None:
        ours.reset(commands=commands)
        ours.get_motion()

    def restart_theirs() -> None:
        theirs.reset(commands)
        theirs.get_motion()

    name = f"{ours.engine.backend_name} {ours.engine.precision}"
    table.compare(f"reset of all, {mode}", {name: restart_ours, "reference": restart_theirs})
    table.compare(f"get_motion, {mode}", {name: ours.get_motion, "reference": theirs.get_motion})


def _compare_libraries(options: Options, device: torch.device, network: Network, table: _Table) -> None:
    manifest = read_manifest(options.engine)
    settings = (options.engine, None, options.num_motions, options.frames, options.num_envs, device)
    libraries: dict[str, Any] = {
        mode: MotionLibCMG(*settings, manifest.sizes.num_joints, manifest.fps, mode=mode, backend=options.backend)
        for mode in ("pregenerated", "realtime")
    }
    commands = _commands(manifest, options.num_motions, device)
    bank = load_bank(options.engine, manifest, device)
    libraries["reference"] = ReferenceMotionLib(network, bank, commands, options.frames, manifest.fps)
    env_ids = torch.arange(options.num_envs, device=device).repeat(len(OFFSETS))
    times = torch.tensor(OFFSETS, device=device).repeat_interleave(options.num_envs) / manifest.fps

    def query(name: str) -> Callable[[], Any]:
        ids = env_ids if name == "realtime" else env_ids % options.num_motions
        return lambda: libraries[name].calc_motion_frame(ids, times)

    table.compare(f"calc_motion_frame, {len(OFFSETS)} x {options.num_envs}", {name: query(name) for name in libraries})


def _commands(manifest: Manifest, n: int, device: torch.device) -> torch.Tensor:
    """[n, 3] spread over the engine's range."""
    low, high = manifest.command_range.min, manifest.command_range.max
    return CommandSampler(n, device, *zip(low, high, strict=True), seed=0).sample_uniform()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 2 after bad input."""
    return run(Options, _run, args, MODULE, FORESEEN)


def _run(options: Options) -> int:
    require_positive(options, "num_envs", "num_motions", "frames", "count")
    require_choice(options.backend, "backend", ("auto", *BACKENDS))
    if not options.seconds > 0:  # NaN is not
        raise EngineError(f"--seconds is {options.seconds:g}; expected more than 0")
    rows = measure(options)
    if options.out is not None:
        content = {"versions": installed_versions(("torch", "numpy")), "rows": [asdict(row) for row in rows]}
        replace_file(options.out, (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
