"""The engine's frames against the float64 reference, whatever the caller's process has set; and it stays as it was."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
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


def settings() -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # pyright: ignore[reportIndexIssue, reportArgumentType, reportCallIssue]
        *(torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision()),
        *(torch.is_grad_enabled(), logging.getLogger().level),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_of_the_caller_neither_leak_in_nor_out(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    (folder, truth), before = made, settings()
    motion, command = truth.states(11, generator), truth.commands(11, generator)
    plain = load_engine(folder, 11, backend=backend)
    plain.reset(motion=motion, command=command)
    plain.step()
    with torch.inference_mode():
        engine = load_engine(folder, 11, backend=backend)
    engine.reset(motion=motion.requires_grad_(), command=command.requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dof_pos, dof_vel = engine.step()
    assert torch.equal(dof_pos, plain.dof_pos) and torch.equal(dof_vel, plain.dof_vel)
    assert not dof_pos.requires_grad and not engine.command.requires_grad
    with torch.inference_mode():
        engine.set_command(command)
        engine.reset([2], command=engine.command_range[1] + 1)
        engine.step()
        inference = engine.rollout(motion, command, num_frames=2)
    engine.reset([1])
    engine.step()
    with torch.enable_grad():
        rolled = engine.rollout(motion, command, num_frames=2)
    assert torch.equal(rolled, inference) and not rolled.requires_grad
    assert settings() == before
    torch.set_default_dtype(torch.float64)
    try:
        double = load_engine(folder, 11, backend=backend)
        double.reset(motion=motion, command=command)
        double.step()
        again = double.rollout(motion, command, num_frames=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dof_pos.dtype == double.command.dtype == torch.float32
    assert torch.equal(double.dof_pos, plain.dof_pos) and torch.equal(again, rolled)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_interleavings_agree_with_a_plain_model_of_each_environment(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    folder, truth = made
    rng = random.Random(SEED)
    num_envs = rng.choice([3, 8, 17])
    engine = load_engine(folder, num_envs, backend=backend, command_ramp_s=0.0)
    start = truth.states(num_envs, generator)
    engine.reset(motion=start)
    motion = [row.double() for row in start]
    command = [torch.zeros(3, dtype=torch.float64) for _ in range(num_envs)]
    for _ in range(150):
        action = rng.choice(["step", "step", "step", "reset", "set_command", "both"])
        ids = rng.sample(range(num_envs), rng.randrange(num_envs + 1))
        rows, wanted = truth.states(len(ids), generator), 1.5 * truth.commands(len(ids), generator)
        before, others = state(engine), [i for i in range(num_envs) if i not in ids]
        if action == "step":
            engine.step()
            for i in range(num_envs):
                motion[i] = truth.step(motion[i][None], command[i][None])[0]
        elif action == "reset":
            engine.reset(ids, motion=rows)
        elif action == "set_command":
            engine.set_command(wanted, torch.tensor(ids, dtype=torch.long))
        else:
            engine.reset(ids, motion=rows, command=wanted)
        for row, i in enumerate(ids):
            if action in ("reset", "both"):
                motion[i] = rows[row].double()
            if action in ("set_command", "both"):
                command[i] = torch.minimum(torch.maximum(wanted[row].double(), truth.low), truth.high)
        if action != "step":
            assert torch.equal(state(engine)[others], before[others])
        assert truth.error(state(engine), torch.stack(motion)) < 1e-4, action
        assert torch.allclose(engine.command.double(), torch.stack(command), atol=1e-6), action
