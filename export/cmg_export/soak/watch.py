"""What the process and the GPU hold, and how long a step takes, without waiting for the GPU while it steps."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

BURST = 512
"""Steps that are timed before each check, at the most."""


@dataclass(frozen=True)
class Memory:
    """What is held at a moment when nothing is under way.

    Attributes:
        rss: the process's resident memory, MiB; None where the system does not tell.
        allocated, reserved: of torch's allocator on the GPU, MiB; None on a CPU.
        device: of the GPU, by all processes, MiB; None on a CPU.
        tensors: torch tensors that Python can reach.
        objects: objects that Python's collector knows.
    """

    rss: float | None
    allocated: float | None
    reserved: float | None
    device: float | None
    tensors: int
    objects: int


def read_memory(device: torch.device) -> Memory:
    """Collect what nobody holds, wait for the GPU, and count."""
    gc.collect()
    allocated = reserved = used = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        allocated = torch.cuda.memory_allocated(device) / 2**20
        reserved = torch.cuda.memory_reserved(device) / 2**20
        free, total = torch.cuda.mem_get_info(device)
        used = (total - free) / 2**20
    known = gc.get_objects()
    # By type: isinstance would ask objects that pretend to be of another class.
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in known)
    return Memory(
        rss=_resident(), allocated=allocated, reserved=reserved, device=used, tensors=tensors, objects=len(known)
    )


def _resident() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Latency:
    """Of single steps, us.

    Attributes:
        count: steps timed.
        p50, p99: quantiles, by the GPU's clock, or by the wall on a CPU.
        busy: what the processor was kept busy by half of the steps, by all threads; None on a GPU. Other processes
            make the wall's times longer, and leave these alone.
    """

    count: int
    p50: float
    p99: float
    busy: float | None


class StepTimes:
    """Times steps in bursts. On CUDA a step lies between two events, which are made once and read after the burst."""

    def __init__(self, device: torch.device) -> None:
        pairs = range(BURST if device.type == "cuda" else 0)
        self._events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in pairs]
        self._on_cpu: list[tuple[float, float]] = []
        self._timed = 0
        self._bursts: list[np.ndarray] = []  # [2, n] us: by the clock, and busy

    def run(self, step: Callable[[], object]) -> None:
        """Make a step of a burst; at most :data:`BURST` of them."""
        if self._events:
            before, after = self._events[self._timed]
            before.record()
            step()
            after.record()
            self._timed += 1
            return
        wall, busy = time.perf_counter(), time.process_time()
        step()
        self._on_cpu.append((time.perf_counter() - wall, time.process_time() - busy))

    def end(self) -> float:
        """Keep the burst, and return its median, us. On CUDA the GPU must have come to its end."""
        if self._events:
            gpu = [1e3 * before.elapsed_time(after) for before, after in self._events[: self._timed]]
            self._bursts.append(np.array([gpu, gpu]))
        else:
            self._bursts.append(1e6 * np.array(self._on_cpu).T)
        self._on_cpu, self._timed = [], 0
        return float(np.median(self._bursts[-1][0]))

    def forget(self) -> None:
        """The bursts so far were a warm-up."""
        self._bursts.clear()

    def first_and_last(self) -> tuple[Latency, Latency] | None:
        """Of the first tenth of the bursts and of the last, at least one each; None where there are fewer than two."""
        if len(self._bursts) < 2:
            return None
        tenth = max(1, len(self._bursts) // 10)
        return self._latency(self._bursts[:tenth]), self._latency(self._bursts[-tenth:])

    def _latency(self, bursts: list[np.ndarray]) -> Latency:
        times, busy = np.concatenate(bursts, axis=1)
        p50, p99 = np.quantile(times, [0.5, 0.99]).tolist()
        return Latency(len(times), p50, p99, None if self._events else float(np.median(busy)))
