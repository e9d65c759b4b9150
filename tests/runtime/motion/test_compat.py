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
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.device import forks
from cmg_runtime.device.precision import full_precision

ROOT = Path(__file__).resolve().parents[3]
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
    """A product that is split among threads is summed in another order, so here bits may differ."""
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


FORKED = """
import gc, multiprocessing, os, sys
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.device.precision import full_precision

torch.set_num_threads(3)
FOLDER, *BACKENDS = sys.argv[1:]
NUM_ENVS = 2000  # so that torch's own operations are split among threads, too

def load(backend):
    return load_engine(FOLDER, NUM_ENVS, backend=backend)

def stepped(engine):
    engine.reset(motion=engine.bank[0], command=[0.3, 0.1, -0.2], command_at_once=True)
    for _ in range(3):
        engine.step()
    return torch.cat([engine.dof_pos, engine.dof_vel], dim=1).numpy().copy()

def tried(use):
    try:
        return use()
    except EngineError as error:
        return str(error)

class Frames(Dataset):
    def __init__(self, use):
        self.use = use
    def __len__(self):
        return 2
    def __getitem__(self, index):
        gc.collect()  # which a long run does sooner or later
        return tried(self.use)

def from_loader(use):
    rows = list(DataLoader(Frames(use), num_workers=1, batch_size=None, timeout=60, multiprocessing_context="fork"))
    assert len(rows) == 2
    return rows[1]

def from_process(use):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=lambda: (gc.collect(), sender.send(tried(use))))
    worker.start()
    assert receiver.poll(60), "the worker hangs"
    answer = receiver.recv()
    worker.join(60)
    assert worker.exitcode == 0, worker.exitcode
    return answer

def check(ask, same, backend, engine, expected):
    assert same(ask(lambda: stepped(engine)), expected), "alive"
    assert np.array_equal(stepped(engine), expected), "the parent's, afterwards"
    with load(backend) as closed:
        stepped(closed)
    assert "was closed; load it again" in ask(lambda: stepped(closed)), "closed"
    own = [load(backend)]
    own += [own, stepped(own[0])]  # in a cycle, so that it is the worker's collector that frees it there
    del own
    assert same(ask(lambda: stepped(load(backend))), expected), "dropped"

def close(found, expected):
    return np.allclose(found, expected, rtol=1e-4, atol=1e-5)

for backend in BACKENDS:
    engine = load(backend)
    expected = stepped(engine)
    check(from_loader, close, backend, engine, expected)  # its workers have one thread, so they round otherwise
    check(from_process, np.array_equal, backend, engine, expected)
    assert np.array_equal(from_process(lambda: from_process(lambda: stepped(engine))), expected), "a worker's worker"
    threads = len(os.listdir("/proc/self/task"))
    del engine
    assert len(os.listdir("/proc/self/task")) == threads - (2 if backend == "onnx" else 0), "the session's threads"
os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
def test_forked_workers_of_a_process_with_threads_get_the_same_frames() -> None:
    """With engines alive, closed and dropped at the fork, all of them used before. In a process of its own, with
    several threads, which is what hangs where a fork is not provided for."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(FOLDER), *BACKENDS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=150,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_workers_where_openmp_cannot_give_its_threads_back(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the OpenMP of torch 2.1's wheels: its threads are still waited for in the child."""
    monkeypatch.setattr(forks, "_pause", None)
    monkeypatch.setattr(forks, "_waits_for_threads", True)
    before = torch.get_num_threads()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def inherit_and_load() -> None:
        rows = torch.randn(4000, 200).exp()  # which more than one thread would do together
        queue.put((stepped(engine).numpy(), stepped(started(backend)).numpy(), len(rows)))

    worker = context.Process(target=inherit_and_load, daemon=True)
    try:
        torch.set_num_threads(3)
        engine, expected = started(backend), stepped(started(backend)).numpy()
        torch.randn(4000, 200).exp()
        worker.start()
        for found in queue.get(timeout=60)[:2]:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.get_num_threads() == 3  # the parent's
    finally:
        torch.set_num_threads(before)
        worker.join(30)
        worker.kill()


def ask_engine_on_a_gpu(engine: Engine, queue: Any) -> None:
    try:
        engine.step()
    except EngineError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_an_engine_on_a_gpu_says_in_a_forked_worker_that_it_cannot_work() -> None:
    engine = started("torch")
    engine.reset()
    home = engine.device
    engine.device = torch.device("cuda:0")  # as far as a fork is concerned: CUDA is not touched
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=ask_engine_on_a_gpu, args=(engine, queue), daemon=True)
    worker.start()
    try:
        assert "start workers by spawn and load the engine in the worker" in queue.get(timeout=60)
    finally:
        worker.join(30)
        worker.kill()
    engine.device = home
    engine.step()  # the parent's goes on


def precision_of_products() -> str:
    """What the process has set for a CPU's float32 products, in torch's newer name or its older one."""
    flags = getattr(torch.backends.mkldnn, "matmul", None)
    return str(getattr(flags, "fp32_precision", None) or torch.get_float32_matmul_precision())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_steps_leaves_the_worker_its_own_settings() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def step_for_long() -> None:
        with full_precision(torch.device("cpu")):
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=step_for_long)
    expected = precision_of_products()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=lambda: queue.put(precision_of_products()), daemon=True)
    try:
        other.start()
        assert inside.wait(60) and precision_of_products() != expected
        worker.start()
        assert queue.get(timeout=60) == expected
    finally:
        leave.set()
        other.join(60)
        worker.join(30)
        worker.kill()
        torch.set_float32_matmul_precision(before)
