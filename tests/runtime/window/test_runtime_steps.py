"""The engine's frames against the float64 reference, one environment at a time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from cmg_runtime import load_engine
from engine_folder import BACKENDS, SEED, TOLERANCE, Truth, state


@pytest.mark.parametrize("num_envs", [1, 63, 257])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_step_is_the_reference_step(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str, precision: str, num_envs: int
) -> None:
    folder, truth = made
    engine = load_engine(folder, num_envs, backend=backend, precision=precision, command_ramp_s=0.0)
    assert (engine.backend_name, engine.precision) == (backend, precision)
    motion, command = truth.states(num_envs, generator), truth.commands(num_envs, generator)
    engine.reset(motion=motion, command=command)
    for _ in range(5):
        before = state(engine)
        dof_pos, dof_vel = engine.step()
        assert dof_pos.shape == dof_vel.shape == (num_envs, 5)
        assert truth.error(torch.cat([dof_pos, dof_vel], 1), truth.step(before, command)) < TOLERANCE[precision]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rollout_is_stepping_and_leaves_the_engine_alone(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    folder, truth = made
    n, frames = 21, 12
    engine = load_engine(folder, n, backend=backend, command_ramp_s=0.0)
    motion = truth.states(n, generator)
    commands = torch.stack([truth.commands(n, generator) for _ in range(frames)], dim=1)
    engine.reset(motion=motion, command=commands[:, 0])
    rolled = engine.rollout(motion, commands)
    assert torch.equal(state(engine), motion)
    assert torch.equal(engine.command, commands[:, 0])
    assert torch.equal(rolled[:, 0], motion)
    expected = motion
    for t in range(frames):
        engine.set_command(commands[:, t])
        engine.step()
        expected = truth.step(expected, commands[:, t])
        assert torch.equal(rolled[:, t + 1], state(engine))
    assert truth.error(rolled[:, -1], expected) < 1e-4


def test_rollout_of_any_size(made: tuple[Path, Truth], generator: torch.Generator) -> None:
    folder, truth = made
    engine = load_engine(folder, 2, backend="torch")  # never reset: rollouts do not need it
    for n in (1, 5, 1300):
        motion, command = truth.states(n, generator), truth.commands(n, generator)
        rolled = engine.rollout(motion, command, num_frames=3)
        expected = truth.step(truth.step(truth.step(motion, command), command), command)
        assert rolled.shape == (n, 4, 10)
        assert truth.error(rolled[:, 3], expected) < 1e-4
    assert engine.rollout(motion, command, num_frames=0).shape == (1300, 1, 10)
    assert engine.rollout(motion[:0], command[:0], num_frames=6).shape == (0, 7, 10)
    one_for_all = engine.rollout(motion, command[0].tolist(), num_frames=2)
    assert truth.error(one_for_all[:, 1], truth.step(motion, command[:1].expand(1300, -1))) < 1e-5


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
        assert truth.error(state(engine), torch.stack(motion)) < 1e-4, action
        assert torch.allclose(engine.command.double(), torch.stack(command), atol=1e-6), action


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_partial_reset_leaves_the_others_bit_identical(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    folder, truth = made
    one, other = (load_engine(folder, 19, backend=backend, command_ramp_s=0.0) for _ in range(2))
    motion, command = truth.states(19, generator), truth.commands(19, generator)
    for engine in (one, other):
        engine.reset(motion=motion, command=command)
        engine.step()
    touched = torch.tensor([0, 7, 18])
    one.reset(touched, motion=truth.states(3, generator), command=truth.commands(3, generator))
    for _ in range(4):
        untouched = torch.ones(19, dtype=torch.bool).index_fill(0, touched, False)
        assert torch.equal(one.dof_pos[untouched], other.dof_pos[untouched])
        assert torch.equal(one.dof_vel[untouched], other.dof_vel[untouched])
        assert not torch.equal(one.dof_pos[touched], other.dof_pos[touched])
        one.step()
        other.step()
