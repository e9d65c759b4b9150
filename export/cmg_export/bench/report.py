"""The report as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from cmg_export.bench.results import BenchReport, Quantiles, Result, Target, Timing
from cmg_export.bench.targets import MANY_ENVS, NUM_ENVS, per_env_ratio

_WIDTH = 120
_COLUMN = 9

_CLOCKS = (
    "gpu: from event to event while the host keeps the queue full, what a frame costs the GPU. wall: from the call "
    "until the GPU has finished, nothing queued before, what a caller feels who waits for each frame. call: until the "
    "call returns, what a caller feels who does not wait. Contenders take turns. On a CPU there is only wall."
)

_QUANTILES = ("p50", "p99", "p99.9", "max")


def format_table(report: BenchReport) -> str:
    """The report, at most 120 columns wide."""
    blocks = [
        _head(report),
        _timings(report, "network only, one frame", {r.name: r.frame for r in report.results}),
        _timings(report, f"step(), window of {report.horizon} frames", {r.name: r.step for r in report.results}),
        _rebuilds(report),
        _costs(report),
        _sweep(report),
        _targets(report.targets, report),
        _left_out(report),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def _head(report: BenchReport) -> list[str]:
    machine = report.machine
    clocks = ", ".join(f"{name} {value}" for name, value in machine.clocks.items())
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    rates = ", ".join(f"{precision} {rate:.3g}" for precision, rate in machine.tflops.items())
    floor = ", ".join(
        f"{precision} {floors[str(report.num_envs)]:.1f} us" for precision, floors in report.floor_us.items()
    )
    num_envs, flop = report.num_envs, f"{report.flop_per_env / 1e6:.2f} MFLOP"
    lines = [
        f"Benchmark of {report.engine} on {machine.device}, {machine.processor}; seed {report.seed}, "
        f"{report.seconds:.0f} s",
        f"{versions}" + (f"; {clocks}" if clocks else ""),
        f"Floor of a frame of {num_envs} environments: {flop} each at the TFLOP/s of a large matrix product here "
        f"({rates}): {floor}",
        f"backend='auto': {report.selection}",
        _CLOCKS,
    ]
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH)]


def _timings(report: BenchReport, title: str, timings: dict[str, dict[str, Timing]]) -> list[str]:
    """Quantiles of every contender at the table's size."""
    rows = {name: sizes[str(report.num_envs)] for name, sizes in timings.items() if str(report.num_envs) in sizes}
    if not rows:
        return []
    on_gpu = any(timing.gpu for timing in rows.values())
    size = _names(report)
    columns = {"gpu": 4, "wall": 4, "call": 1} if on_gpu else {"wall": 4}
    lines = [
        f"{title}, {report.num_envs} environments, us",
        " " * size + "".join(_centred(clock, count) for clock, count in columns.items()),
        "contender".ljust(size) + _row([q for count in columns.values() for q in _QUANTILES[:count]] + ["calls"]),
    ]
    for name, timing in rows.items():
        cells = [cell for clock, count in columns.items() for cell in _cells(getattr(timing, clock), count)]
        lines.append(name.ljust(size) + _row([*cells, str(timing.count)]))
    return lines


def _rebuilds(report: BenchReport) -> list[str]:
    windows = sorted({int(count) for result in report.results for count in result.rebuild})
    if not windows:
        return []
    size = _names(report)
    lines = [
        f"rebuild of windows by reset(env_ids), {report.horizon} frames, ms, p50 by the GPU's clock and by the wall's",
        " " * size + "".join(_centred(f"{count} windows", 2) for count in windows),
        "contender".ljust(size) + _row(["gpu", "wall"] * len(windows)),
    ]
    for result in report.results:
        if result.rebuild:
            timings = [result.rebuild.get(str(count)) for count in windows]
            clocks = [clock for timing in timings for clock in ((timing.gpu, timing.wall) if timing else (None, None))]
            cells = ["-" if clock is None else f"{clock.p50 / 1000:.3f}" for clock in clocks]
            lines.append(result.name.ljust(size) + _row(cells))
    return lines


def _costs(report: BenchReport) -> list[str]:
    """Errors, memory, and how cost grows with the number of environments."""
    size = _names(report)
    lines = [
        "error of one step to float64 (relative); memory, MiB: of a frame beyond what is loaded, of an engine beyond",
        "weights and window by torch's allocator and by the driver; cost per environment at "
        f"{MANY_ENVS} against {NUM_ENVS}",
        " " * size + " " * _COLUMN + _centred("memory, MiB", 3) + _centred("cost per env", 2),
        "contender".ljust(size) + _row(["error", "frame", "engine", "driver", "frame", "step()"]),
    ]
    for r in report.results:
        memory = [_number(value, ".1f") for value in (r.frame_memory_mib, r.memory_mib, r.device_memory_mib)]
        ratios = [_number(per_env_ratio(timings), ".2f") for timings in (r.frame, r.step)]
        lines.append(r.name.ljust(size) + _row([f"{r.error:.1e}", *memory, *ratios]))
    return lines


def _sweep(report: BenchReport) -> list[str]:
    sizes = sorted({int(size) for result in report.results for size in result.frame})
    if len(sizes) < 2:
        return []
    width = _names(report)
    lines = [
        "network only, one frame, p50 us" + (" by the GPU's clock" if report.machine.device != "cpu" else ""),
        "contender".ljust(width) + _row([str(size) for size in sizes]),
    ]
    for result in report.results:
        lines.append(result.name.ljust(width) + _row([_p50(result, size) for size in sizes]))
    for precision, floors in report.floor_us.items():
        lines.append(f"floor {precision}".ljust(width) + _row([f"{floors[str(size)]:.1f}" for size in sizes]))
    return lines


def _targets(targets: Sequence[Target], report: BenchReport) -> list[str]:
    size = max(len(target.what) for target in targets)
    held = f": {report.auto}, what backend='auto' loads, by the GPU's clock" if report.auto else ""
    lines = [f"bars, {NUM_ENVS} environments{held}", " " * size + "          " + _row(["found", "at least", "aim"])]
    for target in targets:
        cells = [_number(value, ".4g") for value in (target.value, target.at_least, target.aim)]
        lines.append(f"{target.what.ljust(size)}  {target.unit.ljust(8)}{_row(cells)}  {target.verdict}")
    return lines


def _left_out(report: BenchReport) -> list[str]:
    return [part for line in report.left_out for part in textwrap.wrap(f"left out: {line}", _WIDTH)]


def _p50(result: Result, size: int) -> str:
    timing = result.frame.get(str(size))
    return "-" if timing is None else f"{timing.cost.p50:.1f}"


def _cells(quantiles: Quantiles | None, count: int) -> list[str]:
    if quantiles is None:
        return ["-"] * count
    values = (quantiles.p50, quantiles.p99, quantiles.p999, quantiles.max)
    return [f"{value:.1f}" if value < 1e5 else f"{value:.0f}" for value in values[:count]]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _names(report: BenchReport) -> int:
    return max(len("contender"), *(len(result.name) for result in report.results))


def _row(cells: Sequence[str]) -> str:
    return "".join(cell.rjust(_COLUMN) for cell in cells)


def _centred(title: str, columns: int) -> str:
    return "  " + f" {title} ".center(columns * _COLUMN - 2, "-")
