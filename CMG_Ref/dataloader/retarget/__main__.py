"""``python -m CMG_Ref.dataloader.retarget BVH... --out CLIPS``"""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.spatial.transform import Rotation

from CMG_Ref.command_line import run
from CMG_Ref.dataloader.clips import Clip, quaternions
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.dataloader.retarget.bodies import CHAIN, body_poses
from CMG_Ref.dataloader.retarget.bvh import read_bvh
from CMG_Ref.dataloader.retarget.person import person
from CMG_Ref.dataloader.retarget.report import Figures, figures, picture, table
from CMG_Ref.dataloader.retarget.solving import RobotSolver
from cmg_runtime.folder.kept_files import replace_file


@dataclass(frozen=True)
class Options:
    """Make clips of the G1 from BVH files with the joints of CMU's or of 100STYLE's.

    Each becomes OUT/NAME.npz, which CMG_Ref.dataloader.dataset reads, and a picture OUT/NAME.png. What was made is
    measured, and clips that would not be used are named with the reason. Exit status 2 if a file cannot be made a clip.
    """

    bvh: tyro.conf.Positional[tuple[Path, ...]]
    """The recordings."""
    out: Path = Path("clips")
    """Folder of the clips."""
    start: float = 0.0
    """Seconds of each recording to leave out at its beginning."""
    end: float | None = None
    """Second at which to end; without it, that at which the recording does."""
    rate: float = 1.0
    """How many times as fast the recordings are played."""
    pictures: bool = True
    """Draw each clip below its recording."""

    def __post_init__(self) -> None:
        end = math.inf if self.end is None else self.end
        if not 0 <= self.start < end:
            raise ValueError(f"--start is {self.start:g} and --end {end:g}; expected 0 or more, and the end after it")
        if not 0.1 <= self.rate <= 10:
            raise ValueError(f"--rate is {self.rate:g}; expected 0.1 to 10")
        names = [path.stem for path in self.bvh]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{len(names)} BVH files are named; expected some, and no two of one name")


def retarget(options: Options) -> None:
    """Make the clips, and print what they are.

    Raises:
        ValueError: what has to be installed, or, after the others are made, which files could not be used.
    """
    solver = RobotSolver()
    options.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Figures] = {}
    failed: list[str] = []
    for path in options.bvh:
        try:
            bvh = read_bvh(path)
            recorded = person(bvh, options.start, options.end, options.rate)
        except (ValueError, OSError) as error:
            failed.append(f"{path}: {str(error).removeprefix(f'{path}: ')}")
            continue
        clip, file = solver(recorded, path.stem), options.out / f"{path.stem}.npz"
        write_clip(file, clip)
        made[path.stem] = figures(clip)
        if options.pictures:
            replace_file(file.with_suffix(".png"), picture(clip, recorded.skeleton, bvh.names, bvh.parents))
    if made:
        found = read_folder(options.out).skipped  # as the data build will
        skipped = [f"  {each.name}: {each.reason}" for each in found if each.name.removesuffix(".npz") in made]
        checked = "all pass the checks of the data" if not skipped else f"{len(skipped)} would be skipped:"
        print(table(made), f"{len(made)} clips in {options.out}; {checked}", *skipped, sep="\n")
    if failed:
        print(*failed[1:], sep="\n", end="\n" if failed[1:] else "")
        others = "; the others are named above" if failed[1:] else ""
        raise ValueError(f"{len(failed)} of {len(options.bvh)} files could not be used: {failed[0]}{others}")


def write_clip(path: Path, clip: Clip) -> None:
    """Write a G1's clip as the public sets have them: docs/formats.md, ``dof_names``."""
    pos, rot = body_poses(clip)
    turning = np.gradient(rot, axis=0) @ rot.swapaxes(2, 3)  # [T, B, 3, 3], antisymmetric
    arrays = {
        "dof_positions": clip.dof_pos,
        "dof_velocities": np.gradient(clip.dof_pos, axis=0) * clip.fps,
        "body_positions": pos,
        "body_rotations": quaternions(Rotation.from_matrix(rot.reshape(-1, 3, 3))).reshape(*pos.shape[:2], 4),
        "body_linear_velocities": np.gradient(pos, axis=0) * clip.fps,
        "body_angular_velocities": turning[..., [2, 0, 1], [1, 2, 0]] * clip.fps,
    }
    named = {"dof_names": np.array(clip.joint_names), "body_names": np.array(CHAIN.body_names)}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        fps=np.array([clip.fps]),
        **named,
        **{name: values.astype(np.float32) for name, values in arrays.items()},
    )
    replace_file(path, buffer.getvalue())


def main() -> int:
    """Command line; returns the exit status."""
    return run(Options, retarget, None, "CMG_Ref.dataloader.retarget")


if __name__ == "__main__":
    sys.exit(main())
