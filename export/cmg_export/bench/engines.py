"""The whole engine: ``step()`` with its window, and the rebuild of windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cmg_export.bench.contenders import Contender
from cmg_runtime import Engine, load_engine
from cmg_runtime.folder.manifest import Manifest

REBUILT = (16, 64, 256, 4096)
"""Windows that are rebuilt at once."""

_SETS = 16  # different choices of environments to rebuild


@dataclass(frozen=True)
class Plan:
    """What engines are loaded from, and how.

    Attributes:
        horizon: frames of window, the current one included; 1 is no window.
    """

    folder: Path
    manifest: Manifest
    device: torch.device
    horizon: int
    seed: int


def start(contender: Contender, plan: Plan, num_envs: int) -> Engine:
    """An engine of ``contender``, all of whose environments have been reset under random commands in its range."""
    artifact = contender.artifact
    assert artifact is not None
    engine = load_engine(
        plan.folder,
        num_envs,
        device=plan.device,
        backend=artifact.backend,
        precision=artifact.precision,
        seed=plan.seed,
        horizon=plan.horizon,
    )
    engine.reset(command=random_commands(engine, num_envs, plan.seed))
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
