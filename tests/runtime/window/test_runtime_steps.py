"""The engine's frames against the float64 reference, one environment at a time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from cmg_runtime import load_engine
from devices import EVERYWHERE, load, rough_products
from engine_folder import BACKENDS, SEED, TOLERANCE, Truth, state


@pytest.mark.parametrize("num_envs", [1, 63, 257, 513])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device, backend", EVERYWHERE)
def test_each_step_is_the_reference_step_whatever_the_caller_switched_on(
    made: tuple[Path, Truth], generator: torch.Generator, device: str, backend: str, precision: str, num_envs: int
) -> None:
    folder, truth = made
    engine = load(folder, num_envs, device, backend, precision, command_ramp_s=0.0)
    assert (engine.backend_name, engine.precision) == (backend, precision)
    motion, command = truth.states(num_envs, generator), truth.commands(num_envs, generator)
    engine.reset(motion=motion, command=command.to(device))
    seen = [state(engine)]
    with rough_products(device):
        for _ in range(5):
            dof_pos, dof_vel = engine.step()
            assert dof_pos.shape == dof_vel.shape == (num_envs, 5)
            seen.append(state(engine))
    for before, after in zip(seen, seen[1:]):
        assert truth.error(after, truth.step(before, command)) < TOLERANCE[precision]


@pytest.mark.parametrize("device, backend", EVERYWHERE)
def test_rollouts_of_any_size(made: tuple[Path, Truth], generator: torch.Generator, device: str, backend: str) -> None:
    folder, truth = made
    engine = load(folder, 2, device, backend, "fp32")  # never reset: rollouts do not need it
    for n, frames in ((1, 3), (33, 20), (511, 2), (512, 2), (1300, 3)):
        motion, commands = truth.states(n, generator), [truth.commands(n, generator) for _ in range(frames)]
        rolled = engine.rollout(motion, torch.stack(commands, dim=1).to(device))
        assert rolled.shape == (n, frames + 1, 10) and rolled.device == engine.device
        assert torch.equal(rolled[:, 0].cpu(), motion)
        expected = motion
        for t, command in enumerate(commands, start=1):
            expected = truth.step(expected, command)
            assert truth.error(rolled[:, t], expected) < 1e-4
    assert engine.rollout(motion, command, num_frames=0).shape == (1300, 1, 10)
    assert engine.rollout(motion[:0], command[:0], num_frames=6).shape == (0, 7, 10)
    for given in (command[0].tolist(), command[:1].expand(1300, 3)):
        rolled = engine.rollout(motion, given, num_frames=2)
        assert truth.error(rolled[:, 1], truth.step(motion, command[:1].expand(1300, 3))) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_interleavings_agree_with_a_plain_model_of_each_environment(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    """And a rollout is stepping, to the bit; no call changes a bit of the environments that it is not about."""
    (folder, truth), rng = made, random.Random(SEED)
    num_envs = rng.choice([3, 8, 17])
    engine = load_engine(folder, num_envs, backend=backend, command_ramp_s=0.0)
    start = truth.states(num_envs, generator)
    engine.reset(motion=start)
    motion, command = start.double(), torch.zeros(num_envs, 3, dtype=torch.float64)
    for _ in range(150):
        action = rng.choice(["step", "step", "step", "reset", "set_command", "both"])
        ids = rng.sample(range(num_envs), rng.randrange(num_envs + 1))
        rows, wanted = truth.states(len(ids), generator), 1.5 * truth.commands(len(ids), generator)
        before, others = state(engine), [i for i in range(num_envs) if i not in ids]
        if action == "step":
            rolled = engine.rollout(before, engine.command, num_frames=1)
            assert torch.equal(state(engine), before)
            engine.step()
            assert torch.equal(rolled[:, 1], state(engine))
            motion = truth.step(motion, command)
        elif action == "reset":
            engine.reset(ids, motion=rows)
        elif action == "set_command":
            engine.set_command(wanted, torch.tensor(ids, dtype=torch.long))
        else:
            engine.reset(ids, motion=rows, command=wanted)
        if action in ("reset", "both"):
            motion[ids] = rows.double()
        if action in ("set_command", "both"):
            command[ids] = torch.minimum(torch.maximum(wanted.double(), truth.low), truth.high)
        if action != "step":
            assert torch.equal(state(engine)[others], before[others])
        assert truth.error(state(engine), motion) < 1e-4, action
        assert torch.allclose(engine.command.double(), command, atol=1e-6), action
