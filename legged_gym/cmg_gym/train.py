"""``python -m cmg_gym.train``: train a policy, on a CPU, a GPU, several, or under torchrun on several machines."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.launch import Process, Training, launch, started_process
from cmg_gym.learning.policies import find_policy
from cmg_gym.learning.resume import changes
from cmg_gym.learning.runner import latest_checkpoint
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.robots import G1, RobotCfg, robot_of
from CMG_Ref.command_line import require_not_negative, require_positive, require_seed, run
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.kept_files import naming
from cmg_runtime.inputs import require_choice

CAREFUL_RATE = 1e-5
"""Learning rate that a training begins with whose networks know something. The schedule raises it within an iteration
to what the KL divergence allows; the usual first one undoes much before that is known."""


@dataclass(frozen=True)
class Options:
    """Train a residual policy on generated reference motion. mjlab's own `train` command has every other setting."""

    num_envs: int = 4096
    """On each GPU."""
    iterations: int = 3000
    """In all, those before an interruption included."""
    engine: Path = G1.engine
    """The engine folder; the robot is the one with its joints."""
    backend: command_line.BackendOption = "auto"
    mode: Literal["realtime", "pregenerated"] = "realtime"
    """Whether reference motion is generated as it is needed, or looked up in trajectories made at the start."""
    delay_steps: int = 0
    """Joint targets reach the actuators up to so many steps of physics (5 ms) late, at random."""
    gpus: int = 1 if torch.cuda.is_available() else 0
    """0 trains on the CPU. Under torchrun, which starts a process for each GPU itself, leave it out."""
    captured: bool = True
    """On a GPU, step the robots and update the policy in CUDA graphs. On a CPU there are none."""
    resume: bool = False
    """Go on from the newest checkpoint below the log folder."""
    start_from: Path | None = None
    """Begin with the networks of another policy, which another generator may have: a checkpoint, a run's folder, or an
    exported policy's."""
    begin_at: int = 0
    """Iteration to begin in with --start-from: the curriculum is in the stage of it, and --iterations counts it."""
    logs: Path = Path("logs/rsl_rl")
    """Where runs go: checkpoints, TensorBoard, configuration, and the exported policy at the end."""
    run_name: str = ""
    """Added to the name of the run's folder."""
    seed: int = 42


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    resumable = "interrupted; --resume goes on behind the last saved iteration"
    return run(Options, train, arguments, "cmg_gym.train", FORESEEN, resumable)


def train(options: Options) -> None:
    """Launch the training and wait for its end."""
    with naming(options.logs):  # of TensorBoard's files there, which rsl_rl writes
        launch(training_of(options))


def training_of(options: Options) -> Training:
    """What the launcher takes.

    Raises:
        EngineError: no engine, a number that cannot be, nothing to resume or only what another generator was trained
            with, or more GPUs than there are.
    """
    started = started_process()
    processes = started.world_size if started else max(options.gpus, 1)
    require_positive(options, "num_envs", "iterations")
    require_not_negative(options, "gpus", "delay_steps", "begin_at")
    require_seed(options.seed, processes)
    require_choice(options.backend, "backend", ("auto", *BACKENDS))
    if not re.fullmatch(r"[\w.+=-]*", options.run_name):
        raise EngineError(f"--run-name is {options.run_name!r}; expected letters, digits and . _ + = - only")
    if options.start_from is not None:
        if options.resume:
            raise EngineError("--resume goes on with its own networks, and --start-from begins with others; give one")
        find_policy(options.start_from)  # a wrong one is told now
        if options.begin_at >= options.iterations:
            raise EngineError(
                f"--begin-at is {options.begin_at} and --iterations, which counts those before, {options.iterations}; "
                "expected more"
            )
    elif options.begin_at:
        raise EngineError(f"--begin-at is {options.begin_at} without --start-from, whose policy knows what came before")
    manifest = read_manifest(options.engine)  # a wrong folder is told now, not after a minute
    robot = robot_of(manifest)
    checkpoint = newest_checkpoint(options.logs, robot) if options.resume else None
    require_gpus(options.gpus, started)
    command_line.require_room(options.num_envs, "cuda" if options.gpus else "cpu")
    env, agent = make_env_cfg(delay_steps=options.delay_steps, robot=robot), make_rl_cfg(robot)
    reference = command_line.reference_cfg(env)
    reference.engine = str(options.engine.resolve())
    reference.cmg_backend = options.backend
    reference.cmg_mode = options.mode
    reference.trajectory_seed = options.seed  # the environment of every process has another seed
    if options.mode == "pregenerated":
        reference.pregenerated_s = env.episode_length_s
    env.scene.num_envs = options.num_envs
    if options.start_from is not None:
        agent.algorithm.learning_rate = CAREFUL_RATE
    agent.max_iterations, agent.run_name, agent.seed = options.iterations, options.run_name, options.seed
    if checkpoint is not None:
        given = {
            "gpus": processes,
            "num_envs": options.num_envs,
            "mode": options.mode,
            "delay_steps": options.delay_steps,
        }
        changed = changes(checkpoint, manifest, given)
        if started is None or started.rank == 0:
            print(f"Going on from {checkpoint}", *changed, sep="\n  ", flush=True)
    captured = None if options.captured else False  # None: where there is a GPU
    policy = None if options.start_from is None else options.start_from.resolve()
    return Training(env, agent, options.logs, options.gpus, captured, checkpoint, policy, options.begin_at)


def require_gpus(gpus: int, started: Process | None) -> None:
    """Refuse more GPUs than torch sees, and to start processes where they are started already.

    Raises:
        EngineError: says which.
    """
    seen = torch.cuda.device_count()
    if started is None:
        if gpus > seen:
            raise EngineError(f"--gpus is {gpus} and torch sees {seen}; 0 trains on the CPU")
    elif gpus > 1:
        raise EngineError(f"--gpus is {gpus} under torchrun, which starts a process for each GPU; leave it out")
    elif gpus and started.local_rank >= seen:
        raise EngineError(f"torchrun has started process {started.local_rank + 1} here and torch sees {seen} GPUs")


def newest_checkpoint(logs: Path, robot: RobotCfg) -> Path:
    """What is resumed.

    Raises:
        EngineError: there is nothing.
    """
    folder = logs / make_rl_cfg(robot).experiment_name
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise EngineError(f"no checkpoint below {folder}; train without --resume first")
    return checkpoint


if __name__ == "__main__":
    sys.exit(main())
