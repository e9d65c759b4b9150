"""The report as plain text."""

from __future__ import annotations

from cmg_export.bench.results import BenchReport, Result
from cmg_export.bench.targets import MANY_ENVS, NUM_ENVS, per_env_ratio
from cmg_export.reporting import centred, number, row, widest, wrapped
from cmg_export.timing import Quantiles, Timing

_CLOCKS = (
    "gpu: from event to event while the host keeps the queue full, what a frame costs the GPU. wall: from the call "
    "until the GPU has finished, nothing queued before, what a caller feels who waits for each frame. call: until the "
    "call returns, what a caller feels who does not wait. Implementations take turns. On a CPU there is only wall."
)

_QUANTILES = ("p50", "p99", "p99.9", "max")


def format_table(report: BenchReport) -> str:
    """The report, at most 120 columns wide."""
    size = widest([result.name for result in report.results], "what")
    engine = [
        _timings(report, size, "network only, one frame", {r.name: r.frame for r in report.results}),
        _timings(report, size, f"step(), window of {report.horizon} frames", {r.name: r.step for r in report.results}),
        _rebuilds(report, size),
        _costs(report, size),
        _sweep(report, size),
        _targets(report),
    ]
    rest = [_dropin(report), _time_share(report), _training(report), _left_out(report)]
    blocks = [_head(report), *(engine if report.results else []), *rest]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def _head(report: BenchReport) -> list[str]:
    machine = report.machine
    clocks = ", ".join(f"{name} {value}" for name, value in machine.clocks.items())
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    rates = ", ".join(f"{precision} {rate:.3g}" for precision, rate in machine.tflops.items())
    floor = ", ".join(
        f"{precision} {floors[str(report.num_envs)]:.1f} us" for precision, floors in report.floor_us.items()
    )
    lines = [
        f"Benchmark of {report.engine} on {machine.device}, {machine.processor}; seed {report.seed}, "
        f"{report.seconds:.0f} s",
        f"{versions}" + (f"; {clocks}" if clocks else ""),
        f"Arithmetic alone of {report.num_envs} environments: {report.flop_per_env / 1e6:.2f} MFLOP each at the "
        f"TFLOP/s of a large matrix product here ({rates}): {floor}",
        f"backend='auto': {report.selection}",
        _CLOCKS,
    ]
    return [part for line in lines for part in wrapped(line)]


def _timings(report: BenchReport, size: int, title: str, timings: dict[str, dict[str, Timing]]) -> list[str]:
    """Quantiles of every contender at the table's size."""
    rows = {name: sizes[str(report.num_envs)] for name, sizes in timings.items() if str(report.num_envs) in sizes}
    if not rows:
        return []
    on_gpu = any(timing.gpu for timing in rows.values())
    columns = {"gpu": 4, "wall": 4, "call": 1} if on_gpu else {"wall": 4}
    lines = [
        f"{title}, {report.num_envs} environments, us",
        " " * size + "".join(centred(clock, count) for clock, count in columns.items()),
        "what".ljust(size) + row([q for count in columns.values() for q in _QUANTILES[:count]] + ["calls"]),
    ]
    for name, timing in rows.items():
        cells = [cell for clock, count in columns.items() for cell in _cells(getattr(timing, clock), count)]
        lines.append(name.ljust(size) + row([*cells, str(timing.count)]))
    return lines


def _rebuilds(report: BenchReport, size: int) -> list[str]:
    windows = sorted({int(count) for result in report.results for count in result.rebuild})
    if not windows:
        return []
    lines = [
        f"rebuild of windows by reset(env_ids), {report.horizon} frames, ms, p50 by the GPU's clock and by the wall's",
        " " * size + "".join(centred(f"{count} windows", 2) for count in windows),
        "what".ljust(size) + row(["gpu", "wall"] * len(windows)),
    ]
    for result in report.results:
        if result.rebuild:
            timings = [result.rebuild.get(str(count)) for count in windows]
            clocks = [clock for timing in timings for clock in ((timing.gpu, timing.wall) if timing else (None, None))]
            lines.append(result.name.ljust(size) + row([number(clock and clock.p50 / 1000, ".3f") for clock in clocks]))
    return lines


def _costs(report: BenchReport, size: int) -> list[str]:
    """Errors, memory, and how cost grows with the number of environments."""
    lines = [
        "error of one step to float64 (relative); memory, MiB: of a frame beyond what is loaded, of an engine beyond",
        "weights and window by torch's allocator and by the driver; cost per environment at "
        f"{MANY_ENVS} against {NUM_ENVS}",
        " " * size + row([""]) + centred("memory, MiB", 3) + centred("cost per env", 2),
        "what".ljust(size) + row(["error", "frame", "engine", "driver", "frame", "step()"]),
    ]
    for r in report.results:
        memory = [number(value, ".1f") for value in (r.frame_memory_mib, r.memory_mib, r.device_memory_mib)]
        ratios = [number(per_env_ratio(timings), ".2f") for timings in (r.frame, r.step)]
        lines.append(r.name.ljust(size) + row([f"{r.error:.1e}", *memory, *ratios]))
    return lines


