"""``python -m cmg_gym.sim2sim``: the deployed control loop in plain MuJoCo, over the grid of commands of
:mod:`cmg_gym.evaluate`, beside what that measured in MuJoCo Warp."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.bars import grid_within
from cmg_gym.controller import Controller
from cmg_gym.evaluation import CommandResult, Episodes, summarise
from cmg_gym.mdp.curriculum import PUSH
from cmg_gym.mdp.start_states import SETTLE_FRAMES
from cmg_gym.simulated_robot import SimulatedRobot
from cmg_gym.walk import exported_policy
from CMG_Ref.command_line import require_positive, require_seed, run
from cmg_runtime import Engine, EngineError, load_engine, read_manifest
from cmg_runtime.folder.kept_files import replace_file

START_FRAMES = 100
"""Frames of a settled gait that episodes start from, as in the training environment."""
PUSH_EVERY_S = (1.0, 3.0)

BEGIN, END = "<!-- sim2sim -->", "<!-- /sim2sim -->"
"""Of the table in a document."""


@dataclass(frozen=True)
class Options:
    """Follow a grid of commands with an exported policy, as a robot would run it, in plain MuJoCo on one core."""

    policy: Path | None = None
    """An exported policy's folder, or a training run's; else the bundled one of the engine's generator."""
    engine: Path = command_line.G1.engine
    """The engine folder."""
    out: Path = Path("build/sim2sim")
    """Where sim2sim.md and sim2sim.json go."""
    warp: Path | None = None
    """An evaluation.json of `python -m cmg_gym.evaluate`, whose figures the table sets beside; without one,
    evaluation.json (evaluation_pushes.json) in the policy's folder, if it is there."""
    document: Path | None = None
    """A document whose table, between <!-- sim2sim --> and <!-- /sim2sim -->, is replaced."""
    episodes: int = 4
    """Of each command."""
    seconds: float = 20.0
    """Length of an episode."""
    pushes: bool = False
    """Push every 1 to 3 s, up to 0.5 m/s sideways and forward, as in `python -m cmg_gym.evaluate`."""
    commands: tuple[tuple[float, float, float], ...] = ()
    """vx, vy (m/s) and yaw rate (rad/s) of each command; otherwise the grid of `python -m cmg_gym.evaluate`, within the
    checkpoint's command range."""
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, sim2sim, arguments, "cmg_gym.sim2sim", FORESEEN)


def sim2sim(options: Options) -> None:
    """Run the episodes, print the table and write it."""
    require_positive(options, "episodes")
    require_seed(options.seed)
    command_line.require_seconds(options.seconds)
    bounds = read_manifest(options.engine).command_range
    commands = options.commands or grid_within(bounds.min, bounds.max)
    command_line.require_commands(commands)
    policy = exported_policy(command_line.policy_or_bundled(options.policy, options.engine))
    beside = read_evaluation(options.warp or bundled_evaluation(policy, options.pushes), options.pushes)
    if options.document is not None:
        split_document(options.document)  # before the work is done
    controller = Controller(policy, options.engine)
    options.out.mkdir(parents=True, exist_ok=True)
    robot = SimulatedRobot(controller.card)
    rng = np.random.default_rng(options.seed)
    engine = load_engine(options.engine, 1, "cpu", seed=options.seed, command_ramp_s=0.0)
    num_steps = max(1, round(options.seconds * controller.card.fps))
    episodes = []
    with tqdm(total=len(commands) * options.episodes, desc="sim2sim", unit="episode", mininterval=1.0) as progress:
        for command in commands:
            for start in settled_gait(engine, command, options.episodes, rng):
                pushes = push_steps(num_steps, controller.card.fps, rng) if options.pushes else {}
                episodes.append(run_episode(controller, robot, command, start, pushes, num_steps))
                progress.update()
    grid = torch.tensor(commands)
    together = Episodes(
        command=grid.repeat_interleave(options.episodes, dim=0),
        velocity=torch.stack([episode.velocity for episode in episodes], dim=1),
        joint_error=torch.stack([episode.joint_error for episode in episodes], dim=1),
        slip=torch.full((num_steps, len(episodes)), math.nan),
        power=torch.full((num_steps, len(episodes)), math.nan),
        alive=torch.stack([episode.alive for episode in episodes], dim=1),
        step_s=1 / controller.card.fps,
    )
    write(summarise(together, grid), beside, options)


@dataclass(frozen=True)
class Start:
    """A frame of a settled gait: dof_pos, dof_vel [num_joints] (rad, rad/s), and the root's velocity and angular
    velocity [3] in its heading frame, m/s and rad/s."""

    dof_pos: np.ndarray
    dof_vel: np.ndarray
    root_vel: np.ndarray
    root_ang_vel: np.ndarray


@dataclass(frozen=True)
class Episode:
    """One episode of one robot: as of :class:`cmg_gym.evaluation.Episodes`, without its second dimension."""

    velocity: torch.Tensor
    joint_error: torch.Tensor
    alive: torch.Tensor


