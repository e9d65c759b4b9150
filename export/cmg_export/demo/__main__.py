"""``python -m cmg_export.demo``: draw the gait that an engine generates, as an animation and as a contact sheet."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cmg_export.demo.gait import generate_gaits
from cmg_export.demo.pictures import CELL, FRAMES_PER_PICTURE, PANEL, draw_animation, draw_row, save_gif, stack
from cmg_export.demo.stage import Stage, choose_renderer
from cmg_export.errors import FORESEEN, ExportError
from CMG_Ref.command_line import require_seed, run
from cmg_runtime import load_engine
from cmg_runtime.folder.kept_files import replace_file

MODULE = "cmg_export.demo"


@dataclass(frozen=True)
class Options:
    """Draw the gait that an engine generates for a Unitree G1 at four commands: gait.gif and gait.png."""

    engine: Path = Path("engines/g1_all")
    """The engine folder."""
    out: Path = Path("docs/images")
    """Where gait.gif and gait.png go."""
    seconds: float = 3.0
    """Length of the animation."""
    seed: int = 0
    """Of the draw of initial states from the engine's bank."""


def draw_pictures(options: Options) -> None:
    """Draw both pictures. Raises :class:`EngineError`, :class:`ExportError` or ``OSError``."""
    if not 1 <= options.seconds <= 60:
        raise ExportError(f"--seconds is {options.seconds:g}; expected 1 to 60")
    require_seed(options.seed)
    engine = load_engine(options.engine, num_envs=1)
    gaits = generate_gaits(engine, round(options.seconds * engine.fps), options.seed)
    choose_renderer()  # only now: a wrong argument is told whether or not this machine can draw
    options.out.mkdir(parents=True, exist_ok=True)
    with Stage(engine.joint_names, CELL) as stage:
        rows = list(_with_progress("gait.png", len(gaits), (draw_row(stage, gait) for gait in gaits)))
    content = io.BytesIO()
    stack(rows).save(content, format="PNG", optimize=True)
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