def _sweep(report: BenchReport, width: int) -> list[str]:
    sizes = sorted({int(size) for result in report.results for size in result.frame})
    if len(sizes) < 2:
        return []
    lines = [
        "network only, one frame, p50 us" + (" by the GPU's clock" if report.machine.device != "cpu" else ""),
        "what".ljust(width) + row([str(size) for size in sizes]),
    ]
    for result in report.results:
        lines.append(result.name.ljust(width) + row([_p50(result, size) for size in sizes]))
    for precision, floors in report.floor_us.items():
        lines.append(f"arithmetic {precision}".ljust(width) + row([f"{floors[str(size)]:.1f}" for size in sizes]))
    return lines


def _targets(report: BenchReport) -> list[str]:
    size = widest([target.what for target in report.targets], "")
    held = f": {report.auto}, what backend='auto' loads, by the GPU's clock" if report.auto else ""
    lines = [f"targets, {NUM_ENVS} environments{held}", " " * size + "          " + row(["found", "at most", "aim"])]
    for target in report.targets:
        cells = [number(value, ".4g") for value in (target.value, target.at_least, target.aim)]
        lines.append(f"{target.what.ljust(size)}  {target.unit.ljust(8)}{row(cells)}  {target.verdict}")
    return lines


def _dropin(report: BenchReport) -> list[str]:
    """The calls of the drop-in interfaces, by the wall clock."""
    if not report.dropin:
        return []
    names = [f"{call.what}: {call.contender}" for call in report.dropin]
    size = widest(names, "call")
    lines = [
        f"drop-in interfaces, {report.num_envs} environments, us by the wall, and by the GPU's clock; "
        "reference: as that does it",
        "call".ljust(size) + row(["p50", "p99", "max", "calls", "gpu p50"]),
    ]
    for name, call in zip(names, report.dropin, strict=True):
        wall, gpu = call.timing.wall, call.timing.gpu
        cells = [f"{wall.p50:.0f}", f"{wall.p99:.0f}", f"{wall.max:.0f}", str(call.timing.count)]
        lines.append(name.ljust(size) + row([*cells, number(gpu.p50 if gpu else None, ".0f")]))
    return lines


def _time_share(report: BenchReport) -> list[str]:
    found = report.time_share
    if found is None:
        return []
    size = widest([share.backend for share in found.shares], "backend")
    lines = [
        f"the reference's part of a training environment's step, {found.num_envs} robots, {found.steps} steps, ms",
        "(waited: for each; queued: without waiting; starts: episodes begun in a step)",
        " " * size + row([""]) + centred("reference", 3),
        "backend".ljust(size) + row(["step", "waited", "share", "queued", "starts"]),
    ]
    for share in found.shares:
        times = [f"{share.step:.2f}", f"{share.reference:.3f}", f"{100 * share.share:.2f} %", f"{share.queued:.3f}"]
        lines.append(share.backend.ljust(size) + row([*times, f"{share.resets:.1f}"]))
    contrast = (
        f"For contrast, the textbook form (a weight matrix per environment), {found.textbook_envs} environments: "
        f"{found.textbook_frame_ms:.2f} ms a frame, {found.textbook_frame_ms * found.frames_ahead:.0f} ms for the "
        f"{found.frames_ahead} frames ahead that a step asks for."
    )
    return [*lines, *wrapped(contrast)]


def _training(report: BenchReport) -> list[str]:
    found = report.time_share
    if found is None or not found.training:
        return []
    size = widest([speed.name for speed in found.training], "environment")
    lines = [
        f"a training environment's step, {found.num_envs} robots, ms, and an iteration of PPO from scratch, s",
        "(wall: waited for; host: until the call returns; starts: episodes begun in a step; whole: with all between)",
        " " * size + centred("wall", 2) + centred("host", 2) + centred("kernels", 2) + row([""])
        + centred("iteration", 4),
        "environment".ljust(size)
        + row(["p50", "p99", "p50", "p99", "ms", "number", "starts", "whole", "collect", "learn", "steps/s"]),
    ]  # fmt: skip
    for speed in found.training:
        wall, host = speed.step.wall, speed.step.call
        steps = [f"{1e-3 * value:.2f}" for value in (wall.p50, wall.p99)]
        steps += [f"{1e-3 * value:.2f}" for value in (host.p50, host.p99)] if host else ["-"] * 2
        kernels = [number(speed.kernel_ms, ".2f"), number(speed.kernels, ".0f"), f"{speed.resets:.1f}"]
        iteration = [f"{seconds:.3f}" for seconds in (speed.iteration, speed.collection, speed.learning)]
        lines.append(speed.name.ljust(size) + row([*steps, *kernels, *iteration, f"{speed.steps_per_second:.0f}"]))
    return lines


def _left_out(report: BenchReport) -> list[str]:
    return [part for line in report.left_out for part in wrapped(f"left out: {line}")]


def _p50(result: Result, size: int) -> str:
    timing = result.frame.get(str(size))
    return "-" if timing is None else f"{timing.cost.p50:.1f}"


def _cells(quantiles: Quantiles | None, count: int) -> list[str]:
    if quantiles is None:
        return ["-"] * count
    values = (quantiles.p50, quantiles.p99, quantiles.p999, quantiles.max)
    return [f"{value:.1f}" if value < 1e5 else f"{value:.0f}" for value in values[:count]]
