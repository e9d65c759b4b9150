"""What cannot fit into memory is refused in one line, before any of it is taken; what is estimated is measured."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.commands.smoother import CommandSmoother
from cmg_runtime.device import memory
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG
from cmg_runtime.window.footprint import engine_bytes
from cmg_runtime.window.frames import FrameLayout
from engine_folder import BACKENDS, COMPILED, SEED, Truth, make_engine_folder
from python_process import run_python
from window_case import random_robot_case

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets Linux's limits")
DOES_NOT_FIT = r"^[^\n]* does not fit into the memory of cpu \([^\n]*\); [^\n]*, or free memory$"
REFUSED = DOES_NOT_FIT.replace(r"\([^\n]*\)", r"\(it takes at least [\d,.]+ GB, and [\d,.]+ GB can be had\)")


def estimate(engine: Engine, num_envs: int) -> int:
    """Of an engine like this one."""
    manifest, layout = engine.manifest, None
    if engine.horizon > 1:
        layout = FrameLayout(manifest.sizes.num_joints, len(engine.key_body_names), manifest.robot is not None)
    return engine_bytes(manifest.sizes, num_envs, engine.horizon, layout, engine.device, engine.backend_name)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def peak_of(work: Callable[[], Any]) -> tuple[int, Any]:
    """How far the process's memory rises during ``work``, and its result."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    except OSError as error:
        pytest.skip(f"this machine does not tell a process its peak again: {error}")
    before, result = status("VmRSS"), work()
    return status("VmHWM") - before, result


@linux
def test_the_estimate_is_a_lower_bound_near_the_truth(tmp_path: Path, rng: np.random.Generator) -> None:
    """Many environments of a small network, whatever its sizes."""
    folder, joints, hidden, experts = tmp_path, *rng.integers([20, 4, 1], [50, 12, 4]).tolist()
    sizes = {"num_joints": joints, "hidden_dim": hidden, "num_experts": experts, "num_layers": 2}
    backend, horizon = str(rng.choice(BACKENDS)), int(rng.integers(1, 4))
    without = tuple({*COMPILED} - {backend})
    make_engine_folder(folder, int(rng.integers(1 << 30)), ("fp32",), without=without, **sizes)
    like_it = load_engine(folder, 700, "cpu", backend, "fp32", horizon=horizon)  # which warms libraries up, too
    num_envs = int(rng.uniform(80e6, 90e6) / estimate(like_it, 100_000) * 100_000)

    def run() -> Engine:
        engine = load_engine(folder, num_envs, "cpu", backend, "fp32", horizon=horizon)
        if horizon == 1:
            for part in torch.arange(num_envs).chunk(8):  # all at once would take more than a step does
                engine.reset(part)
            engine.step()
        return engine

    peak, engine = peak_of(run)
    needed = estimate(engine, num_envs)
    print(f"{sizes}, {backend}, {num_envs} environments, horizon {horizon}: {needed / 1e6:.0f} of {peak / 1e6:.0f} MB")
    assert 0.6 * peak < needed < 1.05 * peak


def stepped(folder: Path, backend: str, num_envs: int) -> Engine:
    engine = load_engine(folder, num_envs, backend=backend)
    engine.reset()
    engine.step()
    engine.step()
    return engine


@pytest.mark.slow
@linux
def test_a_frame_of_4096_environments_fits_in_500_mb(tmp_path: Path) -> None:
    make_engine_folder(tmp_path, SEED, ("fp32",), hidden_dim=512)
    for backend in BACKENDS:
        stepped(tmp_path, backend, 1)  # what libraries take by themselves
        peak, _ = peak_of(lambda backend=backend: stepped(tmp_path, backend, 4096))
        print(f"{backend}: {peak / 1e6:.0f} MB")
        assert 0 < peak < 500 << 20


LITTLE_MEMORY = """
import resource, sys
from cmg_runtime import EngineError, load_engine
from cmg_runtime.device import memory
memory.WORTH_ASKING = 1 << 20  # so that it can be tried with a small engine
folder, num_envs, needed, *shares = sys.argv[1], *map(float, sys.argv[2:])
no_limit = resource.getrlimit(resource.RLIMIT_AS)

def tried(backend, share):
    load_engine(folder, 600, "cpu", backend, horizon=6).reset()
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(mapped + share * needed), no_limit[1]))
    try:
        engine = load_engine(folder, int(num_envs), "cpu", backend, horizon=6)
        engine.reset([0])
        return "runs"
    except EngineError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, no_limit)

print(repr([[backend, share, tried(backend, share)] for share in shares for backend in ("torch", "onnx")]))
"""


