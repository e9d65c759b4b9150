"""An evaluation as one figure."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from CMG_Ref.evaluation.results import CaseResult, Evaluation

_COLOURS = {
    "forward": "#2563a8", "backward": "#b5482a", "sideways": "#3a8f4d", 
    "turning": "#8a4fa3", "diagonal": "#c79a1b", "standing": "#202020", "stopping": "#5fa8a8",
}  # fmt: skip


def plot(evaluation: Evaluation) -> bytes:
    """Commanded against achieved velocity, good rollouts by command, stride frequency. PNG, 150 dpi."""
    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(15, 9), constrained_layout=True)
        grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 0.55))
        held = [r for r in evaluation.cases if r.family != "stopping"]
        straight = [r for r in held if r.command[1:] == (0, 0) or r.family == "diagonal"]
        sideways = [r for r in held if r.command[1] != 0 or r.family == "standing"]
        turning = [r for r in held if r.command[2] != 0 or r.command[1] == 0]
        _tracking(figure.add_subplot(grid[0, 0]), straight, 0, "forward speed vx (m/s)", (0.12, 0.15))
        _tracking(figure.add_subplot(grid[0, 1]), sideways, 1, "sideways speed vy (m/s)", (0.2, 0.35))
        _tracking(figure.add_subplot(grid[0, 2]), turning, 2, "yaw rate (rad/s)", None)
        _veer(figure.add_subplot(grid[1, 0]), [r for r in held if r.command[2] == 0])
        _frequency(figure.add_subplot(grid[1, 1]), [r for r in held if r.family != "standing"])
        _bars(figure.add_subplot(grid[1, 2]), evaluation)
        _ok_strip(figure.add_subplot(grid[:, 3]), evaluation.cases)
        settings = evaluation.settings
        figure.suptitle(
            f"{settings['name']}: {settings['num_rollouts']} rollouts of {settings['num_frames']} frames a command",
            fontsize=13,
        )
        stream = io.BytesIO()
        figure.savefig(stream, dpi=150, format="png")
        plt.close(figure)
    return stream.getvalue()


def _tracking(
    axes: Axes, results: list[CaseResult], axis: int, label: str, tolerance: tuple[float, float] | None
) -> None:
    wanted = np.array([r.command[axis] for r in results])
    low, high = wanted.min() - 0.15, wanted.max() + 0.15
    line = np.linspace(low, high, 200)
    if tolerance:
        band = np.maximum(tolerance[0], tolerance[1] * np.abs(line))
        axes.fill_between(line, line - band, line + band, color="#dfe7ef", lw=0, label="allowed")
    axes.plot(line, line, color="#9aa7b4", lw=1, zorder=1)
    seen: set[str] = set()
    for r in results:
        axes.errorbar(
            r.command[axis], r.all.velocity[axis], yerr=r.all.velocity_std[axis], fmt="o", ms=4.5, capsize=2, lw=1,
            color=_COLOURS[r.family], label=None if r.family in seen else r.family,
        )  # fmt: skip
        seen.add(r.family)
    axes.set(xlabel=f"commanded {label}", ylabel="achieved", title=label.split(" (")[0].capitalize(), xlim=(low, high))
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")


def _veer(axes: Axes, results: list[CaseResult]) -> None:
    for r in results:
        speed = float(np.hypot(*r.command[:2])) * (-1 if r.command[0] < 0 else 1)
        axes.errorbar(
            speed,
            r.all.velocity[2],
            yerr=r.all.velocity_std[2],
            fmt="o",
            ms=4.5,
            capsize=2,
            lw=1,
            color=_COLOURS[r.family],
        )
    axes.axhline(0, color="#9aa7b4", lw=1)
    axes.axhspan(-0.1, 0.1, color="#dfe7ef", lw=0, zorder=0)
    axes.set(xlabel="commanded speed (m/s)", ylabel="yaw rate (rad/s)", title="Veer at yaw rate 0")


def _frequency(axes: Axes, results: list[CaseResult]) -> None:
    for r in results:
        speed = float(np.hypot(*r.command[:2])) * (-1 if r.command[0] < 0 else 1)
        axes.errorbar(
            speed, r.all.frequency, yerr=r.all.frequency_std, fmt="o", ms=4.5, capsize=2, lw=1, color=_COLOURS[r.family]
        )
    axes.set(xlabel="commanded speed (m/s)", ylabel="strides a second (Hz)", title="Gait frequency")
    axes.set_ylim(bottom=0)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)


def _bars(axes: Axes, evaluation: Evaluation) -> None:
    axes.axis("off")
    axes.set_title("Requirements")
    share = 0.97 / max(len(evaluation.criteria), 1)
    points = 72 * share * axes.bbox.height / axes.figure.dpi
    size = min(5.2, points / 1.4)
    for row, criterion in enumerate(evaluation.criteria):
        height = 0.97 - row * share
        verdict, colour = ("pass", "#3a8f4d") if criterion.passed else ("FAIL", "#c0392b")
        text = f"{criterion.name} ({criterion.bar}): {criterion.found}"
        axes.text(0.0, height, verdict, color=colour, weight="bold", va="top", fontsize=size)
        axes.text(0.09, height, text, va="top", fontsize=size)


def _ok_strip(axes: Axes, results: tuple[CaseResult, ...]) -> None:
    groups = [name for name in results[0].groups if name != "all"]
    values = np.array([[r.groups[name].ok for name in groups] for r in results])
    axes.imshow(values, aspect="auto", cmap="RdYlGn", vmin=0, vmax=1)
    axes.set_xticks(range(len(groups)), [f"from {name}" for name in groups])
    labels = [f"{r.family}  " + " ".join(f"{value:+.1f}" for value in r.command) for r in results]
    axes.set_yticks(range(len(results)), labels, fontsize=6, family="monospace")
    for row, column in np.argwhere(values < 0.99):
        axes.text(column, row, f"{values[row, column]:.0%}", ha="center", va="center", fontsize=6)
    axes.set_title("Good rollouts")
    axes.spines[:].set_visible(False)
