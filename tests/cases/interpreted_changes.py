"""The kernels for what callers change, in Triton's interpreter, against their plain torch form. Run by test_fused.py in
a process of its own; see interpreted_kernels.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, load_engine
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.triton.changes import FusedChanges
from cmg_runtime.window.triton.starts import FusedPoolStarts
from engine_folder import shared_robot_folder

NUM_ENVS = 19


def engines(ramp_s: float, horizon: int, generator: torch.Generator) -> tuple[Engine, Engine]:
    """Two alike, in the midst of ramps, with the same random contents."""
    start, pair = generator.get_state(), []
    for _ in range(2):
        generator.set_state(start)
        engine = load_engine(
            shared_robot_folder()[0], NUM_ENVS, "cpu", "torch", "fp32", horizon=horizon, command_ramp_s=ramp_s
        )
        low, high = engine.command_range
        for _ in range(2):
            engine.reset(command=low + (high - low) * torch.rand(NUM_ENVS, 3, generator=generator))
            for _ in range(int(torch.randint(1, 9, (), generator=generator))):
                engine.step()
        pair.append(engine)
    return pair[0], pair[1]


def selection(rng: np.random.Generator) -> EnvSelection:
    form = rng.integers(3)
    if form == 0:
        return EnvSelection(NUM_ENVS)
    if form == 1:
        ids = torch.tensor(rng.permutation(NUM_ENVS)[: rng.integers(1, NUM_ENVS)])
        return EnvSelection(len(ids), ids=ids)
    return EnvSelection(NUM_ENVS, mask=torch.tensor(rng.random(NUM_ENVS) < 0.5))


def spoiled(rows: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A few rows with values that nobody may use, in memory with a gap after each row."""
    for value in (np.nan, np.inf, -np.inf, 1e6):
        rows[rng.integers(len(rows)), rng.integers(rows.shape[1])] = value
    return torch.cat([rows, rows], dim=1)[:, : rows.shape[1]]


def places(
    n: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Both, one, or none, with values that nobody may use."""
    root_pos = spoiled(torch.randn(n, 3, generator=generator), rng)
    root_rot = spoiled(torch.randn(n, 4, generator=generator), rng)
    root_rot[0] *= 1e-25
    return (root_pos if rng.random() < 0.6 else None), (root_rot if rng.random() < 0.6 else None)


def contents(engine: Engine) -> dict[str, torch.Tensor]:
    """All that a change writes, of all environments."""
    state, window = engine._state, engine._window
    ramp = state.ramp
    named = {"current": state.current, "initial": ramp.initial, "target": ramp.target, "elapsed": ramp.elapsed}
    if window is not None:
        buffers = window.buffers
        named |= {
            name: getattr(buffers, name)
            for name in ("placement", "ground", "fresh", "newest_motion", "newest_root", "next_command")
        }
        for name in ("placement", "newest_root"):
            named[name] = without_turns(named[name])
        assert engine._writer is not None
        layout, named["frames"] = engine._writer.layout, buffers.ring.transpose(0, 1).clone()
        rotation = named["frames"][..., layout.root_rot : layout.root_vel]
        rotation *= rotation[..., :1].clone()  # q and -q are one orientation, and half a turn has both
        vertical = layout.root_vel + 2  # a difference of heights, times 50 frames a second
        named["vertical"] = named["frames"][..., vertical].clone()
        named["frames"][..., vertical] = 0
    counts = engine._counters.counts
    return {**{name: value[:NUM_ENVS].clone() for name, value in named.items()}, "counts": counts.clone()}


def without_turns(root: torch.Tensor) -> torch.Tensor:
    """Root states [n, 4] with the yaw, of which half a turn has two, as a point on a circle: [n, 5]."""
    return torch.cat([root[:, :3], torch.cos(root[:, 3:]), torch.sin(root[:, 3:])], dim=1)


def compare(expected: Engine, seen: Engine) -> None:
    wanted, found = contents(expected), contents(seen)
    for name, value in wanted.items():
        tolerance = 2e-4 if name == "vertical" else 3e-6
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("ramp_s, horizon", [(0.5, 3), (0.0, 2), (0.3, 1)])
def test_resets_and_commands(ramp_s: float, horizon: int, rng: np.random.Generator, generator: torch.Generator) -> None:
    expected, seen = engines(ramp_s, horizon, generator)
    pair = []
    for engine, kind in ((expected, Changes), (seen, FusedChanges)):
        buffers = None if engine._window is None else engine._window.buffers
        pair.append(kind(engine._state, engine._counters, buffers))
    plain, fused = pair
    for _ in range(12):
        envs = selection(rng)
        n = envs.num_rows
        commands = spoiled(1.3 * torch.randn(n, 3, generator=generator), rng)
        if rng.random() < 0.3:
            commands = expected.command[:1].expand(n, 3)  # what some have already
        if rng.random() < 0.4:
            plain.set_command(envs, commands)
            fused.set_command(envs, commands)
        else:
            motion = spoiled(0.3 * torch.randn(n, expected.bank.shape[1], generator=generator), rng)
            root_pos, root_rot = places(n, rng, generator) if horizon > 1 else (None, None)
            given, at_once = (commands if rng.random() < 0.5 else None), bool(rng.random() < 0.5)
            plain.reset(envs, motion, root_pos, root_rot, given, at_once)
            fused.reset(envs, motion, root_pos, root_rot, given, at_once)
        compare(expected, seen)
    assert int(expected._counters.counts[:4].min()) > 0


@pytest.mark.parametrize("ramp_s", [0.5, 0.0])
def test_starts_from_a_pool(ramp_s: float, rng: np.random.Generator, generator: torch.Generator) -> None:
    expected, seen = engines(ramp_s, 11, generator)
    low, high = expected.command_range
    pool = expected.make_pool(7, 40, low + (high - low) * torch.rand(7, 3, generator=generator))
    pair = []
    for engine, kind in ((expected, PoolStarts), (seen, FusedPoolStarts)):
        assert engine._window is not None and engine._writer is not None
        pair.append(kind(engine._window.buffers, engine._counters, engine._writer))
    for _ in range(4):
        envs = selection(rng)
        n = envs.num_rows
        trajectories, frames = (torch.tensor(rng.integers(low, high, n)) for low, high in ((0, 7), (-5, 45)))
        root_pos, root_rot = places(n, rng, generator)
        clamped = []
        for starts in pair:
            before = pool.lookups_clamped()
            starts.start(pool, envs, trajectories, frames, root_pos, root_rot)
            clamped.append(pool.lookups_clamped() - before)
        assert clamped[0] == clamped[1]
        compare(expected, seen)
        for engine in (expected, seen):
            engine.step()
    assert int(expected._counters.counts[3]) > 0 and pool.lookups_clamped() > 0