@pytest.mark.slow
@linux
def test_under_ulimit_every_load_runs_or_is_refused_in_one_line(rng: np.random.Generator) -> None:
    """Below the estimate by it, above by whoever finds nothing; libraries write nothing to stderr."""
    folder, num_envs = random_robot_case()[0], 25_000
    needed = estimate(load_engine(folder, 2, horizon=6), num_envs)
    shares = [rng.uniform(0.2, 0.99), *rng.uniform(1.0, 1.4, 2).tolist(), 8.0]
    done = run_python("-c", LITTLE_MEMORY, *map(str, (folder, num_envs, needed, *shares)), OMP_NUM_THREADS="1")
    assert done.returncode == 0 and done.stderr == "", done.stderr[-3000:]
    for backend, share, said in eval(done.stdout.splitlines()[-1]):
        print(f"{backend} {share:.2f}: {said}")
        failed = "|^this engine failed [^\n]*allocate[^\n]*$"  # a reset may be what finds none
        wanted = REFUSED if share < 1 else f"^runs$|{DOES_NOT_FIT}{failed}" if share < 8 else "^runs$"
        assert re.search(wanted, said), (backend, share, said)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_beyond_any_machine(made: tuple[Path, Truth], backend: str) -> None:
    for num_envs, horizon in ((10**10, 1), (1 << 45, 1), (10**30, 1), (1 << 20, 1 << 30)):
        with pytest.raises(EngineError, match=REFUSED):
            load_engine(made[0], num_envs, backend=backend, horizon=horizon)


ASKED: dict[str, Callable[[Engine, Path], Any]] = {
    "rollout": lambda e, f: e.rollout(e.bank[:2], [0.1, 0.0, 0.1], 10**12),
    "a pool of many": lambda e, f: e.make_pool(10**13, 4, [0.1, 0.0, 0.1]),
    "a pool of long ones": lambda e, f: e.make_pool(3, 10**20, [0.1, 0.0, 0.1]),
    "motions": lambda e, f: MotionLibCMG(f, None, 10**13, num_envs=2, device="cpu", dof_dim=5, body_names=("root",)),
    "long motions": lambda e, f: MotionLibCMG(f, None, 4, 10**13, 2, "cpu", 5, body_names=("root",)),
    "commands": lambda e, f: CommandSampler(2, "cpu").sample_batch(10**30),
    "a sequence of commands": lambda e, f: CommandSampler(2, "cpu").sample_sequence(10**13, 5),
    "a smoother": lambda e, f: CommandSmoother(10**13, 5, "cpu"),
    "preloaded": lambda e, f: CMGMotionGenerator(f, None, 4, "cpu", preload_duration=10**13),
    "realtime": lambda e, f: MotionLibCMG(f, None, 4, 8, 10**13, "cpu", 5, mode="realtime", body_names=("root",)),
}


def test_other_things_that_are_too_large() -> None:
    folder = random_robot_case()[0]
    engine = load_engine(folder, 3, horizon=4)
    engine.reset()
    before = engine.future(range(4)).dof_pos
    for what in ASKED.values():
        with pytest.raises(EngineError, match=REFUSED):
            what(engine, folder)
    assert torch.equal(engine.future(range(4)).dof_pos, before)
    engine.step()