def settled_gait(engine: Engine, command: Sequence[float], count: int, rng: np.random.Generator) -> Iterator[Start]:
    """Random frames of trajectories of ``command`` that go on from other states of the bank each."""
    pool = engine.make_pool(count, SETTLE_FRAMES + START_FRAMES, command)
    for trajectory in range(count):
        row = pool.rows[int(rng.integers(SETTLE_FRAMES, pool.num_frames)), trajectory]
        frame = pool.layout.split(row)
        parts = (frame.dof_pos, frame.dof_vel, frame.root_ang_vel, frame.root_vel, frame.root_rot)
        dof_pos, dof_vel, ang_vel, velocity, rotation = (values.numpy() for values in parts)
        yaw = 2 * math.atan2(rotation[3], rotation[0])  # a frame's root only turns about z
        cos, sin = math.cos(yaw), math.sin(yaw)
        x, y, z = velocity
        yield Start(dof_pos, dof_vel, np.array([cos * x + sin * y, cos * y - sin * x, z]), ang_vel)


def push_steps(num_steps: int, fps: float, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """When a robot is pushed, in control steps, and by what: [6] as :meth:`SimulatedRobot.push` takes it."""
    most, pushes, seconds = np.array(list(PUSH.values())), {}, 0.0
    while (step := round((seconds := seconds + rng.uniform(*PUSH_EVERY_S)) * fps)) < num_steps:
        pushes[step] = rng.uniform(-most, most)
    return pushes


def run_episode(
    controller: Controller,
    robot: SimulatedRobot,
    command: Sequence[float],
    start: Start,
    pushes: dict[int, np.ndarray],
    num_steps: int,
) -> Episode:
    """Let the robot follow its command until it falls, from a frame of its gait on."""
    controller.reset(start.dof_pos, start.dof_vel, command)
    robot.reset(start.dof_pos, start.dof_vel, start.root_vel, start.root_ang_vel)
    velocity, joint_error = torch.zeros(num_steps, 3), torch.zeros(num_steps)
    alive = torch.zeros(num_steps, dtype=torch.bool)
    for step in range(num_steps):
        if step in pushes:
            robot.push(pushes[step])
        robot.step(controller.step(command, robot.proprioception()), controller.kp)
        if not robot.upright:
            break
        velocity[step] = torch.tensor(robot.heading_velocity)
        error = robot.proprioception().dof_pos - controller.reference(1)[0]
        joint_error[step] = float(np.sqrt(np.square(error).mean()))
        alive[step] = True
    return Episode(velocity, joint_error, alive)


def bundled_evaluation(policy: Path, pushes: bool) -> Path | None:
    """What MuJoCo Warp gave for this policy, if it came with it."""
    file = policy / ("evaluation_pushes.json" if pushes else "evaluation.json")
    return file if file.is_file() else None


def read_evaluation(path: Path | None, pushes: bool) -> dict[tuple[float, ...], dict[str, float]]:
    """Command -> what ``evaluation.json`` says of it.

    Raises:
        EngineError: it is none, or of episodes that are not like these.
    """
    if path is None:
        return {}
    try:
        evaluation = json.loads(path.read_text())
        if evaluation["pushes"] != pushes:
            raise ValueError(f"it is of episodes {'with' if evaluation['pushes'] else 'without'} pushes")
        if evaluation.get("rough") or evaluation.get("friction") is not None:
            raise ValueError("it is on rough ground, or with another friction")
        return {tuple(row["command"]): row for row in evaluation["results"]}
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path} is no evaluation.json of `python -m cmg_gym.evaluate` to compare with ({error})"
        ) from None


def table(results: Sequence[CommandResult], beside: dict[tuple[float, ...], dict[str, float]]) -> str:
    """The results as Markdown; with ``beside``, each figure as "MuJoCo / MuJoCo Warp"."""
    head = ("vx", "vy", "yaw", "survival", "velocity error m/s", "yaw error rad/s", "joints rad")
    rows = []
    for result in results:
        both = [asdict(result)] + ([beside.get(result.command, {})] if beside else [])
        figures = [
            " / ".join(form(row.get(name)) for row in both)
            for name, form in (
                ("survival", _percent),
                ("velocity_error", _number),
                ("yaw_error", _number),
                ("joint_error", _number),
            )
        ]
        rows.append([f"{value:+.2f}" for value in result.command] + figures)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def split_document(path: Path) -> tuple[str, str]:
    """What stands before and behind the table of a document.

    Raises:
        EngineError: there is no place for one.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise EngineError(f"{path} has no place for the table; expected lines {BEGIN} and {END}")
    return before + begin, end + after


def write(
    results: Sequence[CommandResult], beside: dict[tuple[float, ...], dict[str, float]], options: Options
) -> None:
    """Print the table; write it, and the figures as JSON."""
    text = table(results, beside)
    said = f"{options.episodes} episodes of {options.seconds:g} s each, {'with' if options.pushes else 'no'} pushes"
    said += "; plain MuJoCo / MuJoCo Warp" if beside else "; plain MuJoCo"
    print(f"{said}\n\n{text}")
    replace_file(options.out / "sim2sim.md", f"{said}\n\n{text}\n".encode())
    # JSON has no NaN, and slip and power are not measured here.
    measured = ("command", "episodes", "survival", "velocity_error", "yaw_error", "joint_error")
    rows = [{name: None if (v := getattr(r, name)) != v else v for name in measured} for r in results]
    document = {"pushes": options.pushes, "seconds": options.seconds, "results": rows}
    replace_file(options.out / "sim2sim.json", (json.dumps(document, indent=1) + "\n").encode())
    if options.document is not None:
        before, after = split_document(options.document)
        replace_file(options.document, f"{before}\n{said}.\n\n{text}\n{after}".encode())


if __name__ == "__main__":
    sys.exit(main())
