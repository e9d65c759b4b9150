"""The engine's frames against the float64 reference, one environment at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from devices import EVERYWHERE, load, rough_products
from engine_folder import TOLERANCE, Truth, state


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
    if device == "cpu":  # where a rollout is stepping, to the bit
        assert torch.equal(engine.rollout(motion, command, num_frames=5), torch.stack(seen, dim=1))
        assert torch.equal(state(engine), seen[-1])
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
