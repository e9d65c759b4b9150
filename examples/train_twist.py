"""``python -m examples.train_twist --twist ../TWIST``: TWIST's own teacher task, on generated reference motion.

A copy of the checkout's code is patched (examples/twist.patch) and trained with its own rsl_rl; the checkout stays as
it is. The simulator is this repository's ``isaacgym`` on MuJoCo Warp (``pip install ./legged_gym/isaacgym_warp``).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from CMG_Ref.command_line import run
from examples import published_code
from examples import training_record as record

PATCH = Path(__file__).with_name("twist.patch")
TASK = "g1_priv_mimic"

ERRORS = {
    "_error_tracking_joint_dof": "joint positions, rad",
    "_error_tracking_joint_vel": "joint velocities, rad/s",
    "_error_tracking_root_vel": "the root's velocity, m/s",
    "_error_tracking_root_ang_vel": "the root's angular velocity, rad/s",
}
"""TWIST's own measures that `--play` prints."""


@dataclass(frozen=True)
class Options:
    """Train TWIST's teacher on generated reference motion."""

    twist: Path = Path("../TWIST")
    """A checkout of TWIST."""
    engine: Path = Path("engines/g1_neutral")
    """The engine folder, or a checkpoint."""
    mode: Literal["realtime", "pregenerated"] = "realtime"
    backend: str = "auto"
    num_envs: int = 4096
    iterations: int = 300
    """In all, those before an interruption included."""
    device: str = "cuda:0"
    num_motions: int = 1024
    """Of the pregenerated mode."""
    motion_length: int = 500
    """Frames; the longest episode."""
    out: Path = Path("build/twist")
    """iterations.csv, summary.json, curves.png, and checkpoints."""
    time_reference: bool = True
    """Measure the reference motion's share of the time."""
    max_minutes: float | None = None
    """Stop after so long; --resume goes on."""
    resume: bool = False
    play: bool = False
    """Run the trained policy for an episode without noise and pushes, and measure it, instead of training."""
    apply: bool = False
    """Patch the checkout itself and do nothing else."""
    seed: int = 1
    verbose: bool = False
    """Print what TWIST prints in every iteration."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, act, arguments, "examples.train_twist", published_code.FORESEEN)


def act(options: Options) -> None:
    """Do what the options ask for."""
    if options.apply:
        published_code.apply_patch(PATCH, options.twist)
        print(f"patched {options.twist}; CMG_ENGINES names the folder that g1_neutral lies in")
        return
    with tempfile.TemporaryDirectory(prefix="twist-") as folder:
        patched = Path(folder)
        overlay(options.twist.resolve(), patched)
        published_code.prepare(patched / name for name in ("legged_gym", "rsl_rl", "pose"))
        act_on = play if options.play else train
        act_on(options)


def overlay(twist: Path, folder: Path) -> None:
    """A checkout in ``folder`` that can be patched: a copy of TWIST's environments, and links to the rest."""
    published_code.require_folders(twist / name for name in ("legged_gym", "assets", "pose", "rsl_rl"))
    shutil.copytree(twist / "legged_gym", folder / "legged_gym", ignore=shutil.ignore_patterns("logs", "__pycache__"))
    for name in ("assets", "pose", "rsl_rl"):
        (folder / name).symlink_to(twist / name)
    published_code.apply_patch(PATCH, folder)


def make_env(options: Options, playing: bool) -> tuple[Any, Any, Any]:
    """TWIST's environment, its registry, and the arguments that its own scripts would have read."""
    sys.argv = ["train.py", "--task", TASK, "--headless", "--no_wandb", "--device", options.device]
    sys.argv += ["--num_envs", str(options.num_envs), "--seed", str(options.seed)]
    from legged_gym.envs import task_registry  # type: ignore[import-not-found]
    from legged_gym.gym_utils import get_args  # type: ignore[import-not-found]

    args = get_args()
    cfg, _ = task_registry.get_cfgs(TASK)
    cfg.motion.cmg_model_path = str(options.engine.resolve())
    cfg.motion.cmg_mode = options.mode
    cfg.motion.cmg_backend = options.backend
    cfg.motion.cmg_num_motions = options.num_motions
    cfg.motion.cmg_motion_length = options.motion_length
    if playing:  # as TWIST's play.py has it
        cfg.env.rand_reset = False
        cfg.noise.add_noise = False
        cfg.motion.motion_curriculum = False
        for name in ("push_robots", "randomize_base_mass", "randomize_base_com", "action_delay"):
            setattr(cfg.domain_rand, name, False)
    env, _ = task_registry.make_env(name=TASK, args=args, env_cfg=cfg)
    return env, task_registry, args


def make_runner(options: Options, env: Any, registry: Any, args: Any) -> Any:
    """TWIST's rsl_rl, of which nothing goes to wandb."""
    import wandb

    wandb.init(mode="disabled")  # as its train.py does: its runner logs there
    options.out.mkdir(parents=True, exist_ok=True)
    runner, _ = registry.make_alg_runner(env=env, name=TASK, args=args, log_root=str(options.out))
    # Its checkpoints hold normalisers whole, which torch.load refuses since 2.6 unless it is told of them.
    torch.serialization.add_safe_globals([type(runner.normalizer)])
    return runner


def train(options: Options) -> None:
    """Train, and leave record and checkpoints in ``options.out``."""
    env, registry, args = make_env(options, playing=False)
    runner = make_runner(options, env, registry, args)
    clock = record.ReferenceClock(env._motion_lib, options.device) if options.time_reference else None
    record.train(
        runner,
        options.iterations,
        options.out,
        f"TWIST's teacher, {options.num_envs} environments, {options.mode}, {options.backend}",
        resume=options.resume,
        max_minutes=options.max_minutes,
        verbose=options.verbose,
        clock=clock,
    )
    print(env._motion_lib.report())


def play(options: Options) -> None:
    """Run the policy once through a motion's length, and print how well it keeps to the reference."""
    env, registry, args = make_env(options, playing=True)
    runner = make_runner(options, env, registry, args)
    runner.load(str(record.latest_checkpoint(options.out)))
    policy = runner.get_inference_policy(device=env.device)
    normalizer = runner.get_normalizer(device=env.device)
    sums, steps = dict.fromkeys(ERRORS, 0.0), int(env.max_episode_length)
    length = torch.zeros(env.num_envs, device=env.device)
    alive = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    env.reset()
    with torch.inference_mode():
        for _ in range(steps):
            actions = policy(normalizer.normalize(env.get_observations()), hist_encoding=True)
            _, _, _, ended, _ = env.step(actions)
            length += alive
            for name in ERRORS:
                sums[name] += getattr(env, name)().mean().item()
            alive &= (ended == 0) | env.time_out_buf
    print(f"first episodes: {length.mean().item():.1f} of {steps} steps; {alive.float().mean().item():.0%} to the end")
    for name, total in sums.items():
        print(f"mean error of {ERRORS[name]}: {total / steps:.3f}")


if __name__ == "__main__":
    sys.exit(main())
