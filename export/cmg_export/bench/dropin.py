"""The section dropin: the drop-in interfaces beside the reference implementation's way, in the same run, in turns."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from cmg_export.bench.dropin_reference import ReferenceMotionLib, ReferencePregenerated, ReferenceRealtime
from cmg_export.bench.peers import ReferenceForm
from cmg_export.bench.results import Call
from cmg_export.bench.settings import Settings
from cmg_export.progress import stage
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.timing import Run, Samples, interleave
from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.loading import load_engine
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG
from cmg_runtime.motion_lib.library import HORIZON, MODES
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES

OFFSETS = (1, *range(5, 100, 5))
"""Frames that TWIST looks ahead."""

Library = MotionLibCMG | ReferenceMotionLib

DRAWN, RESET = 64, 16
"""Motions of a draw, and environments of a reset."""


def time_dropin(settings: Settings, checkpoint: Checkpoint, calls: list[Call]) -> None:
    """Time the generator's get_motion and reset, and the library's queries, draws and resets, in both modes; ``calls``
    gets what comes.

    Raises:
        EngineError: the engine cannot be used.
    """
    network = ReferenceForm(checkpoint).to(settings.device)
    for mode in ("realtime", "pregenerated"):
        _time_generators(settings, network, mode, calls)
    _time_libraries(settings, network, calls)


def _time_generators(settings: Settings, network: ReferenceForm, mode: str, calls: list[Call]) -> None:
    options, num_envs, frames = settings.options, settings.num_envs, settings.options.dropin.frames
    commands = _commands(settings, num_envs)
    generators: dict[str, Any] = {}
    with stage(f"generators, {mode}"):
        for backend in options.backends or ("auto",):
            ours = CMGMotionGenerator(
                options.engine, None, num_envs, settings.device, mode, preload_duration=frames, backend=backend
            )
            generators[f"{ours.engine.backend_name}_{ours.engine.precision}"] = ours
        bank = _bank(settings)
        if mode == "realtime":
            generators["reference"] = ReferenceRealtime(network, bank, num_envs)
        else:
            generators["reference"] = ReferencePregenerated(network, bank, num_envs, frames)

    def restart(generator: Any) -> Callable[[], None]:
        def run() -> None:
            generator.reset(commands=commands)
            generator.get_motion()  # what a reset leaves to the first frame belongs to it

        return run

    for what, runs in (
        ("reset of all", {name: restart(made) for name, made in generators.items()}),
        ("get_motion", {name: made.get_motion for name, made in generators.items()}),
    ):
        _time(settings, f"{what}, {mode}", runs, calls, waiting=("reference",))


def _time_libraries(settings: Settings, network: ReferenceForm, calls: list[Call]) -> None:
    """A training step's two queries, the larger one alone, a draw, and a reset of a few."""
    options, dropin, manifest, device = settings.options, settings.options.dropin, settings.manifest, settings.device
    num_envs = settings.num_envs
    given = (options.engine, None, dropin.num_motions, dropin.frames, num_envs, device)
    backends, libraries = options.backends or ("auto",), dict[str, MotionLibCMG]()
    with stage("motion libraries"):
        for backend in backends:
            for mode in MODES:
                made = MotionLibCMG(*given, manifest.sizes.num_joints, manifest.fps, mode=mode, backend=backend)
                libraries[f"{backend}, {mode}"] = made
        commands = _commands(settings, dropin.num_motions)
        reference = ReferenceMotionLib(network, _bank(settings), commands, dropin.frames, manifest.fps)
    everyone = torch.arange(num_envs, device=device)
    askers: list[tuple[str, Library, torch.Tensor]] = [("reference", reference, everyone % dropin.num_motions)]
    askers += [(name, made, made.sample_motions(num_envs)) for name, made in libraries.items()]
    for what, offsets in (
        (f"calc_motion_frame, {len(OFFSETS)} x {num_envs}", [OFFSETS]),
        (f"a step's queries, {num_envs} and {len(OFFSETS)} x {num_envs}", [(0,), OFFSETS]),
    ):
        runs = {name: _queries(library, ids, offsets, manifest.fps) for name, library, ids in askers}
        _time(settings, what, runs, calls)
    some, few = min(num_envs, DRAWN), everyone[: min(num_envs, RESET)].clone()
    draws = {name: functools.partial(made.sample_motions, some) for name, made in libraries.items()}
    _time(settings, f"sample_motions, {some}", draws, calls)
    resets: dict[str, Run] = {name: functools.partial(made.reset, few) for name, made in libraries.items()}
    resets.update({f"{backend}, engine": _engine_reset(settings, backend, few) for backend in backends})
    _time(settings, f"reset of {len(few)}", resets, calls)


def _engine_reset(settings: Settings, backend: str, env_ids: torch.Tensor) -> Callable[[], None]:
    """The reset of an engine by itself, as large as a realtime library's."""
    robot = settings.manifest.robot
    bodies = [name for name in KEY_BODIES if robot is not None and name in robot.body_names]
    size = 2 * settings.num_envs
    engine = load_engine(settings.options.engine, size, settings.device, backend, horizon=HORIZON, key_bodies=bodies)
    engine.reset()
    command = _commands(settings, len(env_ids))
    return functools.partial(engine.reset, env_ids, command=command)


def _queries(library: Library, ids: torch.Tensor, offsets: Sequence[Sequence[int]], fps: float) -> Callable[[], None]:
    """A query for each of ``offsets``, so many frames from a time that goes on by a frame with each run."""
    asked = [
        (ids.repeat(len(ahead)), torch.tensor(ahead, device=ids.device).repeat_interleave(len(ids)) / fps)
        for ahead in offsets
    ]
    frame = itertools.count(1)

    def run() -> None:
        now = next(frame) / fps
        for motion_ids, ahead in asked:
            library.calc_motion_frame(motion_ids, ahead + now)

    return run


def _time(
    settings: Settings, what: str, runs: Mapping[str, Run], calls: list[Call], waiting: Collection[str] = ()
) -> None:
    """Into ``calls``, also what there is when an interrupt comes."""
    options, timed = settings.options.dropin, dict[str, Samples]()
    count = settings.calls(options.count)
    with stage(what):
        try:
            interleave(runs, settings.device, count, options.seconds, samples=timed, waiting=waiting)
        finally:
            calls += [Call(what, name, samples.timing()) for name, samples in timed.items() if samples.wall]


def _bank(settings: Settings) -> torch.Tensor:
    return load_bank(settings.options.engine, settings.manifest, settings.device)


def _commands(settings: Settings, count: int) -> torch.Tensor:
    """[count, 3] spread over the engine's range."""
    low, high = settings.manifest.command_range.min, settings.manifest.command_range.max
    sampler = CommandSampler(count, settings.device, *zip(low, high, strict=True), seed=settings.options.seed)
    return sampler.sample_uniform()


if __name__ == "__main__":
    print("cmg_export.bench.dropin: use python -m cmg_export.bench --sections dropin", file=sys.stderr)
    sys.exit(2)
