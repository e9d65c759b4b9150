"""What the demo draws of gaits: an animation, and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cmg_export.demo.gait import Gait, gait_period
from cmg_export.demo.stage import Stage
from cmg_runtime.folder.kept_files import replace_file

PANEL = (340, 285)
CELL = (190, 270)
MARGIN, GAP = 150, 2
PHASES = 8
FRAMES_PER_PICTURE = 2

TEXT, FAINT, BACKGROUND = (240, 242, 245), (150, 160, 172), (24, 28, 34)


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


def save_gif(pictures: Sequence[Image.Image], path: str | Path, fps: float, colours: int = 72) -> None:
    """Write an animation: one palette for all pictures and no dithering, so small, and free of flicker."""
    sample = stack([pictures[i * len(pictures) // 4] for i in range(4)])
    palette = sample.quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=2)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration, content = round(1000 / fps), io.BytesIO()
    indexed[0].save(content, format="GIF", save_all=True, append_images=indexed[1:], duration=duration, loop=0)
    replace_file(Path(path), content.getvalue())


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size, one below the other."""
    width, height = pictures[0].size
    stacked = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        stacked.paste(picture, (0, i * height))
    return stacked
