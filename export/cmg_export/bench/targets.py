"""Which figures are held to a bar: those of the engine that ``backend="auto"`` loads, by the GPU's own clock."""

from __future__ import annotations

from cmg_export.bench.results import Result, Target
from cmg_export.timing import Timing

NUM_ENVS, MANY_ENVS = 4096, 65_536
"""The bars are for 4096 environments on one H200; cost per environment compares the two."""


def judge(results: tuple[Result, ...], auto: str, on_gpu: bool) -> tuple[Target, ...]:
    """The bars, with the figures of the contender called ``auto`` where they were measured on a GPU."""
    result = next((result for result in results if result.name == auto), None) if on_gpu else None
    frame = step = ratio = windows = some = per_env = memory = None
    if result is not None:
        frame, step = _p50(result.frame, NUM_ENVS), _p50(result.step, NUM_ENVS)
        if str(NUM_ENVS) in result.step:
            cost = result.step[str(NUM_ENVS)].cost
            ratio = cost.p99 / cost.p50
        windows, some = _p50(result.rebuild, NUM_ENVS), _p50(result.rebuild, 64)
        per_env = per_env_ratio(result.step)
        memory = result.memory_mib
    rows = [
        ("network only, one frame, p50", "us", frame, 30.0, 20.0),
        ("step(), p50", "us", step, 70.0, 40.0),
        ("step(), p99 / p50", "", ratio, 1.15, 1.05),
        ("rebuild 4096 windows, p50", "ms", _ms(windows), 3.5, 2.0),
        ("rebuild 64 windows, p50", "ms", _ms(some), 1.0, 0.6),
        ("torch's peak beyond weights and window", "MiB", memory, 64.0, 16.0),
        ("step() per environment, 65536 / 4096", "", per_env, 1.0, 0.8),
    ]
    return tuple(
        Target(what, unit, value, auto if value is not None else "", at_least, aim)
        for what, unit, value, at_least, aim in rows
    )


def per_env_ratio(timings: dict[str, Timing]) -> float | None:
    """Cost of an environment among 65 536 over that among 4096; None where one was not measured."""
    few, many = _p50(timings, NUM_ENVS), _p50(timings, MANY_ENVS)
    return None if few is None or many is None else (many / MANY_ENVS) / (few / NUM_ENVS)


def _p50(timings: dict[str, Timing], key: int) -> float | None:
    timing = timings.get(str(key))
    return None if timing is None else timing.cost.p50


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1000
