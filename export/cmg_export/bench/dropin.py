"""The section dropin: the drop-in interfaces beside the reference implementation's way, in the same run, in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from cmg_export.bench.dropin_reference import ReferenceMotionLib, ReferencePregenerated, ReferenceRealtime
from cmg_export.bench.peers import ReferenceForm
from cmg_export.bench.results import Call
from cmg_export.bench.settings import Settings
from cmg_export.progress import stage
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.timing import interleave
from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG

OFFSETS = (1, *range(5, 100, 5))
"""Frames that TWIST looks ahead."""


def time_dropin(settings: Settings, checkpoint: Checkpoint, calls: list[Call]) -> None:
    """Time get_motion, a reset of all environments and calc_motion_frame, in both modes; ``calls`` gets what comes.

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

    _time(settings, f"reset of all, {mode}", {name: restart(made) for name, made in generators.items()}, calls)
    _time(settings, f"get_motion, {mode}", {name: made.get_motion for name, made in generators.items()}, calls)


def _time_libraries(settings: Settings, network: ReferenceForm, calls: list[Call]) -> None:
    options, dropin, manifest, device = settings.options, settings.options.dropin, settings.manifest, settings.device
    given = (options.engine, None, dropin.num_motions, dropin.frames, settings.num_envs, device)
    libraries: dict[str, Any] = {}
    for backend in options.backends or ("auto",):
        for mode in ("pregenerated", "realtime"):
            made = MotionLibCMG(*given, manifest.sizes.num_joints, manifest.fps, mode=mode, backend=backend)
            libraries[f"{backend}, {mode}"] = made
    commands = _commands(settings, dropin.num_motions)
    libraries["reference"] = ReferenceMotionLib(network, _bank(settings), commands, dropin.frames, manifest.fps)
    env_ids = torch.arange(settings.num_envs, device=device).repeat(len(OFFSETS))
    times = torch.tensor(OFFSETS, device=device).repeat_interleave(settings.num_envs) / manifest.fps

    def query(name: str) -> Callable[[], Any]:
        ids = env_ids if name.endswith("realtime") else env_ids % dropin.num_motions
        return lambda: libraries[name].calc_motion_frame(ids, times)

    what = f"calc_motion_frame, {len(OFFSETS)} x {settings.num_envs}"
    _time(settings, what, {name: query(name) for name in libraries}, calls)


def _time(settings: Settings, what: str, runs: dict[str, Callable[[], Any]], calls: list[Call]) -> None:
    dropin = settings.options.dropin
    with stage(what):
        timed = interleave(runs, settings.device, settings.calls(dropin.count), dropin.seconds)
        calls += [Call(what, name, samples.timing()) for name, samples in timed.items()]


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
