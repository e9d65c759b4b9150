"""The engine and the process it lives in: neither changes the other's settings, and memory stays small."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import load_engine
from engine_folder import BACKENDS, SEED, Truth, make_engine_folder

NUM_ENVS = 11


@pytest.mark.parametrize("backend", BACKENDS)
def test_modes_of_the_caller_neither_leak_in_nor_out(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    folder, truth = made
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


def test_nothing_global_changes(made: tuple[Path, Truth]) -> None:
    def settings() -> list[Any]:
        return [
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # pyright: ignore[reportIndexIssue, reportArgumentType, reportCallIssue]
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            logging.getLogger().level,
        ]

    before = settings()
    for backend in BACKENDS:
        engine = load_engine(made[0], NUM_ENVS, backend=backend)
        engine.reset()
        engine.step()
        engine.rollout(engine.bank, [0.0] * 3, 2)
    assert settings() == before


def test_a_default_dtype_of_float64_makes_no_difference(made: tuple[Path, Truth]) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        engine = load_engine(made[0], NUM_ENVS)
        engine.reset()
        dof_pos, _ = engine.step()
        assert dof_pos.dtype == engine.command.dtype == engine.rollout(engine.bank, [0.0] * 3, 1).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


MEMORY_SCRIPT = r"""
import os, re, sys
from cmg_runtime import load_engine
def high_water():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024
for backend in sys.argv[2:]:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    engine = load_engine(sys.argv[1], 1, backend=backend)  # what the libraries take by themselves
    engine.reset(); engine.step()
    idle = high_water()
    engine = load_engine(sys.argv[1], 4096, backend=backend)
    engine.reset(); engine.step(); engine.step()
    print(backend, high_water() - idle, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_frame_of_4096_environments_fits_in_500_mb(tmp_path: Path) -> None:
    make_engine_folder(tmp_path, SEED, ("fp32",), hidden_dim=512)
    runtime = str(Path(__file__).resolve().parents[3] / "runtime")
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path), *BACKENDS]
    environment = {**os.environ, "PYTHONPATH": runtime, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    print(result.stdout)
    extra = dict(line.split() for line in result.stdout.splitlines())
    assert tuple(extra) == BACKENDS and all(0 < float(megabytes) < 500 for megabytes in extra.values())
