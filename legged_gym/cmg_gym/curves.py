"""``python -m cmg_gym.curves``: training runs beside each other, from their TensorBoard files.

A picture of their learning curves, and a table of what they reached and how fast they went.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from cmg_gym import command_line
from cmg_runtime import EngineError

REWARD, STEPS_PER_SECOND = "Train/mean_reward", "Perf/total_fps"
CURVES = {"Train/mean_episode_length": "mean episode length, steps of 20 ms", REWARD: "mean reward"}


@dataclass(frozen=True)
class Options:
    """Draw the learning curves of training runs, and compare them over the same iterations."""

    runs: tuple[str, ...]
    """LABEL=FOLDER each; every TensorBoard file below the folder belongs to the run, as after an interruption."""
    out: Path = Path("build/learning_curves.png")
    """The picture."""
    iterations: tuple[int, int] | None = None
    """First and last of those that the table is about; otherwise all that every run has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, draw, arguments, "cmg_gym.curves")


def read_curve(folder: Path, tag: str) -> tuple[list[int], list[float]]:
    """Iterations and values of ``tag`` in all TensorBoard files below ``folder``, later files over earlier ones.

    Raises:
        EngineError: there are none.
    """
    values = {step: value for step, (value, _) in _read(folder, tag).items()}
    return list(values), list(values.values())


def _read(folder: Path, tag: str) -> dict[int, tuple[float, float]]:
    """Value and wall-clock time, s, of every iteration in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values: dict[int, tuple[float, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: file.name):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            values |= {event.step: (event.value, event.wall_time) for event in events.Scalars(tag)}
    if not values:
        raise EngineError(f"no TensorBoard file below {folder} has {tag!r}; expected a training run's folder")
    return dict(sorted(values.items()))


def draw(options: Options) -> None:
    """A panel for each of :data:`CURVES`, a line for each run; and the table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    given = [run.partition("=") for run in options.runs]
    if not given or not all(label and folder for label, _, folder in given):
        raise EngineError(f"expected runs as LABEL=FOLDER, got {' '.join(options.runs) or 'none'}")
    runs = {label: Path(folder) for label, _, folder in given}
    if len(runs) < len(given):
        raise EngineError(f"two runs have one label in {' '.join(options.runs)}; expected a label for each")
    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(11, 4), layout="constrained")
    for axis, (tag, title) in zip(axes, CURVES.items(), strict=True):
        for label, folder in runs.items():
            axis.plot(*read_curve(folder, tag), label=label)
        axis.set(title=title, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    pyplot.close(figure)
    print(f"{options.out} is written\n\n{table(runs, options.iterations)}")


def table(runs: dict[str, Path], iterations: tuple[int, int] | None) -> str:
    """Markdown: of every run mean reward, environment steps a second and wall-clock time over the same iterations.

    Steps a second are those that rsl_rl counts, medians: collecting and learning, not what is between iterations. The
    wall-clock time is the median between the ends of two iterations, so that one in which a run was resumed does not
    count.

    Args:
        runs: folder of each label.
        iterations: first and last; None: all that every run has, and where these are not two, a line that says so.

    Raises:
        EngineError: a run without these curves, or ``iterations`` that not every run has.
    """
    rewards, rates = (
        {label: _read(folder, tag) for label, folder in runs.items()} for tag in (REWARD, STEPS_PER_SECOND)
    )
    common = sorted(set.intersection(*(set(curve) for curves in (rewards, rates) for curve in curves.values())))
    if iterations is None and len(common) < 2:
        return "No table: there are no two iterations that every run has"
    first, last = iterations or (common[0], common[-1])
    if first >= last or not {first, last} <= set(common):
        held = f"{common[0]} to {common[-1]}" if common else "none"
        raise EngineError(f"--iterations is {first} {last}; expected first and last of those of every run, {held}")
    chosen = [step for step in common if first <= step <= last]
    rows = [("run", "mean reward", "steps a second", "s an iteration"), ("---",) * 4]
    for label in runs:
        ends = {step: rewards[label][step][1] for step in chosen}
        wall = median((ends[after] - ends[before]) / (after - before) for before, after in pairwise(chosen))
        steps_per_second = median(rates[label][step][0] for step in chosen)
        reward = mean(rewards[label][step][0] for step in chosen)
        rows.append((label, f"{reward:.2f}", f"{steps_per_second:.0f}", f"{wall:.3f}"))
    return f"Iterations {first} to {last}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
