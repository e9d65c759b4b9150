"""The kernels for what callers change, in Triton's interpreter, against their plain torch form. Run by test_fused.py in
a process of its own; see interpreted_kernels.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, inputs
from cmg_runtime.guard import Guard
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.ahead import AheadCopy
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.rebuild import Rebuilds
from cmg_runtime.window.triton.ahead import TritonAheadCopy
from cmg_runtime.window.triton.changes import TritonChanges
from cmg_runtime.window.triton.starts import TritonPoolStarts
from devices import operations
from window_case import assert_same, everything, load, quiet_report

NUM_ENVS = 19


def engines(
    ramp_s: float, horizon: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[Engine, Engine]:
    """A plain one and one of the kernels, in the midst of ramps, with the same random contents. From here on values are
    not looked at by the host, as those on a GPU are not."""
    begin, pair = generator.get_state(), []
    twins = (Changes, PoolStarts, AheadCopy), (TritonChanges, TritonPoolStarts, TritonAheadCopy)
    for changes, starts, copy in twins:
        generator.set_state(begin)
        monkeypatch.setattr("cmg_runtime.engine.make_changes", changes)
        monkeypatch.setattr("cmg_runtime.window.ring.ahead_copy", lambda device, copy=copy: copy)
        monkeypatch.setattr("cmg_runtime.engine.make_pool_starts", starts)
        engine = load(num_envs=NUM_ENVS, precision="fp32", horizon=horizon, command_ramp_s=ramp_s)
        for _ in range(2):
            engine.reset()
            engine.set_command(commands_of(engine, NUM_ENVS, generator))
            for _ in range(int(torch.randint(1, 9, (), generator=generator))):
                engine.step()
        pair.append(engine)
    monkeypatch.setattr(inputs, "require_finite", lambda tensor, name: None)
    monkeypatch.setattr(Guard, "require_within", lambda guard, motion, name: None)
    return pair[0], pair[1]


def commands_of(engine: Engine, n: int, generator: torch.Generator) -> torch.Tensor:
    low, high = engine.command_range
    return low + (high - low) * torch.rand(n, 3, generator=generator)


def selection(rng: np.random.Generator) -> tuple[Any, int]:
    """``env_ids`` in any form, and the rows that go with it."""
    ids = torch.tensor(rng.permutation(NUM_ENVS)[: rng.integers(1, NUM_ENVS)])
    mask = torch.tensor(rng.random(NUM_ENVS) < 0.5)
    return [(None, NUM_ENVS), (ids, len(ids)), (mask, NUM_ENVS)][rng.integers(3)]


def spoiled(rows: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A few rows with values that nobody may use, in memory with a gap after each row."""
    for value in (np.nan, np.inf, -np.inf, 1e6):
        rows[rng.integers(len(rows)), rng.integers(rows.shape[1])] = value
    return torch.cat([rows, rows], dim=1)[:, : rows.shape[1]]


