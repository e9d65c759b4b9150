"""The engine and the process it lives in: neither changes the other's settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import load_engine
from engine_folder import BACKENDS, Truth

NUM_ENVS = 11


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
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    plain = load_engine(folder, NUM_ENVS, backend=backend)
    plain.reset(motion=motion, command=command)
    plain.step()
    with torch.inference_mode():
        engine = load_engine(folder, NUM_ENVS, backend=backend)
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
        double = load_engine(folder, NUM_ENVS, backend=backend)
        double.reset(motion=motion, command=command)
        double.step()
        again = double.rollout(motion, command, num_frames=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dof_pos.dtype == double.command.dtype == torch.float32
    assert torch.equal(double.dof_pos, plain.dof_pos) and torch.equal(again, rolled)
