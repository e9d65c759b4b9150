"""``python -m cmg_gym.evaluate``: how well a policy follows a grid of commands. A table, JSON and a picture."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.evaluation import CommandResult, run_episodes, summarise
from CMG_Ref.command_line import require_positive, run
from cmg_runtime.folder.kept_files import replace_file

GRID = (
    (0.0, 0.0, 0.0),
    (0.5, 0.0, 0.0),
    (0.8, 0.0, 0.0),
    (1.0, 0.0, 0.0),
    (1.1, 0.0, 0.0),
    (0.5, 0.0, 0.4),
    (0.5, 0.0, -0.4),
    (0.8, 0.0, 0.4),
    (0.8, 0.0, -0.4),
    (1.1, 0.0, 0.4),
    (1.1, 0.0, -0.4),
    (-0.5, 0.0, 0.0),
    (0.0, 0.4, 0.0),
    (0.0, -0.4, 0.0),
)


@dataclass(frozen=True)
class Options(command_line.PolicyOptions):
    """Follow a grid of commands with a trained policy, without noise and randomisation, and measure."""

    out: Path = Path("build/evaluation")
    """Where evaluation.md, evaluation.json and evaluation.png go."""
    episodes: int = 32
    """Of each command."""
    seconds: float = 20.0
    """Length of an episode."""
    pushes: bool = False
    """Push as mjlab's own velocity task does: every 1 to 3 s, up to 0.5 m/s sideways and forward."""
    commands: tuple[tuple[float, float, float], ...] = GRID
    """vx, vy (m/s) and yaw rate (rad/s) of each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, evaluate, arguments, "cmg_gym.evaluate", FORESEEN)


def evaluate(options: Options) -> None:
    """Run the episodes and write what came of them."""
    require_positive(options, "episodes")
    command_line.require_seconds(options.seconds)
    command_line.require_commands(options.commands)
    grid = torch.tensor(options.commands)
    num_envs = len(grid) * options.episodes
    # A little longer than what is measured: a robot whose time is up is reset before it can be looked at.
    env, policy = command_line.open_policy(options, num_envs, options.seconds + 1, options.pushes)
    num_steps = max(1, round(options.seconds / env.unwrapped.step_dt))
    commands = grid.repeat_interleave(options.episodes, dim=0).to(env.device)
    results = summarise(run_episodes(env, policy, commands, num_steps), grid)
    env.close()
    write(results, options)
    print(table(results))


def table(results: Sequence[CommandResult]) -> str:
    """The results as Markdown."""
    head = ("vx", "vy", "yaw", "survival", "velocity error m/s", "yaw error rad/s", "joints rad", "slip m/s", "power W")
    rows = [
        [f"{value:+.2f}" for value in result.command]
        + [f"{100 * result.survival:.0f} %", f"{result.velocity_error:.3f}", f"{result.yaw_error:.3f}"]
        + [f"{result.joint_error:.3f}", f"{result.slip:.3f}", f"{result.power:.0f}"]
        for result in results
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def write(results: Sequence[CommandResult], options: Options) -> None:
    """evaluation.md, evaluation.json and evaluation.png."""
    options.out.mkdir(parents=True, exist_ok=True)
    conditions = (
        f"{options.episodes} episodes of {options.seconds:g} s each, {'with' if options.pushes else 'no'} pushes"
    )
    replace_file(options.out / "evaluation.md", f"{conditions}\n\n{table(results)}\n".encode())
    # JSON has no NaN.
    rows = [{name: None if value != value else value for name, value in asdict(r).items()} for r in results]
    document = {"pushes": options.pushes, "seconds": options.seconds, "results": rows}
    replace_file(options.out / "evaluation.json", (json.dumps(document, indent=1) + "\n").encode())
    replace_file(options.out / "evaluation.png", draw(results, conditions))


def draw(results: Sequence[CommandResult], title: str) -> bytes:
    """A PNG: bars of every measure, a group for each command."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measures = {
        "survival": "share of episodes",
        "velocity_error": "m/s",
        "yaw_error": "rad/s",
        "joint_error": "rad",
        "slip": "m/s",
        "power": "W",
    }
    labels = [" ".join(f"{value:+.1f}" for value in result.command) for result in results]
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6), sharex=True, layout="constrained")
    for axis, (name, unit) in zip(axes.flat, measures.items(), strict=True):
        axis.bar(labels, [getattr(result, name) for result in results])
        axis.set_title(f"{name.replace('_', ' ')}, {unit}")
        axis.tick_params(axis="x", rotation=90)
    figure.suptitle(f"vx, vy (m/s), yaw rate (rad/s); {title}")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    return picture.getvalue()


if __name__ == "__main__":
    sys.exit(main())
