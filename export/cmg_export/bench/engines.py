"""The whole engine: ``step()`` with its window, the rebuild of windows, and what frames and engines take of memory."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import TypeVar

import torch

from cmg_export.bench.contenders import Contender
from cmg_export.bench.floor import weight_bytes
from cmg_export.bench.settings import Settings
from cmg_runtime import Engine, load_engine
from cmg_runtime.window.frames import FrameLayout

T = TypeVar("T")

REBUILT = (16, 64, 256, 4096)
"""Windows that are rebuilt at once."""

_SETS = 16  # different choices of environments to rebuild


def start(contender: Contender, settings: Settings, num_envs: int) -> Engine:
    """An engine of ``contender``, all of whose environments have been reset under random commands in its range."""
    artifact, options = contender.artifact, settings.options
    assert artifact is not None
    engine = load_engine(
        options.engine,
        num_envs,
        device=settings.device,
        backend=artifact.backend,
        precision=artifact.precision,
        seed=options.seed,
        horizon=options.horizon,
    )
    engine.reset(command=random_commands(engine, num_envs, options.seed))
    return engine


def random_commands(engine: Engine, count: int, seed: int) -> torch.Tensor:
    """[count, command_dim], uniform in the engine's range, on its device."""
    low, high = engine.command_range
    generator = torch.Generator(device=engine.device).manual_seed(seed)
    return low + (high - low) * torch.rand(count, len(low), generator=generator, device=engine.device)


def rebuild(engine: Engine, count: int, seed: int) -> Callable[[], None]:
    """A function that resets ``count`` environments, others each time, to states of the bank under new commands.

    Ids and commands are on the engine's device, as a simulator has them.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(engine.num_envs, generator=generator)[:count].to(engine.device) for _ in range(_SETS)]
    choices = itertools.cycle([None] if count == engine.num_envs else orders)
    commands = itertools.cycle(random_commands(engine, _SETS * count, seed).split(count))
    return lambda: engine.reset(next(choices), command=next(commands))


def with_peak(make: Callable[[], T], device: torch.device) -> tuple[T, float | None]:
    """What ``make`` returns, and the peak of torch's allocator meanwhile beyond what stayed, MiB; None on a CPU."""
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, (torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)) / 2**20


def measure_memory(contender: Contender, settings: Settings) -> tuple[float, float]:
    """Load an engine on a GPU, step it, rebuild some windows and then all: what it took beyond its weights and its
    window, MiB, by torch's allocator and by the driver (see ``Result``)."""
    device, num_envs, options = settings.device, settings.num_envs, settings.options
    weights = _weights_held(contender, settings)
    settle(device)
    torch.cuda.reset_peak_memory_stats(device)
    allocated, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    engine = start(contender, settings, num_envs)
    for count in (min(64, num_envs), num_envs):
        again = rebuild(engine, count, options.seed)
        for _ in range(10):
            engine.step()
            again()
    torch.cuda.synchronize(device)
    row = FrameLayout(len(engine.joint_names), len(engine.key_body_names), has_robot=True).width
    known = weights + (4 * options.horizon * num_envs * row if options.horizon > 1 else 0)
    peak = torch.cuda.max_memory_allocated(device) - allocated - known
    taken = free - torch.cuda.mem_get_info(device)[0] - known
    return peak / 2**20, taken / 2**20


def _weights_held(contender: Contender, settings: Settings) -> int:
    """Bytes that the weights take of torch's allocator: by count, and no more than loading them took."""
    artifact, device = contender.artifact, settings.device
    assert artifact is not None
    settle(device)
    before = torch.cuda.memory_allocated(device)
    loaded = contender.load(settings.num_envs)
    taken = torch.cuda.memory_allocated(device) - before
    del loaded
    return min(taken, weight_bytes(settings.manifest.sizes, artifact.precision))


def settle(device: torch.device) -> None:
    """Give back to the driver what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
