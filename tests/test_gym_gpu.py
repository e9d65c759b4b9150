"""The environment's reference on a GPU: starts by one graph and a mask are starts by ids."""

from __future__ import annotations

import pytest
import torch

from cmg_runtime import load_engine
from test_window import random_robot_case

pytest.importorskip("mjlab")

from cmg_gym.reference_sources import RealtimeSource
from cmg_gym.start_states import StartStates

NUM_ENVS, OFFSETS = 300, (0, 1, 3, 7)


@pytest.mark.parametrize(
    "device, backend",
    [
        ("cpu", "torch"),
        pytest.param("cuda", "torch", marks=pytest.mark.gpu),
        pytest.param("cuda", "fused", marks=pytest.mark.gpu),
    ],
)
def test_planned_starts_are_the_engines_starts(
    device: str, backend: str, seed: int, generator: torch.Generator
) -> None:
    """The same frames to the bit, in the environments that begin and in the others, over many steps."""
    engine, plain = (
        load_engine(random_robot_case()[0], NUM_ENVS, device, backend, horizon=8, command_ramp_s=0.1) for _ in range(2)
    )
    states = StartStates(engine, num_trajectories=20, num_frames=30, ahead=OFFSETS[-1], seed=seed)
    source = RealtimeSource(engine, states, OFFSETS)
    low, high = engine.command_range

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    for index in range(40):
        if index:
            source.step()
            plain.step()
        if index % 3 == 0:
            commands = low + torch.rand(NUM_ENVS, 3, generator=generator).to(device) * (high - low)
            starts, place, heading = states.draw(commands), drawn(NUM_ENVS, 3), drawn(NUM_ENVS, 4)
            source.plan(starts, place, heading)
        chosen = int(torch.randint(1, 9, (1,), generator=generator)) if index else NUM_ENVS
        ids = torch.randperm(NUM_ENVS, generator=generator)[:chosen].to(device)
        source.start(ids)
        plain.start(states.pool, starts.trajectory_ids[ids], starts.frame_ids[ids], ids, place[ids], heading[ids])
        if index % 7 == 0:
            source.set_command(ids, commands[ids])
            plain.set_command(commands[ids], ids)
        for name, seen, expected in zip(source.frames()._fields, source.frames(), plain.future(OFFSETS), strict=True):
            assert torch.equal(seen, expected), (index, name)
        assert torch.equal(source.command, plain.command_in_force)
