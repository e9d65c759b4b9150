"""``python -m cmg_gym.curves``: learning curves of several runs beside each other, from their TensorBoard files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmg_gym import command_line
from cmg_runtime import EngineError

CURVES = {"Train/mean_episode_length": "mean episode length, steps of 20 ms", "Train/mean_reward": "mean reward"}


@dataclass(frozen=True)
class Options:
    """Draw the learning curves of training runs."""

    runs: tuple[str, ...]
    """LABEL=FOLDER each; every TensorBoard file below the folder belongs to the run, as after an interruption."""
    out: Path = Path("build/learning_curves.png")
    """The picture."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, draw, arguments, "cmg_gym.curves")


def read_curve(folder: Path, tag: str) -> tuple[list[int], list[float]]:
    """Iterations and values of ``tag`` in all TensorBoard files below ``folder``, later files over earlier ones.

    Raises:
        EngineError: there are none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values: dict[int, float] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: file.name):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(tag)}
    if not values:
        raise EngineError(f"no TensorBoard file below {folder} has {tag!r}; expected a training run's folder")
    return sorted(values), [values[step] for step in sorted(values)]


def draw(options: Options) -> None:
    """A panel for each of :data:`CURVES`, a line for each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = [run.partition("=") for run in options.runs]
    wrong = [label for label, equals, folder in runs if not (label and equals and folder)]
    if wrong or not runs:
        raise EngineError(f"expected runs as LABEL=FOLDER, got {' '.join(options.runs) or 'none'}")
    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(11, 4), layout="constrained")
    for axis, (tag, title) in zip(axes, CURVES.items(), strict=True):
        for label, _, folder in runs:
            axis.plot(*read_curve(Path(folder), tag), label=label)
        axis.set(title=title, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    pyplot.close(figure)
    print(f"{options.out} is written")


if __name__ == "__main__":
    sys.exit(main())
