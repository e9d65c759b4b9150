"""Three clocks for one call, and contenders that take turns.

gpu     from event to event on the GPU while the host keeps its queue full: what the work costs the GPU.
wall    from the call until the GPU has finished, the queue empty before: what a caller feels who waits for each frame.
call    from the call until it returns, in those same calls: what a caller feels who does not wait.

On a CPU there is only wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from CMG_Ref.interrupts import raise_if_received

Run = Callable[[], object]
Failed = Callable[[str, Exception], None]

WARM_UP = 5
"""Calls before each block that are not timed: clocks, caches and allocators are then those of this contender."""

BLOCK = 100
"""Calls that a contender makes before it is the next one's turn."""

_CYCLES_PER_US = 1980  # of an H200; elsewhere the queue merely starts a little fuller or emptier


@dataclass(frozen=True)
class Quantiles:
    """Of the times of single calls, us."""

    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Timing:
    """One kind of call by the three clocks; ``gpu`` and ``call`` are None on a CPU, ``gpu`` also where nobody asked.

    Attributes:
        count: calls timed, by each clock.
    """

    count: int
    gpu: Quantiles | None
    wall: Quantiles
    call: Quantiles | None

    @property
    def cost(self) -> Quantiles:
        """What the call costs the device: on a GPU its own clock, on a CPU the wall clock."""
        return self.gpu or self.wall


@dataclass
class Samples:
    """Times of single calls, us."""

    gpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)

    def timing(self) -> Timing:
        """Their quantiles."""
        gpu, call = (_quantiles(times) if times else None for times in (self.gpu, self.call))
        return Timing(len(self.wall), gpu, _quantiles(self.wall), call)


def interleave(
    runs: Mapping[str, Run],
    device: torch.device,
    count: int,
    seconds: float,
    *,
    block: int = BLOCK,
    failed: Failed | None = None,
    samples: dict[str, Samples] | None = None,
    waiting: Collection[str] = (),
) -> dict[str, Samples]:
    """Time every one of ``runs``, in turns of ``block`` calls. The samples of those that got through it.

    Args:
        runs: name -> what is called. The calls of each must be alike.
        count: calls of each that are wanted, by each clock.
        seconds: how long one of ``runs`` may take by one clock; a slow one gets fewer calls, at least 3.
        failed: called with the name of one that raises, and its error, and the others go on without it. None: it is
            raised here.
        samples: what is returned, empty so far; so the caller has it when an interrupt comes.
        waiting: names of those whose calls make the host wait, so that the GPU's clock says no more than the wall's:
            they are timed by that alone.
    """
    samples = {} if samples is None else samples
    samples.update({name: Samples() for name in runs})
    counts: dict[str, int] = {}

    def attempt(name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # any library's
            raise_if_received()
            synchronise(device)  # where that fails too the device is lost, and every other contender with it
            if failed is None:
                raise
            del samples[name]
            failed(name, error)

    for name, run in runs.items():
        attempt(name, lambda name=name, run=run: counts.update({name: _affordable(run, device, count, seconds)}))
    turns = max(1, -(-max(counts.values(), default=0) // block))
    for turn in range(turns):
        raise_if_received()
        for name in list(samples):
            size = counts[name] * (turn + 1) // turns - counts[name] * turn // turns
            if size:
                block_of = time_block if name not in waiting else _wall_block
                attempt(name, lambda name=name, size=size, time=block_of: time(runs[name], device, size, samples[name]))
    return samples


def time_block(run: Run, device: torch.device, count: int, into: Samples) -> None:
    """``count`` calls by each clock."""
    for _ in range(WARM_UP if count > WARM_UP else 1):
        run()
    if device.type == "cuda":
        _gpu_block(run, device, count, into)
    _wall_block(run, device, count, into)


def _gpu_block(run: Run, device: torch.device, count: int, into: Samples) -> None:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    host = time.perf_counter() - start
    torch.cuda.synchronize(device)
    # The GPU sleeps while the host fills its queue, so that no event waits for the host.
    torch.cuda._sleep(int(_CYCLES_PER_US * min(1e5, 1.5e6 * host * count)))
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize(device)
    into.gpu += [1e3 * a.elapsed_time(b) for a, b in zip(events[:-1], events[1:], strict=True)]


def _wall_block(run: Run, device: torch.device, count: int, into: Samples) -> None:
    for _ in range(count):
        _, returned, finished = wait_for(run, device)
        into.wall.append(finished)
        if device.type == "cuda":
            into.call.append(returned)


def wait_for(run: Callable[[], Any], device: torch.device) -> tuple[Any, float, float]:
    """Call with an empty queue: what it returns, when it has returned, and when the GPU has finished, us."""
    synchronise(device)
    start = time.perf_counter()
    result = run()
    returned = time.perf_counter()
    synchronise(device)
    return result, 1e6 * (returned - start), 1e6 * (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait for the GPU, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _affordable(run: Run, device: torch.device, count: int, seconds: float) -> int:
    run()
    return int(max(3, min(count, 1e6 * seconds / wait_for(run, device)[2])))


def _quantiles(times: list[float]) -> Quantiles:
    p50, p99, p999 = np.quantile(times, [0.5, 0.99, 0.999]).tolist()
    return Quantiles(p50, p99, p999, max(times))
