"""What a soak found: the table, and ``soak.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from cmg_export.soak.compare import Deviation
from cmg_export.soak.limits import ALLOWED, ALLOWED_ALWAYS, GROWTH
from cmg_export.soak.watch import Latency, Memory
from cmg_runtime.window.report import Report

FILE_NAME = "soak.json"


@dataclass(frozen=True)
class Check:
    """One look at the engine.

    Attributes:
        step: after so many.
        deviations: kind -> how far the windows were off, at the most.
    """

    step: int
    deviations: dict[str, float]
    memory: Memory


@dataclass(frozen=True)
class SoakReport:
    """Everything that one run found.

    Attributes:
        engine, backend, precision, selection: what ran.
        device: "cpu" or the GPU's name.
        clocks: of the GPU, by nvidia-smi, at the beginning and at the end; empty on a CPU.
        versions: of the packages that ran.
        steps, asked: steps that were made after the warm-up, and those that were asked for.
        warm_up: steps before.
        seconds: for all of it, and of it ``checking`` for the checks.
        changes: kind -> how many resets and command changes.
        environments: how many of them were compared at least once.
        latency: of the first and the last tenth of the checks; None where the run had too few.
        worst: kind -> the largest deviation of all checks.
        baseline: memory after the warm-up.
        counters: the engine's own, at the end.
        failures: a line each; none if it passed.
    """

    engine: str
    backend: str
    precision: str
    selection: str
    device: str
    clocks: tuple[dict[str, str], ...]
    versions: dict[str, str]
    num_envs: int
    horizon: int
    seed: int
    steps: int
    asked: int
    warm_up: int
    seconds: float
    checking: float
    changes: dict[str, int]
    environments: int
    latency: tuple[Latency, Latency] | None
    worst: dict[str, Deviation]
    baseline: Memory
    checks: tuple[Check, ...]
    counters: Report
    failures: tuple[str, ...]

    def to_json(self) -> str:
        """The text of ``soak.json``. What is not a number is null there."""
        text = json.dumps(_plain(dataclasses.asdict(self)), indent=1, allow_nan=False)
        return text + "\n"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def format_table(report: SoakReport) -> str:
    """The report in plain text."""
    lines = [
        f"{report.engine}: {report.backend} {report.precision}, {report.num_envs} environments, "
        f"window of {report.horizon} frames, {report.device}",
        f"{report.steps} of {report.asked} steps in {report.seconds:.0f} s ({report.checking:.0f} s of it checks), "
        + ", ".join(f"{count} {kind}" for kind, count in report.changes.items()),
        "",
        f"window against the plain rollout: {len(report.checks)} checks, "
        f"{report.environments} of {report.num_envs} environments",
        f"  {'':16}{'worst':>10}{'allowed':>10}  environment, frame",
    ]
    allowed = {**ALLOWED[report.precision], **ALLOWED_ALWAYS}
    for kind, deviation in report.worst.items():
        limit = f"{allowed[kind]:.0e}" if kind in allowed else "-"
        where = "" if deviation.env is None else f"{deviation.env}, {deviation.frame}"
        lines.append(f"  {kind:16}{deviation.value:10.1e}{limit:>10}  {where}".rstrip())
    lines += ["", f"  {'memory':36}{'warmed up':>12}{'end':>12}{'growth':>10}{'allowed':>10}"]
    if report.checks:
        for field, (most, unit, name) in GROWTH.items():
            before, after = getattr(report.baseline, field), getattr(report.checks[-1].memory, field)
            if before is not None:
                number = "d" if isinstance(before, int) else ".1f"
                values = f"{before:12{number}}{after:12{number}}{after - before:10{number}}{most:10g}"
                lines.append(f"  {name:36}{values}{unit}")
    if report.latency:
        clock = "one step, us, by the GPU's clock" if report.device != "cpu" else "one step, us, by the wall"
        lines += ["", f"  {clock:36}{'p50':>12}{'p99':>12}{'timed':>10}{'busy':>10}"]
        for name, latency in zip(("first tenth", "last tenth"), report.latency, strict=True):
            busy = "-" if latency.busy is None else f"{latency.busy:.1f}"
            lines.append(f"  {name:36}{latency.p50:12.1f}{latency.p99:12.1f}{latency.count:10d}{busy:>10}")
    counted = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(report.counters).items())
    lines += ["", f"  counters: {counted}"]
    if report.counters.frames_replaced and not report.failures:
        lines.append("  The plain rollout leaves the limits too, from each frame whose successor was replaced.")
    lines += ["", "FAILED" if report.failures else "passed"]
    return "\n".join(lines)
