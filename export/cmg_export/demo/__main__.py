"""``python -m cmg_export.demo``: draw the gait that an engine generates, as an animation and as a contact sheet.

The motion state has no root, so the root follows the command: (vx, vy, yaw rate) integrated in the heading frame,
the pelvis level, and as high as puts the lowest point of the soles on the ground.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from cmg_export.demo.stage import Stage, StageError, choose_renderer
from cmg_export.errors import FORESEEN
from CMG_Ref.command_line import require_seed, run
from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.folder.kept_files import replace_file
from cmg_runtime.window.kinematics import ForwardKinematics

MODULE = "cmg_export.demo"

COMMANDS = (
    ("forward", (1.0, 0.0, 0.0)),
    ("backward", (-0.6, 0.0, 0.0)),
    ("sideways", (0.0, 0.5, 0.0)),
    ("turning", (0.6, 0.0, 0.7)),
)
"""What is drawn: (vx, vy) m/s and yaw rate rad/s, in the heading frame."""

WARM_UP_SECONDS = 3.0
"""Left out at the start, while a rollout goes from its initial state to the gait of its command."""

PANEL = (340, 285)
CELL = (190, 270)
MARGIN, GAP = 150, 2
PHASES = 8
FRAMES_PER_PICTURE = 2
LOOK_AHEAD_SECONDS = 1.0
"""Length of the line on the floor that shows where the command leads."""

TEXT, FAINT, BACKGROUND = (240, 242, 245), (150, 160, 172), (24, 28, 34)


@dataclass(frozen=True)
class Options:
    """Draw the gait that an engine generates for a Unitree G1 at four commands: gait.gif and gait.png."""

    engine: Path = Path("engines/g1_neutral")
    """The engine folder."""
    out: Path = Path("docs/images")
    """Where gait.gif and gait.png go."""
    seconds: float = 3.0
    """Length of the animation."""
    seed: int = 0
    """Of the draw of initial states from the engine's bank."""


@dataclass(frozen=True)
class Gait:
    """A rollout at one command.

    Attributes:
        name: what the command is called.
        command: (vx, vy, yaw rate), m/s and rad/s.
        dof_pos: [T, num_joints], rad.
        root: [T, 4], x, y, z (m) and heading (rad) in the world, the root's origin.
        path: [T + look-ahead, 2], x, y (m): where the command leads, beyond the last frame too.
    """

    name: str
    command: tuple[float, ...]
    dof_pos: torch.Tensor
    root: torch.Tensor
    path: torch.Tensor

    @property
    def label(self) -> str:
        """The command's parts that are not zero, one a line."""
        parts = zip(self.command, ("vx {:+.1f} m/s", "vy {:+.1f} m/s", "yaw {:+.1f} rad/s"), strict=True)
        return "\n".join(text.format(value) for value, text in parts if value) or "standing"


def integrate_command(command: Sequence[float], num_frames: int, fps: float) -> torch.Tensor:
    """Path of a root that follows a constant command exactly.

    Args:
        command: (vx, vy, yaw rate) in the heading frame, m/s and rad/s.

    Returns:
        [num_frames, 3] float64: x, y (m) and heading (rad), from 0, 0, 0; exact, since a constant command is an arc.
    """
    vx, vy, rate = command
    time = torch.arange(num_frames, dtype=torch.float64) / fps
    heading = rate * time
    forward, side = (time, torch.zeros_like(time)) if rate == 0 else (heading.sin() / rate, (1 - heading.cos()) / rate)
    return torch.stack([vx * forward - vy * side, vx * side + vy * forward, heading], dim=1)


def generate_gaits(engine: Engine, num_frames: int, seed: int) -> list[Gait]:
    """Roll out every one of :data:`COMMANDS`, within the engine's command range, and place the root.

    Raises:
        EngineError: the engine has no robot model, or its command is not (vx, vy, yaw rate).
    """
    robot = engine.manifest.robot
    low, high = engine.command_range
    if robot is None or len(low) != 3:
        raise EngineError("the demo needs an engine with a robot model and (vx, vy, yaw rate) commands")
    warm_up = int(WARM_UP_SECONDS * engine.fps)
    commands = torch.tensor([command for _, command in COMMANDS]).clamp(low, high)
    draw = torch.randint(len(engine.bank), (len(COMMANDS),), generator=torch.Generator().manual_seed(seed))
    frames = engine.rollout(engine.bank[draw], commands, warm_up + num_frames - 1)[:, warm_up:]
    dof_pos = frames[..., : len(engine.joint_names)].double()
    kinematics = ForwardKinematics(robot, dtype=torch.float64)
    height = -kinematics.sole_heights(*kinematics(dof_pos)).amin(dim=-1)
    gaits = []
    for i, (name, _) in enumerate(COMMANDS):
        command = tuple(commands[i].tolist())
        poses = integrate_command(command, num_frames + int(LOOK_AHEAD_SECONDS * engine.fps), engine.fps)
        root = torch.cat([poses[:num_frames, :2], height[i, :, None], poses[:num_frames, 2:]], dim=1)
        gaits.append(Gait(name, command, dof_pos[i], root, poses[:, :2]))
    return gaits


