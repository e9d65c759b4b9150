"""``python -m cmg_gym.play``: watch a policy, as an animation drawn without a display or in mjlab's viewer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.mdp.reference_command import reference
from CMG_Ref.command_line import require_positive, run

COMMANDS = ((0.0, 0.0, 0.0), (0.6, 0.0, 0.0), (1.0, 0.0, 0.0), (0.8, 0.0, 0.5), (0.8, 0.0, -0.5), (0.0, 0.0, 0.0))

CAPTION = (230, 230, 230)


@dataclass(frozen=True)
class Options(command_line.PolicyOptions):
    """Watch a trained policy; the reference motion is drawn as a ghost."""

    viewer: bool = False
    """Open mjlab's viewer instead of writing an animation: commands then come at random."""
    out: Path = Path("build/play.gif")
    """The animation."""
    commands: tuple[tuple[float, float, float], ...] = COMMANDS
    """vx, vy (m/s) and yaw rate (rad/s), one after the other."""
    seconds: float = 3.0
    """Of each command."""
    frames_per_picture: int = 2
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
    from PIL import Image, ImageDraw, ImageFont

    from cmg_export.demo.pictures import save_gif

    require_positive(options, "frames_per_picture")
    command_line.require_seconds(options.seconds)
    command_line.require_commands(options.commands)
    env, policy = command_line.open_policy(options, 1, seconds=1e9, render_mode="rgb_array")
    world = env.unwrapped
    term = reference(world)
    steps = max(1, round(options.seconds / world.step_dt))
    pictures, font = [], ImageFont.load_default(16)
    with torch.inference_mode():
        term.hold(options.commands[0])
        observations, _ = env.reset()
        for command in options.commands:
            term.hold(command)
            for step in range(steps):
                observations, _, _, _ = env.step(policy(observations))
                if step % options.frames_per_picture == 0:
                    picture = world.render()
                    assert picture is not None
                    pictures.append(Image.fromarray(picture))
                    ImageDraw.Draw(pictures[-1]).text((12, 8), caption(command), CAPTION, font)
    env.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # GIF counts in hundredths of a second.
    save_gif(pictures, options.out, fps=100 / round(100 * world.step_dt * options.frames_per_picture))
    print(f"{len(pictures)} pictures in {options.out}")


def caption(command: Sequence[float]) -> str:
    """What is asked for, in words."""
    vx, vy, yaw = command
    sideways = f", {vy:+.1f} m/s sideways" if vy else ""
    turn = f", turning {yaw:+.1f} rad/s" if yaw else ""
    return f"{vx:.1f} m/s{sideways}{turn}" if any(command) else "stand"


if __name__ == "__main__":
    sys.exit(main())
