"""What a process switches on around the runtime, and how it is split into others, changes no frame by a bit.

The number of threads is the exception: it may change the last bits.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, load_engine

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "golden" / "schema_1"
NUM_ENVS = 7
BACKENDS = ("torch", "torchscript", "onnx")

CHILD = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[3]))
from cmg_runtime import load_engine
engine = load_engine(sys.argv[1], 7, backend=sys.argv[2], seed=3)
engine.reset(command=[0.3, 0.1, -0.2])
for _ in range(5):
    engine.step()
print(json.dumps([torch.cat([engine.dof_pos, engine.dof_vel], dim=1).tolist(), torch.cuda.is_available()]))
"""


def started(backend: str) -> Engine:
    return load_engine(FOLDER, NUM_ENVS, backend=backend, seed=3)


def stepped(engine: Engine) -> torch.Tensor:
    """[NUM_ENVS, motion_dim]: the fifth frame after a reset."""
    engine.reset(command=[0.3, 0.1, -0.2])
    for _ in range(5):
        engine.step()
    return torch.cat([engine.dof_pos, engine.dof_vel], dim=1).clone()


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": deterministic,
    "default_dtype": default_dtype,
    "default_device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_of_the_process_change_nothing(backend: str, setting: str) -> None:
    expected = stepped(started(backend))
    switched: Callable[[], Any] = SETTINGS[setting]
    with switched():
        inside = started(backend)
        found = stepped(inside)
        rolled = inside.rollout(inside.bank, [0.3, 0.1, -0.2], num_frames=3)
    assert torch.equal(found, expected)
    inside.step()  # and it goes on after the setting has gone
    assert torch.equal(rolled, inside.rollout(inside.bank, [0.3, 0.1, -0.2], num_frames=3))
    plain = started(backend)  # loaded outside, used inside
    with switched():
        assert torch.equal(stepped(plain), expected)


def run_child(backend: str, num_threads: int, **variables: str) -> tuple[torch.Tensor, bool]:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(FOLDER), backend, str(num_threads)],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    frame, cuda = json.loads(done.stdout.splitlines()[-1])
    return torch.tensor(frame), cuda


def test_no_visible_gpu_changes_nothing_on_a_cpu() -> None:
    frame, cuda = run_child("torch", torch.get_num_threads(), CUDA_VISIBLE_DEVICES="")
    assert torch.equal(frame, stepped(started("torch"))) and not cuda


def test_threads_change_rounding_only() -> None:
    """A product that is split among threads is summed in another order, so here bits may differ.

    In processes of their own: a process that has run OpenMP's threads must not fork.
    """
    expected = stepped(started("torch"))
    for number in (1, 3):
        torch.testing.assert_close(run_child("torch", number)[0], expected, rtol=1e-5, atol=1e-6)


def load_and_step(backend: str, queue: Any) -> None:
    """In a child process, with one thread as torch's own data loaders have: a worker that loads an engine."""
    torch.set_num_threads(1)
    queue.put(stepped(started(backend)).numpy())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_worker_process_loads_its_own_engine(backend: str, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=load_and_step, args=(backend, queue))
    worker.start()
    try:
        found = queue.get(timeout=120)
    finally:
        worker.join(30)
    assert worker.exitcode == 0
    assert np.array_equal(found, stepped(started(backend)).numpy())


def step_inherited(engine: Engine, queue: Any) -> None:
    """In a forked child: the engine is the parent's."""
    torch.set_num_threads(1)
    queue.put(stepped(engine).numpy())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("backend", BACKENDS)
def test_engine_loaded_before_a_fork_works_in_the_child(backend: str) -> None:
    engine, expected = started(backend), stepped(started(backend))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=step_inherited, args=(engine, queue), daemon=True)
    worker.start()
    try:
        found = queue.get(timeout=60)
    finally:
        worker.join(30)
        worker.kill()
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(stepped(engine).numpy(), expected.numpy())  # and the parent's goes on by itself
