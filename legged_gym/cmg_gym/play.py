"""``python -m cmg_gym.play``: watch a policy, as an animation drawn without a display or in mjlab's viewer."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.drawing import require_renderer
from cmg_gym.learning.policies import require_same_generator
from cmg_gym.mdp.reference_command import reference
from cmg_gym.pictures.figures import Moment
from cmg_gym.pictures.stage import Stage
from cmg_gym.pictures.videos import save_gif, save_mp4
from cmg_gym.robots import robot_of
from cmg_gym.walk import MEAN_OF_S, Walk, clamped, exported_policy
from CMG_Ref.command_line import require_positive, run
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.device import resolve_device

COMMANDS = ((0.8, 0.0, 0.5), (0.0, 0.5, 0.0), (0.0, 0.0, 1.2), (-0.6, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Options(command_line.PolicyOptions):
    """Watch a trained policy in plain MuJoCo, on a CPU, through the control loop that is deployed. Beside it walks, in
    green, the reference motion."""

    warp: bool = False
    """Walk in the training environment (MuJoCo Warp) instead, which compiles for minutes. Takes checkpoints, too."""
    viewer: bool = False
    """Open mjlab's viewer on the training environment instead of writing an animation: commands then come at random."""
    out: Path = Path("build/play.gif")
    """The animation, NAME.gif; a film, NAME.mp4, comes beside it."""
    commands: tuple[tuple[float, float, float], ...] = COMMANDS
    """vx, vy (m/s) and yaw rate (rad/s), one after the other."""
    seconds: float = 2.0
    """Of each command."""
    frames_per_picture: int = 4
    """Control steps between two pictures of the animation."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, play, arguments, "cmg_gym.play", FORESEEN)


def play(options: Options) -> None:
    """Open the viewer, or draw and write the animation."""
    if options.viewer:
        watch(options)
    else:
        draw(options)


def watch(options: Options) -> None:
    """mjlab's viewer: a window where there is a display, else in the browser."""
    from mjlab.viewer import NativeMujocoViewer, ViserPlayViewer

    env, policy = command_line.open_policy(options, 1, seconds=1e9)
    viewer = NativeMujocoViewer if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else ViserPlayViewer
    viewer(env, cast(Any, policy)).run()  # its protocol says Tensor where it passes a TensorDict
    env.close()


def draw(options: Options) -> None:
    """The robot under one command after the other."""
    require_positive(options, "frames_per_picture")
    command_line.require_seconds(options.seconds)
    command_line.require_commands(options.commands)
    command_line.require_options(options)
    if options.out.suffix.lower() != ".gif":
        raise EngineError(f"--out is {options.out}; expected NAME.gif, beside which the film NAME.mp4 comes")
    if not options.warp and options.backend not in ("auto", "onnx"):
        raise EngineError(f"--backend is {options.backend}; the deployed loop runs onnx: leave it out, or add --warp")
    if not options.warp and options.captured:
        raise EngineError("--captured is of the training environment; leave it out, or add --warp")
    manifest = read_manifest(options.engine)
    require_same_generator(command_line.policy_or_bundled(options.policy, options.engine), manifest)
    resolve_device(options.device)
    require_renderer()
    robot, fps = robot_of(manifest), manifest.fps
    steps = max(1, round(options.seconds * fps))
    moments = (warp_moments if options.warp else moments_of)(options, steps)
    seconds = options.frames_per_picture / fps
    options.out.parent.mkdir(parents=True, exist_ok=True)  # before the work is done
    pictures = []
    with Stage(robot, manifest.joint_names) as stage:
        total = steps * len(options.commands)
        for step, moment in enumerate(tqdm(moments, "drawing", total, unit="step", mininterval=1.0)):
            if step % options.frames_per_picture == 0:
                pictures.append(stage.draw(moment, seconds))
    save_gif(pictures, options.out, seconds)
    print(f"{len(pictures)} pictures in {options.out}, {options.out.stat().st_size / 1e6:.1f} MB")
    print(save_mp4(pictures, options.out.with_suffix(".mp4"), seconds))


def moments_of(options: Options, steps: int) -> Iterator[Moment]:
    """The walk in plain MuJoCo; from standing again after a fall."""
    policy = command_line.policy_or_bundled(options.policy, options.engine)
    walk = Walk(exported_policy(policy), options.engine)
    for command in options.commands:
        for _ in range(steps):
            yield walk.step(command)
            if not walk.robot.upright:
                print(f"it fell under the command {command}, and begins anew")
                walk.reset()


@torch.inference_mode()
def warp_moments(options: Options, steps: int) -> Iterator[Moment]:
    """The walk in the training environment, from a settled gait."""
    env, policy = command_line.open_policy(options, 1, seconds=1e9)
    term = reference(env.unwrapped)
    term.hold(options.commands[0])
    observations, _ = env.reset()
    low, high = (limits.tolist() for limits in term.engine.command_range)
    velocities: deque[np.ndarray] = deque(maxlen=round(MEAN_OF_S / env.unwrapped.step_dt))
    for command in options.commands:
        term.hold(command)
        for _ in range(steps):
            observations, _, _, _ = env.step(policy(observations))
            data = term.robot.data
            velocities.append(term.robot_velocity()[0].cpu().numpy())
            yield Moment(
                asked=tuple(command),
                taken=clamped(command, (low, high)),
                command=tuple(term.command[0].tolist()),
                achieved=tuple(np.mean(velocities, axis=0).tolist()),
                root=data.root_link_pose_w[0].cpu().numpy(),
                dof_pos=data.joint_pos[0].cpu().numpy(),
                reference_dof_pos=term.frames.dof_pos[0, 0].cpu().numpy(),
            )
    env.close()


if __name__ == "__main__":
    sys.exit(main())
