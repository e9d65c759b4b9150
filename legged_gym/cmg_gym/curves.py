"""``python -m cmg_gym.curves``: training runs beside each other, from their TensorBoard files.

A picture of their learning curves, and a table of what they reached and how fast they went.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from cmg_export.errors import FORESEEN
from CMG_Ref.command_line import run
from cmg_runtime import EngineError
from cmg_runtime.folder.kept_files import replace_file

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
    return run(Options, draw, arguments, "cmg_gym.curves", FORESEEN)


def read_curve(folder: str | Path, tag: str) -> tuple[list[int], list[float]]:
    """Iterations and values of ``tag`` in all TensorBoard files below ``folder``, later files over earlier ones.

    Raises:
        EngineError: there are none.
    """
    (curve,) = read_events(folder, tag)
    return list(curve), [value for value, _ in curve.values()]


def read_events(folder: str | Path, *tags: str) -> list[dict[int, tuple[float, float]]]:
    """Of each tag, value and wall-clock time, s, of every iteration in order. A long run takes a second to read.

    Raises:
        EngineError: there are none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, tuple[float, float]]] = {tag: {} for tag in tags}
    for file in sorted(Path(folder).rglob("events.out.tfevents.*"), key=lambda file: file.name):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in found.keys() & events.Tags()["scalars"]:
            found[tag] |= {event.step: (event.value, event.wall_time) for event in events.Scalars(tag)}
    for tag, curve in found.items():
        if not curve:
            raise EngineError(f"no TensorBoard file below {folder} has {tag!r}; expected a training run's folder")
    return [dict(sorted(curve.items())) for curve in found.values()]


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
    compared = table(runs, options.iterations)  # before the picture: it refuses iterations that no run has
    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(11, 4), layout="constrained")
    for axis, (tag, title) in zip(axes, CURVES.items(), strict=True):
        for label, folder in runs.items():
            axis.plot(*read_curve(folder, tag), label=label)
        axis.set(title=title, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    replace_file(options.out, picture.getvalue())
    print(f"{options.out} is written\n\n{compared}")


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
    curves = {label: read_events(folder, REWARD, STEPS_PER_SECOND) for label, folder in runs.items()}
    common = sorted(set.intersection(*(set(curve) for both in curves.values() for curve in both)))
    if iterations is None and len(common) < 2:
        return "No table: there are no two iterations that every run has"
    first, last = iterations or (common[0], common[-1])
    if first >= last or not {first, last} <= set(common):
        held = f"{common[0]} to {common[-1]}" if common else "none"
        raise EngineError(f"--iterations is {first} {last}; expected first and last of those of every run, {held}")
    chosen = [step for step in common if first <= step <= last]
    rows = [("run", "mean reward", "steps a second", "s an iteration"), ("---",) * 4]
    for label, (rewards, rates) in curves.items():
        ends = [(step, rewards[step][1]) for step in chosen]
        wall = median((end - begin) / (after - before) for (before, begin), (after, end) in pairwise(ends))
        steps_per_second = median(rates[step][0] for step in chosen)
        reward = mean(rewards[step][0] for step in chosen)
        rows.append((label, f"{reward:.2f}", f"{steps_per_second:.0f}", f"{wall:.3f}"))
    return f"Iterations {first} to {last}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
