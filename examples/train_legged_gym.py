"""``python -m examples.train_legged_gym --legged-gym ../legged_gym --rsl-rl ../rsl_rl``: its own tasks, unedited.

legged_gym needs version 1.0.2 of rsl_rl. The simulator is this repository's ``isaacgym`` on MuJoCo Warp
(``pip install ./legged_gym/isaacgym_warp``). There is no generated motion in it: it shows what that package runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from CMG_Ref.command_line import run
from examples import published_code
from examples import training_record as record


@dataclass(frozen=True)
class Options:
    """Train a task of legged_gym."""

    legged_gym: Path = Path("../legged_gym")
    """A checkout of leggedrobotics/legged_gym."""
    rsl_rl: Path = Path("../rsl_rl")
    """A checkout of leggedrobotics/rsl_rl, version 1.0.2."""
    task: str = "anymal_c_flat"
    ground: Literal["published", "plane"] = "published"
    """`plane` takes the task's rough terrain away, and the heights around the robot from what it observes."""
    num_envs: int = 4096
    iterations: int = 300
    """In all, those before an interruption included."""
    device: str = "cuda:0"
    out: Path = Path("build/legged_gym")
    """iterations.csv, summary.json, curves.png, and checkpoints."""
    max_minutes: float | None = None
    """Stop after so long; --resume goes on."""
    resume: bool = False
    play: bool = False
    """Run the trained policy for an episode without noise and pushes, and measure it, instead of training."""
    seed: int = 1
    verbose: bool = False
    """Print what legged_gym prints in every iteration."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, act, arguments, "examples.train_legged_gym", published_code.FORESEEN)


def act(options: Options) -> None:
    """Train, or play."""
    published_code.prepare([options.legged_gym, options.rsl_rl])
    env, runner = make(options)
    if options.play:
        return play(options, env, runner)
    record.train(
        runner,
        options.iterations,
        options.out,
        f"legged_gym {options.task}, {options.num_envs} environments",
        resume=options.resume,
        max_minutes=options.max_minutes,
        verbose=options.verbose,
    )


def make(options: Options) -> tuple[Any, Any]:
    """legged_gym's environment, and rsl_rl's runner."""
    pipeline = "gpu" if options.device.startswith("cuda") else "cpu"
    sys.argv = ["train.py", "--task", options.task, "--headless", "--pipeline", pipeline]
    sys.argv += ["--sim_device", options.device, "--rl_device", options.device]
    sys.argv += ["--num_envs", str(options.num_envs), "--seed", str(options.seed)]
    from legged_gym.envs import task_registry  # type: ignore[import-not-found]
    from legged_gym.utils import get_args  # type: ignore[import-not-found]

    args = get_args()
    cfg, train_cfg = task_registry.get_cfgs(options.task)
    if options.ground == "plane":
        cfg.terrain.mesh_type, cfg.terrain.curriculum = "plane", False
        if cfg.terrain.measure_heights:
            heights = len(cfg.terrain.measured_points_x) * len(cfg.terrain.measured_points_y)
            cfg.terrain.measure_heights, cfg.env.num_observations = False, cfg.env.num_observations - heights
    if options.play:
        cfg.noise.add_noise = cfg.domain_rand.push_robots = cfg.domain_rand.randomize_friction = False
    env, _ = task_registry.make_env(name=options.task, args=args, env_cfg=cfg)
    runner, _ = task_registry.make_alg_runner(env=env, args=args, train_cfg=train_cfg, log_root=str(options.out))
    options.out.mkdir(parents=True, exist_ok=True)
    runner.log_dir = str(options.out)
    return env, runner


def play(options: Options, env: Any, runner: Any) -> None:
    """Run the policy for an episode, and print how long robots stay up and how well they keep to their commands."""
    runner.load(str(record.latest_checkpoint(options.out)))
    policy = runner.get_inference_policy(device=env.device)
    length = torch.zeros(env.num_envs, device=env.device)
    alive = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    steps, linear, turning = int(env.max_episode_length), 0.0, 0.0
    with torch.inference_mode():
        observations, _ = env.reset()
        for _ in range(steps):
            observations, _, _, ended, _ = env.step(policy(observations))
            length += alive
            alive &= (ended == 0) | env.time_out_buf
            linear += (env.commands[:, :2] - env.base_lin_vel[:, :2]).norm(dim=1).mean().item()
            turning += (env.commands[:, 2] - env.base_ang_vel[:, 2]).abs().mean().item()
    print(f"first episodes: {length.mean().item():.1f} of {steps} steps; {alive.float().mean().item():.0%} to the end")
    print(f"mean error of velocity: {linear / steps:.3f} m/s, of yaw rate: {turning / steps:.3f} rad/s")


if __name__ == "__main__":
    sys.exit(main())
