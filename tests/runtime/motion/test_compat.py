"""What a process switches on around the runtime, and how it is split into others, changes no frame by a bit.

The number of threads is the exception: it may change the last bits.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.device import forks
from cmg_runtime.device.precision import full_precision
from dropin_case import g1_case
from engine_folder import CAN_EXPORT, shared_robot_folder

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "schema_1"
BACKENDS = ("torch", "torchscript", "onnx")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def run_script(script: str, *arguments: str, **variables: str) -> str:
    """What it prints; with a traceback where it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


LIVES = """
import contextlib, hashlib, json, sys
import torch
from cmg_runtime import BackendUnavailable, load_engine

folder, backend, precision, device = sys.argv[1:]
NUM_ENVS = 300 if device == "cuda" else 40

@contextlib.contextmanager
def switched(switch, on, off):
    switch(on)
    yield
    switch(off)

def started():
    return [load_engine(folder, NUM_ENVS, device, backend, precision, seed=3, horizon=horizon) for horizon in (1, 7)]

def life(engines):
    single, engine = engines
    ids, mask = torch.arange(20, device=device), torch.arange(NUM_ENVS, device=device) % 7 == 0
    for one in engines:
        one.reset(command=[0.3, 0.1, -0.2])
        for _ in range(5):
            one.step()
        one.set_command(torch.full((20, 3), 0.1, device=device), ids)
        one.reset(mask, motion=one.bank[:1].expand(NUM_ENVS, -1))
        one.step()
    rolled = single.rollout(single.bank[:5], [0.3, 0.1, -0.2], 3)
    pool = engine.make_pool(5, 9, [0.1, 0.0, 0.2], engine.bank[:5])
    engine.start(pool, ids % 5, ids * 0 + 1, env_ids=ids)
    parts = [*engine.future(range(7)), single.dof_pos, single.dof_vel, rolled]
    return hashlib.sha256(torch.cat([part.flatten() for part in parts]).cpu().numpy().tobytes()).hexdigest()

SETTINGS = {
    "plain": contextlib.nullcontext,
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast(device, dtype=torch.bfloat16),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "tf32": lambda: switched(torch.set_float32_matmul_precision, "high", "highest"),
    "default_dtype": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default_device": lambda: torch.device("cuda" if device == "cuda" else "meta"),
}
found = {}
try:
    for name, setting in SETTINGS.items():
        with setting():
            inside = started()
            found[name + ", inside"] = life(inside)
        outside = started()
        with setting():
            found[name + ", around its use"] = life(outside)
        for engine in (*inside, *outside):  # and it goes on after the setting has gone
            engine.step()
except BackendUnavailable as error:
    found = str(error)
print(json.dumps(found))
"""

ON_CUDA = [
    pytest.param("cuda", backend, precision, marks=pytest.mark.gpu)
    for backend in ("fused", "torch")
    for precision in ("fp32", "fp16")
]


@pytest.mark.slow
@pytest.mark.parametrize("device, backend, precision", [*(("cpu", name, "fp32") for name in BACKENDS), *ON_CUDA])
def test_settings_of_the_process_change_nothing(device: str, backend: str, precision: str) -> None:
    """In a process of its own: torch's deterministic mode needs cuBLAS to be told before its first use."""
    folder = shared_robot_folder()[0] if CAN_EXPORT else g1_case().folder
    said = run_script(LIVES, str(folder), backend, precision, device, CUBLAS_WORKSPACE_CONFIG=":4096:8")
    found = json.loads(said.splitlines()[-1])
    if not isinstance(found, dict):
        assert device == "cuda", found
        pytest.skip(found)
    assert len(found) == 16 and len(set(found.values())) == 1, found


def started(backend: str) -> Engine:
    return load_engine(FOLDER, 7, backend=backend, seed=3)


def stepped(engine: Engine) -> np.ndarray:
    """[7, motion_dim]: the fifth frame after a reset."""
    engine.reset(command=[0.3, 0.1, -0.2])
    for _ in range(5):
        engine.step()
    return torch.cat([engine.dof_pos, engine.dof_vel], dim=1).numpy().copy()


def from_worker(method: str, target: Any) -> Any:
    """What a process puts that calls ``target(queue)``."""
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=target, args=(queue,), daemon=True)
    process.start()
    try:
        return queue.get(timeout=120)
    finally:
        process.join(30)
        process.kill()


