"""``python -m cmg_gym.evaluate``: how well a policy follows a grid of commands. A table, JSON and a picture."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.bars import BARS, Command, grid_within, judge, read_power
from cmg_gym.command_line import POLICIES
from cmg_gym.conditions import Conditions
from cmg_gym.evaluation import CommandResult, run_episodes, summarise
from cmg_gym.robots import G1, robot_of
from cmg_gym.velocity_task import HeldTwist, open_velocity_task
from CMG_Ref.command_line import require_positive, run
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.device import resolve_device
from cmg_runtime.folder.kept_files import replace_file

MEASURES = {
    "survival": "share of episodes",
    "velocity_error": "m/s",
    "yaw_error": "rad/s",
    "joint_error": "rad",
    "slip": "m/s",
    "power": "W",
}
"""Of a command, and their units."""

OTHER_EVALUATION = POLICIES / "g1_neutral" / "evaluation.json"


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
    rough: bool = False
    """On mjlab's mixture of stairs, slopes, waves and rubble."""
    friction: float | None = None
    """Of the soles; otherwise the model's."""
    repeats: int = 1
    """Evaluations, with seeds that follow. Figures are means over them; a bar has to hold in each."""
    power_of: Path | None = None
    """Another policy's evaluation.json: where both walk, no more power than it takes is asked for. Otherwise, for a G1,
    that of the bundled policy g1_neutral."""
    mjlab: bool = False
    """The policy is of mjlab's own velocity task, and is measured there: a checkpoint, or a run's folder."""
    commands: tuple[Command, ...] = ()
    """vx, vy (m/s) and yaw rate (rad/s) of each command; otherwise a grid, within the checkpoint's command range."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, evaluate, arguments, "cmg_gym.evaluate", FORESEEN)


def evaluate(options: Options) -> None:
    """Run the episodes and write what came of them."""
    require_positive(options, "episodes", "repeats")
    command_line.require_seconds(options.seconds)
    conditions = Conditions(options.pushes, options.rough, options.friction)
    watts = power_of(options)
    commands = options.commands or grid_within(*command_range(options))
    command_line.require_commands(commands)
    grid = torch.tensor(commands)
    repeats = [measure(replace(options, seed=options.seed + k), grid, conditions) for k in range(options.repeats)]
    results = [mean(of_command) for of_command in zip(*repeats, strict=True)]
    asked = not (options.rough or options.friction is not None)  # elsewhere it is only measured
    judged = [
        {name: all(j[name] for j in each) for name in each[0]}
        for of_command in zip(*repeats, strict=True)
        for each in [[judge(r, options.pushes, watts.get(r.command)) if asked else {} for r in of_command]]
    ]
    times = f"{options.repeats} times " if options.repeats > 1 else ""
    text = f"{times}{options.episodes} episodes of {options.seconds:g} s each, {conditions}\n\n{table(results, judged)}"
    text += f"\n\n{verdict(judged)}" if asked else ""
    write(results, judged, options, text)
    print(text)


def power_of(options: Options) -> dict[tuple[float, ...], float]:
    """As :func:`read_power`."""
    if options.power_of is None and not (of_a_g1(options) and OTHER_EVALUATION.is_file()):
        return {}
    return read_power(options.power_of or OTHER_EVALUATION)


def of_a_g1(options: Options) -> bool:
    """Whether a Unitree G1 is measured."""
    return options.mjlab or robot_of(read_manifest(options.engine)) == G1


def command_range(options: Options) -> tuple[Sequence[float], Sequence[float]]:
    """(low, high) [3] of the checkpoint."""
    bounds = read_manifest(options.engine).command_range
    return bounds.min, bounds.max


def measure(options: Options, grid: torch.Tensor, conditions: Conditions) -> list[CommandResult]:
    """A result for each command of ``grid`` [G, 3], from an environment of its own."""
    num_envs = len(grid) * options.episodes
    # A little longer than what is measured: a robot whose time is up is reset before it can be looked at.
    seconds, twist = options.seconds + 1, None
    if options.mjlab:
        where = options.device, options.captured, options.seed
        if options.policy is None:
            raise EngineError("--mjlab measures a policy of mjlab's own task, of which none is bundled; give --policy")
        command_line.require_options(options)
        resolve_device(options.device)
        command_line.require_room(num_envs, options.device)
        env, policy = open_velocity_task(options.policy, num_envs, seconds, conditions, *where)
        twist = HeldTwist(env)
    else:
        env, policy = command_line.open_policy(options, num_envs, seconds, conditions)
    num_steps = max(1, round(options.seconds / env.unwrapped.step_dt))
    commands = grid.repeat_interleave(options.episodes, dim=0).to(env.device)
    results = summarise(run_episodes(env, policy, commands, num_steps, twist), grid)
    env.close()
    return results


def mean(results: Sequence[CommandResult]) -> CommandResult:
    """Of one command, as many episodes each."""
    fields = {name: sum(getattr(r, name) for r in results) / len(results) for name in MEASURES}
    return CommandResult(results[0].command, sum(r.episodes for r in results), **fields)


def table(results: Sequence[CommandResult], judged: Sequence[dict[str, bool]]) -> str:
    """The results as Markdown, with the bars that are missed."""
    head = ("vx", "vy", "yaw", "survival", "velocity error m/s", "yaw error rad/s", "joints rad", "slip m/s", "power W")
    rows = [
        [f"{value:+.2f}" for value in result.command]
        + [f"{100 * result.survival:.0f} %", f"{result.velocity_error:.3f}", f"{result.yaw_error:.3f}"]
        + [f"{result.joint_error:.3f}", f"{result.slip:.3f}", f"{result.power:.0f}"]
        + [", ".join(name for name, met in bars.items() if not met)]
        for result, bars in zip(results, judged, strict=True)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [[*head, "misses"], ["---"] * (len(head) + 1), *rows])


def verdict(judged: Sequence[dict[str, bool]]) -> str:
    """How many commands meet each bar."""
    counts = {name: [bars[name] for bars in judged if name in bars] for name in BARS}
    said = [f"{name} {sum(met)} of {len(met)}" for name, met in counts.items() if met]
    return f"Bars met: {', '.join(said)}; all of them by {sum(all(bars.values()) for bars in judged)} of {len(judged)}"


def write(results: Sequence[CommandResult], judged: Sequence[dict[str, bool]], options: Options, text: str) -> None:
    """evaluation.md, evaluation.json and evaluation.png."""
    options.out.mkdir(parents=True, exist_ok=True)
    replace_file(options.out / "evaluation.md", f"{text}\n".encode())
    # JSON has no NaN.
    rows = [
        {**{name: None if value != value else value for name, value in asdict(result).items()}, "bars": bars}
        for result, bars in zip(results, judged, strict=True)
    ]
    ground = {"rough": options.rough, "friction": options.friction}
    document = {"pushes": options.pushes, **ground, "seconds": options.seconds, "results": rows}
    replace_file(options.out / "evaluation.json", (json.dumps(document, indent=1) + "\n").encode())
    replace_file(options.out / "evaluation.png", draw(results, text.partition("\n")[0]))


def draw(results: Sequence[CommandResult], title: str) -> bytes:
    """A PNG: bars of every measure, a group for each command."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [" ".join(f"{value:+.1f}" for value in result.command) for result in results]
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6), sharex=True, layout="constrained")
    for axis, (name, unit) in zip(axes.flat, MEASURES.items(), strict=True):
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