def places(n: int, rng: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Both, one, or none, with values that nobody may use."""
    root_pos = spoiled(torch.randn(n, 3, generator=generator), rng)
    root_rot = spoiled(torch.randn(n, 4, generator=generator), rng)
    root_rot[0] *= 1e-25
    return {name: rows for name, rows in (("root_pos", root_pos), ("root_rot", root_rot)) if rng.random() < 0.6}


def compare(expected: Engine, seen: Engine) -> None:
    pair = []
    for engine in (expected, seen):
        pair.append({**everything(engine), "command": engine.command.clone()})
        if "root_rot" in pair[-1]:  # q and -q are one orientation, and half a turn has both
            rotation = pair[-1]["root_rot"]
            pair[-1]["root_rot"] = rotation[..., :, None] * rotation[..., None, :]
    assert_same(pair[1], pair[0], atol=3e-6, root_vel=2e-4)
    assert quiet_report(seen) == quiet_report(expected)


@pytest.mark.parametrize("ramp_s, horizon", [(0.5, 3), (0.0, 2), (0.3, 1)])
def test_resets_and_commands(
    ramp_s: float,
    horizon: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, seen = engines(ramp_s, horizon, generator, monkeypatch)
    for _ in range(12):
        env_ids, n = selection(rng)
        commands = spoiled(1.3 * torch.randn(n, 3, generator=generator), rng)
        if rng.random() < 0.3:
            commands = expected.command[:1].clone().expand(n, 3)  # what some have already
        if rng.random() < 0.4:
            for engine in (expected, seen):
                engine.set_command(commands, env_ids)
        else:
            motion = spoiled(0.3 * torch.randn(n, expected.bank.shape[1], generator=generator), rng)
            motion = motion if rng.random() < 0.7 else None
            given = commands if rng.random() < 0.5 else None
            place = places(n, rng, generator) if horizon > 1 else {}
            for engine in (expected, seen):
                engine.reset(env_ids, motion, given, **place)
        compare(expected, seen)
        moving = torch.tensor(rng.random(NUM_ENVS) < 0.7)
        for engine in (expected, seen):
            engine.step(moving)
    report = quiet_report(expected)
    assert min(report.commands_clamped, report.entries_clamped, report.commands_ignored, report.motions_ignored) > 0


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on ids are not looked at by the host, as those on a GPU are not."""
    monkeypatch.setattr("cmg_runtime.engine.select_envs", lambda ids, *_: EnvSelection(len(ids), ids=ids))


def test_of_an_id_that_is_given_twice_the_last_row_counts(
    rng: np.random.Generator, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, seen = engines(0.5, 3, generator, monkeypatch)
    unchecked(monkeypatch)
    for _ in range(3):
        ids = torch.tensor(rng.integers(0, NUM_ENVS, NUM_ENVS))
        motion = 0.3 * torch.randn(NUM_ENVS, expected.bank.shape[1], generator=generator)
        command, root_pos = torch.randn(2, NUM_ENVS, 3, generator=generator)
        rows = motion, command, root_pos
        last = torch.tensor(sorted({int(column): row for row, column in enumerate(ids)}.values()))
        seen.reset(ids, *rows)
        expected.reset(ids[last], *(values[last] for values in rows))
        compare(expected, seen)
        for engine, chosen in ((seen, torch.arange(NUM_ENVS)), (expected, last)):
            engine.set_command(command.flip(1)[chosen], ids[chosen])
        compare(expected, seen)


def test_a_change_is_a_copy_of_each_argument_and_a_graph(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine = engines(0.5, 3, generator, monkeypatch)
    unchecked(monkeypatch)
    ids, commands, count = torch.tensor([3, 0, 7]), commands_of(engine, 3, generator), []
    monkeypatch.setattr(Rebuilds, "run", lambda self, envs: count.append(envs.num_rows))  # on a GPU the graph
    place = {"root_pos": torch.zeros(3, 3), "root_rot": torch.ones(3, 4)}
    for most, change in (
        (3, lambda: engine.set_command(commands, ids)),
        (4, lambda: engine.reset(ids, command=commands)),
        (6, lambda: engine.reset(ids, engine.bank[:3], commands, **place)),
    ):
        assert len(operations(change)) <= most
    assert count == [3, 3, 3]


@pytest.mark.parametrize("ramp_s", [0.5, 0.0])
def test_starts_from_a_pool(
    ramp_s: float, rng: np.random.Generator, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, seen = engines(ramp_s, 11, generator, monkeypatch)
    pool = expected.make_pool(7, 40, commands_of(expected, 7, generator))
    for _ in range(4):
        env_ids, n = selection(rng)
        trajectories, frames = (torch.tensor(rng.integers(low, high, n)) for low, high in ((0, 7), (-5, 45)))
        place, clamped = places(n, rng, generator), []
        for engine in (expected, seen):
            before = pool.lookups_clamped()
            engine.start(pool, trajectories, frames, env_ids, **place)
            clamped.append(pool.lookups_clamped() - before)
        assert clamped[0] == clamped[1]
        compare(expected, seen)
        moving = torch.tensor(rng.random(NUM_ENVS) < 0.7)
        for engine in (expected, seen):
            engine.step(moving)
    assert quiet_report(expected).motions_ignored > 0 and pool.lookups_clamped() > 0
