"""``python -m cmg_gym.train``: train a policy with mjlab's launcher, on a CPU, a GPU or several."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from mjlab.scripts.train import TrainConfig, launch_training

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.resume import changes
from cmg_gym.learning.runner import latest_checkpoint
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.robots import G1, RobotCfg, robot_of
from CMG_Ref.command_line import require_not_negative, require_positive, require_seed, run
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.kept_files import naming
from cmg_runtime.inputs import require_choice


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
    """0 trains on the CPU."""
    resume: bool = False
    """Go on from the newest checkpoint below the log folder."""
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
    with naming(options.logs):  # of TensorBoard's files there, which mjlab writes
        config = train_config(options)
        launch_training(robot_of(read_manifest(options.engine)).task, config)


def train_config(options: Options) -> TrainConfig:
    """What mjlab's launcher takes.

    Raises:
        EngineError: no engine, a number that cannot be, nothing to resume or only what another generator was trained
            with, or more GPUs than there are.
    """
    require_positive(options, "num_envs", "iterations")
    require_not_negative(options, "gpus", "delay_steps")
    require_seed(options.seed, processes=max(options.gpus, 1))
    require_choice(options.backend, "backend", ("auto", *BACKENDS))
    if not re.fullmatch(r"[\w.+=-]*", options.run_name):
        raise EngineError(f"--run-name is {options.run_name!r}; expected letters, digits and . _ + = - only")
    manifest = read_manifest(options.engine)  # a wrong folder is told now, not after a minute
    robot = robot_of(manifest)
    checkpoint = newest_checkpoint(options.logs, robot) if options.resume else None
    if options.gpus > torch.cuda.device_count():
        raise EngineError(f"--gpus is {options.gpus} and torch sees {torch.cuda.device_count()}; 0 trains on the CPU")
    command_line.require_room(options.num_envs, "cuda" if options.gpus else "cpu")
    env, agent = make_env_cfg(delay_steps=options.delay_steps, robot=robot), make_rl_cfg(robot)
    reference = command_line.reference_cfg(env)
    reference.engine = str(options.engine.resolve())
    reference.cmg_backend = options.backend
    reference.cmg_mode = options.mode
    reference.trajectory_seed = options.seed  # mjlab gives the environment of every GPU another seed
    if options.mode == "pregenerated":
        reference.pregenerated_s = env.episode_length_s
    env.scene.num_envs = options.num_envs
    agent.max_iterations, agent.run_name, agent.seed = options.iterations, options.run_name, options.seed
    if checkpoint is not None:
        given = {
            "gpus": max(options.gpus, 1),
            "num_envs": options.num_envs,
            "mode": options.mode,
            "delay_steps": options.delay_steps,
        }
        print(f"Going on from {checkpoint}", *changes(checkpoint, manifest, given), sep="\n  ", flush=True)
        agent.resume = True
        agent.load_run = f"^{re.escape(checkpoint.parent.name)}$"
        agent.load_checkpoint = f"^{re.escape(checkpoint.name)}$"
    gpu_ids = list(range(options.gpus)) or None
    return TrainConfig(env=env, agent=agent, log_root=str(options.logs), gpu_ids=gpu_ids)


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
