"""Pictures, one after the other, as files: GIF by Pillow, MP4 by imageio's ffmpeg."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmg_export.demo import pictures as demo

GIF_WIDTH, GIF_COLOURS = 480, 32


def save_gif(pictures: Sequence[Image.Image], path: Path, seconds: float) -> None:
    """An animation in which each picture is to be seen for ``seconds``, in hundredths: GIF has no others."""
    width, height = pictures[0].size
    size = (GIF_WIDTH, round(height * GIF_WIDTH / width))
    small = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    demo.save_gif(small, path, fps=100 / max(1, round(100 * seconds)), colours=GIF_COLOURS)


def save_mp4(pictures: Sequence[Image.Image], path: Path, seconds: float) -> str:
    """A film, H.264, in the pictures' own size; returns what came of it, in a line."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return f"no {path}: it takes the package imageio-ffmpeg (pip install imageio-ffmpeg)"
    import imageio_ffmpeg

    rate: Any = 1 / seconds  # a float is well, whatever its annotation says
    unfinished = path.with_name(f".{path.name}.unfinished.mp4")  # its ending says what it is to be
    writer = imageio_ffmpeg.write_frames(
        str(unfinished), pictures[0].size, fps=rate, quality=7, macro_block_size=2, ffmpeg_log_level="error"
    )
    try:
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
        os.replace(unfinished, path)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)
    return f"{len(pictures)} pictures in {path}, {path.stat().st_size / 1e6:.1f} MB"