def gait_period(dof_pos: torch.Tensor, shortest: int = 15) -> int:
    """Frames after which a motion [T, num_joints] best repeats itself, at least ``shortest`` and at most T / 2."""
    longest = len(dof_pos) // 2
    distance = [float((dof_pos[lag:] - dof_pos[:-lag]).square().mean()) for lag in range(1, longest + 1)]
    # The first of the good ones: two cycles match as well as one does.
    good = min(distance[shortest - 1 :]) + 0.1 * (max(distance) - min(distance[shortest - 1 :]))
    first = next(lag for lag in range(shortest, longest + 1) if distance[lag - 1] <= good)
    nearby = range(first, min(first + shortest // 2, longest) + 1)
    return min(nearby, key=lambda lag: distance[lag - 1])


def draw_frame(stage: Stage, gait: Gait, frame: int) -> Image.Image:
    """One frame of a gait, with the way ahead."""
    ahead = gait.path[frame : frame + len(gait.path) - len(gait.root)]
    return stage.draw(gait.dof_pos[frame], gait.root[frame].tolist(), ahead[::5])


def draw_animation(stage: Stage, gaits: Sequence[Gait]) -> Iterator[Image.Image]:
    """Two by two panels, one per gait, for every picture of the animation."""
    width, height = stage.size
    for frame in range(0, len(gaits[0].root), FRAMES_PER_PICTURE):
        picture = Image.new("RGB", (2 * width + GAP, 2 * height + GAP), BACKGROUND)
        for i, gait in enumerate(gaits):
            panel = draw_frame(stage, gait, frame)
            write = ImageDraw.Draw(panel)
            write.text((14, 10), gait.name, TEXT, ImageFont.load_default(20))
            write.text((14, 36), gait.label, FAINT, ImageFont.load_default(14))
            picture.paste(panel, (i % 2 * (width + GAP), i // 2 * (height + GAP)))
        yield picture


def draw_row(stage: Stage, gait: Gait) -> Image.Image:
    """A gait's first cycle in equal phases, left to right, behind its name."""
    width, height = stage.size
    row = Image.new("RGB", (MARGIN + PHASES * (width + GAP), height + GAP), BACKGROUND)
    write = ImageDraw.Draw(row)
    write.text((16, height // 2 - 34), gait.name, TEXT, ImageFont.load_default(22))
    write.text((16, height // 2), gait.label, FAINT, ImageFont.load_default(15))
    period = gait_period(gait.dof_pos)
    for phase in range(PHASES):
        cell = draw_frame(stage, gait, round(phase * period / PHASES))
        row.paste(cell, (MARGIN + phase * (width + GAP), 0))
    return row


def save_gif(pictures: Sequence[Image.Image], path: str | Path, fps: float) -> None:
    """Write an animation: one palette for all pictures and no dithering, so small, and free of flicker."""
    sample = _stack([pictures[i * len(pictures) // 4] for i in range(4)])
    palette = sample.quantize(72, method=Image.Quantize.MEDIANCUT, kmeans=2)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration, content = round(1000 / fps), io.BytesIO()
    indexed[0].save(content, format="GIF", save_all=True, append_images=indexed[1:], duration=duration, loop=0)
    replace_file(Path(path), content.getvalue())


def draw_pictures(options: Options) -> None:
    """Draw both pictures. Raises :class:`EngineError`, :class:`StageError` or ``OSError``."""
    if not 1 <= options.seconds <= 60:
        raise StageError(f"--seconds is {options.seconds:g}; expected 1 to 60")
    require_seed(options.seed)
    engine = load_engine(options.engine, num_envs=1)
    gaits = generate_gaits(engine, round(options.seconds * engine.fps), options.seed)
    choose_renderer()  # only now: a wrong argument is told whether or not this machine can draw
    options.out.mkdir(parents=True, exist_ok=True)
    with Stage(engine.joint_names, CELL) as stage:
        rows = list(_with_progress("gait.png", len(gaits), (draw_row(stage, gait) for gait in gaits)))
    content = io.BytesIO()
    _stack(rows).save(content, format="PNG", optimize=True)
    replace_file(options.out / "gait.png", content.getvalue())
    _say_size(options.out / "gait.png")
    with Stage(engine.joint_names, PANEL) as stage:
        count = math.ceil(len(gaits[0].root) / FRAMES_PER_PICTURE)
        pictures = list(_with_progress("gait.gif", count, draw_animation(stage, gaits)))
    save_gif(pictures, options.out / "gait.gif", engine.fps / FRAMES_PER_PICTURE)
    _say_size(options.out / "gait.gif")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Every foreseen failure is one line on stderr."""
    return run(Options, draw_pictures, args, MODULE, FORESEEN)


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size, one below the other."""
    width, height = pictures[0].size
    stacked = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        stacked.paste(picture, (0, i * height))
    return stacked


def _with_progress(name: str, total: int, pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Pass the pictures on and say how many there are: on one line of a terminal, every tenth line in a log."""
    for count, picture in enumerate(pictures, 1):
        if sys.stderr.isatty():
            print(f"\r  {name}  {count} / {total}", end="\n" if count == total else "", file=sys.stderr, flush=True)
        elif count % 10 == 0 or count == total:
            print(f"  {name}  {count} / {total}", file=sys.stderr, flush=True)
        yield picture


def _say_size(path: Path) -> None:
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