def test_copies_of_the_window_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine with 300 MB left: the lists that ask for more than a real one has are too long for a test."""
    engine = load_engine(random_robot_case()[0], 2000, "cpu", "torch", horizon=2, key_bodies=())
    engine.reset()
    monkeypatch.setattr(memory, "on_host", lambda: 300 << 20)
    width = FrameLayout(5, 0, True).width
    most = (300 << 20) // (4 * width * 2000)
    assert engine.future([1] * (most // 8)).dof_pos.shape[1] == most // 8
    ids = torch.zeros((most + 1) * 2000, dtype=torch.int64)
    for call in (
        lambda: engine.future([1] * (most + 1)),
        lambda: engine.future_view([0] * (most + 1)),
        lambda: engine.frames(ids, ids),
    ):
        with pytest.raises(EngineError, match=REFUSED):
            call()


def test_what_fits_on_paper_and_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(random_robot_case()[0], 3, horizon=4)
    engine.reset()
    monkeypatch.setattr(memory, "on_host", lambda: None)  # nothing can be learned
    for call in (ASKED["rollout"], ASKED["a pool of many"]):
        with pytest.raises(EngineError, match=DOES_NOT_FIT.replace(r"\([^\n]*\)", ".*allocate.*")):
            call(engine, Path())
    engine.step()


def write(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(str(value))


@pytest.mark.parametrize("swap", [0, 3 << 30])
def test_what_can_be_had_on_a_host(tmp_path: Path, swap: int, rng: np.random.Generator) -> None:
    """Control groups of both versions, as seen from inside a container and from outside, and the machine."""
    proc, groups, gb64 = tmp_path / "proc", tmp_path / "cgroup", 64 << 30

    def had() -> int | None:
        return memory.on_host(proc, groups)

    assert had() is None
    free, used, most, cached = (int(n) << 20 for n in rng.integers(64, 4096, 4))
    write(proc, meminfo=f"MemTotal: 99 kB\nMemAvailable:   {gb64 >> 10} kB\nSwapFree: {swap >> 10} kB\n")
    assert had() == gb64 + swap
    stat = f"anon 5\ninactive_file {cached}\nactive_file 4000\nslab_reclaimable 96\nslab_unreclaimable 9\n"

    write(proc / "self", cgroup="0::/user.slice/job\n")
    write(groups / "user.slice" / "job", memory__max=most + used, memory__current=used, memory__stat=stat)
    write(groups / "user.slice", memory__max="max", memory__current=used, memory__stat=stat)
    assert had() == most + cached + 4096 + swap
    write(groups / "user.slice", memory__max=used + 512, memory__current=used, memory__stat="anon 5\n")
    assert had() == 512 + swap  # the outer one is tighter
    write(groups / "user.slice", memory__max=used - 512)
    assert had() == max(swap - 512, 0)  # a limit that was lowered since

    write(proc / "self", cgroup="4:cpu,memory:/docker/0123\n1:cpu:/\n")
    assert had() == gb64 + swap
    words = {"memory__limit_in_bytes": most + used, "memory__usage_in_bytes": used}
    write(groups / "memory", **words, memory__stat=f"inactive_file 7\ntotal_inactive_file {cached}\n")
    assert had() == most + cached + swap
    write(proc, meminfo=f"MemAvailable: {free >> 10} kB\nSwapFree: {swap >> 10} kB\n")
    assert had() == min(free, most + cached) + swap


def test_what_can_be_had_on_a_gpu(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    free, reserved, taken = (int(n) << 20 for n in (rng.integers(400, 500), 300, rng.integers(1, 299)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken)
    device, most = torch.device("cuda", 1), free + reserved - taken
    memory.require_memory(most, device, "it", "take less")
    refused = "^it does not fit into the memory of cuda:1 .it takes at least .*; take less, or"
    with pytest.raises(EngineError, match=refused):
        memory.require_memory(most + 1, device, "it", "take less")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "fused", "onnx"])
def test_a_gpu_too_small_for_an_engine_is_left_alone(made: tuple[Path, Truth], backend: str) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for num_envs, horizon in ((10**10, 1), (10**7, 1000)):
        with pytest.raises(EngineError, match=REFUSED.replace("of cpu", "of cuda:0")):
            load_engine(random_robot_case()[0], num_envs, "cuda", backend, horizon=horizon)
    assert torch.cuda.memory_reserved() == before


@pytest.mark.gpu
@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_the_estimate_is_a_lower_bound_on_a_gpu(backend: str, horizon: int) -> None:
    folder = random_robot_case()[0]
    num_envs = 300_000  # so many that cuBLAS's workspaces, 32 MiB for each stream, matter little
    load_engine(folder, 700, "cuda", backend, "fp32", horizon=horizon).reset()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine = load_engine(folder, num_envs, "cuda", backend, "fp32", horizon=horizon)
    engine.reset()
    engine.step()
    torch.cuda.synchronize()
    needed, peak = estimate(engine, num_envs), torch.cuda.max_memory_allocated() - before
    print(f"{backend}, horizon {horizon}: {needed / 1e6:.0f} of {peak / 1e6:.0f} MB")
    assert 0.4 * peak < needed < 1.02 * peak
