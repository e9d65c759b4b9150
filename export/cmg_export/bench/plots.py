"""The pictures: latency against environments, and the distribution of latency."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmg_export.bench.results import BenchReport
from cmg_export.reporting import write_file
from cmg_export.timing import Samples, Timing

LATENCY, DISTRIBUTION = "latency.png", "distribution.png"


def draw(report: BenchReport, samples: Mapping[str, Samples], folder: Path) -> None:
    """Write both pictures.

    Args:
        samples: single times: of ``step()`` of backends, of a frame of peers.

    Raises:
        ExportError: they cannot be written.
    """
    write_file(folder / LATENCY, _latency(report))
    write_file(folder / DISTRIBUTION, _distribution(report, samples))


def _latency(report: BenchReport) -> bytes:
    """Also what the arithmetic alone takes at the machine's highest rate: no implementation can be below that. (At the
    rate of plain float32 products one can, where it multiplies on tensor cores.)"""
    figure, axes = _figure(2)
    styles = _styles(report)
    titles = ("network only, one frame", f"whole step(), window of {report.horizon} frames")
    for axis, title, kind in zip(axes, titles, ("frame", "step"), strict=True):
        for result in report.results:
            timings: dict[str, Timing] = getattr(result, kind)
            points = sorted((int(size), timing.cost) for size, timing in timings.items())
            if points:
                axis.plot(
                    [size for size, _ in points],
                    [cost.p50 for _, cost in points],
                    label=result.name,
                    **styles[result.name],
                )
        if report.floor_us:
            precision = max(report.machine.tflops, key=report.machine.tflops.__getitem__)
            floors = sorted((int(size), floor) for size, floor in report.floor_us[precision].items())
            axis.plot(
                *zip(*floors, strict=True), ":", color="black", linewidth=1, label=f"arithmetic alone, {precision}"
            )
        axis.set(xscale="log", yscale="log", xlabel="environments", ylabel="p50, us", title=title)
        axis.set_xscale("log", base=2)
        sizes = sorted({int(size) for result in report.results for size in getattr(result, kind)})
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.grid(True, which="both", linewidth=0.3)
        axis.legend(fontsize=7)
    return _png(figure, report, "p50 by the GPU's clock" if report.machine.device != "cpu" else "p50 by the wall clock")


def _distribution(report: BenchReport, samples: Mapping[str, Samples]) -> bytes:
    titles = {"gpu": "by the GPU's clock: what it costs", "wall": "by the wall clock: what a caller waits"}
    clocks = [clock for clock in titles if any(getattr(single, clock) for single in samples.values())] or ["wall"]
    figure, axes = _figure(len(clocks))
    styles = _styles(report)
    for axis, clock in zip(axes, clocks, strict=True):
        for name, single in samples.items():
            times = np.sort(getattr(single, clock))
            share = 1 - np.arange(len(times)) / len(times)  # of calls that took at least so long
            axis.plot(times, share, label=name, **{**styles[name], "marker": ""})
        axis.set(xscale="log", yscale="log", xlabel="us", ylabel="share of calls that take longer", title=titles[clock])
        axis.grid(True, which="both", linewidth=0.3)
        if samples:
            axis.legend(fontsize=7)
    what = f"{report.num_envs} environments: step() of each backend, one frame of the network of others"
    return _png(figure, report, what)


def _styles(report: BenchReport) -> dict[str, dict[str, Any]]:
    """A colour for each implementation, the same in every picture; those that are not backends are dashed."""
    from matplotlib import colormaps

    colours = colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    return {
        result.name: {
            "color": colours[index % len(colours)],
            "marker": "o" if result.kind == "backend" else "s",
            "markersize": 4,
            "linestyle": "-" if result.kind == "backend" else "--",
        }
        for index, result in enumerate(report.results)
    }


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import, and only needed at the end; no display is touched

    figure = Figure(figsize=(6.5 * panels, 5.5), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _png(figure: Any, report: BenchReport, subtitle: str) -> bytes:
    figure.suptitle(f"{report.engine} on {report.machine.device}\n{subtitle}", fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
