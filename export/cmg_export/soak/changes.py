"""Random resets and command changes, drawn before the run so that none makes the host wait, and their effect."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmg_runtime import Engine

COUNTS = (1, 3, 16, 17, 64, 100, 257, 1000)
"""Environments of a change by ids, besides all of them: sizes at, between and beyond those that are graphs on CUDA."""

BEYOND = 1.15
"""Commands are drawn from the range this many times as wide, so that some are clamped."""


@dataclass(frozen=True)
class Expected:
    """What the engine's counters must have counted.

    Attributes:
        commands, entries: commands with an entry outside the range, and such entries.
        lookups: frames asked for outside the window.
    """

    commands: int = 0
    entries: int = 0
    lookups: int = 0

    def __add__(self, other: Expected) -> Expected:
        return Expected(self.commands + other.commands, self.entries + other.entries, self.lookups + other.lookups)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One call of ``reset`` or ``set_command``, and a look at some frames after it. Tensors are on the engine's device.

    Attributes:
        resets: a reset; else a change of command.
        env_ids: as the engine takes them: ids, a mask, or None for all.
        columns: [n] int64, the environments that it is about.
        rows: [n] int64, their rows in what follows.
        command: [num_rows, 3], or None to leave it.
        motion: [num_rows, motion_dim], or None to draw from the bank.
        root_pos: [num_rows, 3], or None to leave it.
        root_rot: [num_rows, 4], or None to leave it.
        looked: ids and offsets [m] of single frames to look at.
        expected: what it adds to the counters.
    """

    resets: bool
    env_ids: torch.Tensor | None
    columns: torch.Tensor
    rows: torch.Tensor
    command: torch.Tensor | None
    motion: torch.Tensor | None
    root_pos: torch.Tensor | None
    root_rot: torch.Tensor | None
    looked: tuple[torch.Tensor, torch.Tensor]
    expected: Expected

    def apply(self, engine: Engine) -> None:
        """Do it."""
        if self.resets:
            engine.reset(self.env_ids, self.motion, self.command, self.root_pos, self.root_rot)
        else:
            engine.set_command(self.command, self.env_ids)
        engine.frames(*self.looked)
        engine.future((0, engine.horizon - 1))


def first_reset(engine: Engine, generator: torch.Generator) -> Change:
    """A reset of all environments, under commands in the range."""
    return _draw(engine, generator, resets=True, form="all", count=engine.num_envs, beyond=1.0)


def draw_changes(engine: Engine, generator: torch.Generator) -> list[Change]:
    """One of every kind and size: resets and commands, by ids of each count, by masks, and for all.

    Args:
        generator: on the CPU.
    """
    counts = [count for count in COUNTS if count < engine.num_envs]
    forms = [("ids", count) for count in counts] + [("mask", 0), ("mask", 0), ("all", engine.num_envs)]
    return [
        _draw(engine, generator, resets, form, count, BEYOND) for form, count in forms for resets in (True, True, False)
    ]


def _draw(engine: Engine, generator: torch.Generator, resets: bool, form: str, count: int, beyond: float) -> Change:
    n, device = engine.num_envs, engine.device

    def chance(share: float) -> bool:
        return float(torch.rand((), generator=generator)) < share

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if form == "mask":
        mask = torch.rand(n, generator=generator) < float(torch.rand((), generator=generator))
        env_ids, columns, num_rows = mask, mask.nonzero().flatten(), n
        rows = columns
    else:
        columns = torch.randperm(n, generator=generator)[:count]
        env_ids = None if form == "all" else columns
        columns = torch.arange(n) if form == "all" else columns
        rows, num_rows = torch.arange(len(columns)), len(columns)

    command = None
    expected = Expected()
    if not resets or chance(0.7):
        low, high = (bound.cpu() for bound in engine.command_range)
        middle, half = (high + low) / 2, (high - low) / 2
        command = middle + beyond * half * (2 * torch.rand(num_rows, 3, generator=generator) - 1)
        if beyond == 1.0:
            command = command.clamp(low, high)
        outside = ((command < low) | (command > high))[rows]
        expected = Expected(int(outside.any(dim=1).sum()), int(outside.sum()))
    places = resets and chance(0.5)
    bank = engine.bank.cpu()
    drawn = bank[torch.randint(len(bank), (num_rows,), generator=generator)]
    ids = torch.randint(n, (32,), generator=generator)
    offsets = torch.randint(-3, engine.horizon + 3, (32,), generator=generator)
    lookups = int(((offsets < 0) | (offsets >= engine.horizon)).sum())

    def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    return Change(
        resets=resets,
        env_ids=moved(env_ids),
        columns=columns.to(device),
        rows=rows.to(device),
        command=moved(command),
        motion=moved(drawn if resets and chance(0.5) else None),
        root_pos=moved(torch.cat([10 * normal(num_rows, 2), 0.2 * normal(num_rows, 1)], dim=1) if places else None),
        root_rot=moved(normal(num_rows, 4) if places else None),
        looked=(ids.to(device), offsets.to(device)),
        expected=expected + Expected(lookups=lookups),
    )


class Told:
    """What the environments were told so far: their commands, of which changes are approached in ramps, and the ground
    under them.

    All of it in float64, from the calls alone: nothing is asked of the engine. Nothing here makes the host wait.

    Args:
        command_range: (min, max), [3] each.
        ramp_frames: length of a ramp; more than 0.
    """

    def __init__(self, num_envs: int, command_range: tuple[torch.Tensor, torch.Tensor], ramp_frames: float) -> None:
        low, high = self._range = command_range
        self._ramp_frames = ramp_frames
        self._start = torch.zeros(num_envs, len(low), dtype=torch.float64, device=low.device)
        self._target = torch.zeros_like(self._start)
        self._changed_at = torch.zeros(num_envs, dtype=torch.float64, device=high.device)
        self.ground = torch.zeros_like(self._changed_at)

    def note(self, change: Change, step: int) -> None:
        """``change`` was made after so many steps."""
        envs, rows = change.columns, change.rows
        start, target, changed_at = self._start[envs], self._target[envs], self._changed_at[envs]
        if change.command is not None:
            low, high = self._range
            wanted = torch.minimum(torch.maximum(change.command[rows], low), high).double()
            other = (wanted != target).any(dim=1)
            start = torch.where(other[:, None], self.in_force(step, 0)[envs], start)
            target = torch.where(other[:, None], wanted, target)
            changed_at = changed_at.masked_fill(other, float(step))  # of torch.where's scalar the host would wait
        if change.resets:
            start = target
        self._start[envs], self._target[envs], self._changed_at[envs] = start, target, changed_at
        if change.root_pos is not None:
            self.ground[envs] = change.root_pos[rows, 2].double()

    def in_force(self, step: int, ahead: int) -> torch.Tensor:
        """[num_envs, 3] float64: the commands in force ``ahead`` frames after those that ``step`` steps led to."""
        share = ((step + ahead - self._changed_at) / self._ramp_frames).clamp(max=1).unsqueeze(1)
        return self._start + share * (self._target - self._start)