def load_and_step(queue: Any) -> None:
    """In a child process, with one thread as torch's own data loaders have; then with several."""
    torch.set_num_threads(1)
    frames = [stepped(started(backend)) for backend in BACKENDS]
    torch.set_num_threads(3)
    queue.put((frames, stepped(started("torch")), torch.cuda.is_available()))


@pytest.mark.slow
def test_a_spawned_worker_that_sees_no_gpu_gets_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is split among threads is summed in another order, so there bits may differ."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker, however many this process has
    expected = [stepped(started(backend)) for backend in BACKENDS]
    torch.set_num_threads(threads)
    frames, with_threads, cuda = from_worker("spawn", load_and_step)
    assert all(np.array_equal(found, frame) for found, frame in zip(frames, expected)) and not cuda
    np.testing.assert_allclose(with_threads, expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_no_gpu_is_seen_where_none_is_visible() -> None:
    script = "import sys, cmg_runtime; cmg_runtime.load_engine(sys.argv[1], 2, 'cuda')"
    with pytest.raises(AssertionError, match="'cuda' is not there, torch sees 0 CUDA devices; use device='cpu'"):
        run_script(script, str(FOLDER), CUDA_VISIBLE_DEVICES="")


FORKED = """
import gc, multiprocessing, os, sys
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from cmg_runtime import Engine, EngineError, load_engine

torch.set_num_threads(3)
FOLDER, *BACKENDS = sys.argv[1:]
NUM_ENVS = 2000  # so that torch's own operations are split among threads, too

def load(backend):
    return load_engine(FOLDER, NUM_ENVS, backend=backend)

def stepped(engine):
    engine.reset(motion=engine.bank[0], command=[0.3, 0.1, -0.2])
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


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
def test_forked_workers_of_a_process_with_threads_get_the_same_frames() -> None:
    """With engines alive, closed and dropped at the fork, all of them used before. In a process of its own, with
    several threads, which is what hangs where a fork is not provided for."""
    run_script(FORKED, str(FOLDER), *BACKENDS)


@needs_fork
@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_workers_where_openmp_cannot_give_its_threads_back(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the OpenMP of torch 2.1's wheels: its threads are still waited for in the child."""
    monkeypatch.setattr(forks, "_pause", None)
    monkeypatch.setattr(forks, "_waits_for_threads", True)
    before = torch.get_num_threads()

    def inherit_and_load(queue: Any) -> None:
        torch.randn(4000, 200).exp()  # which more than one thread would do together
        queue.put((stepped(engine), stepped(started(backend))))

    try:
        torch.set_num_threads(3)
        engine, expected = started(backend), stepped(started(backend))
        torch.randn(4000, 200).exp()
        for found in from_worker("fork", inherit_and_load):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.get_num_threads() == 3  # the parent's
    finally:
        torch.set_num_threads(before)


@needs_fork
def test_an_engine_on_a_gpu_says_in_a_forked_worker_that_it_cannot_work() -> None:
    engine = started("torch")
    engine.reset()

    def ask(queue: Any) -> None:
        try:
            engine.step()
        except EngineError as error:
            queue.put(str(error))

    home = engine.device
    engine.device = torch.device("cuda:0")  # as far as a fork is concerned: CUDA is not touched
    assert "start workers by spawn and load the engine in the worker" in from_worker("fork", ask)
    engine.device = home
    engine.step()  # the parent's goes on


def precision_of_products() -> str:
    """What the process has set for a CPU's float32 products, in torch's newer name or its older one."""
    flags = getattr(torch.backends.mkldnn, "matmul", None)
    return str(getattr(flags, "fp32_precision", None) or torch.get_float32_matmul_precision())


@needs_fork
def test_a_fork_while_another_thread_steps_leaves_the_worker_its_own_settings() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def step_for_long() -> None:
        with full_precision(torch.device("cpu")):
            inside.set()
            leave.wait(60)

    other, expected = threading.Thread(target=step_for_long), precision_of_products()
    try:
        other.start()
        assert inside.wait(60) and precision_of_products() != expected
        assert from_worker("fork", lambda queue: queue.put(precision_of_products())) == expected
    finally:
        leave.set()
        other.join(60)
        torch.set_float32_matmul_precision(before)
