"""Clips -> labelled samples -> ``cmg_training_data.pt``.

python -m CMG_Ref.dataloader.dataset CLIPS_FOLDER --out cmg_training_data.pt
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from CMG_Ref.checkpoint.stats import read_stats, stats_of
from CMG_Ref.command_line import LARGEST_COUNT, LARGEST_SEED, run
from CMG_Ref.dataloader.clips import FPS, Clip
from CMG_Ref.dataloader.commands import smooth
from CMG_Ref.dataloader.conventions import Conventions
from CMG_Ref.dataloader.evidence import Kind
from CMG_Ref.dataloader.library import MotionLibrary, build_library
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.dataloader.synthesis import RANGES, Sample, SynthesisConfig, Synthesiser, make_sample
from CMG_Ref.dataloader.warping import warped_clips
from CMG_Ref.files.torch_files import read_pt, write_pt
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos, mirror_map

STD_FLOOR = 0.1
MIN_COMMAND_RANGE = 0.2  # m/s or rad/s from minimum to maximum; clips that only walk straight have no vy at all
MOST_WORKERS = 1024

_AS_EXPECTED = Conventions()


@dataclass(frozen=True)
class DatasetConfig:
    """What samples are made of."""

    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    warp: bool = False
    """Add steady, straight clips warped to other velocities (``warping.py``): slow steps, turns, diagonals. G1 only."""
    playbacks: int = 3
    """Times that every clip (and its mirror image) is also taken whole, each at its own pace."""
    smoothing_seconds: tuple[float, float] = (0.3, 1.0)
    """Windows over which a whole clip's velocity is averaged into commands; one is drawn for each playback."""
    seed: int = 0
    workers: int = 0
    """Processes; 0 for one per CPU. The result does not depend on it."""

    def __post_init__(self) -> None:
        for name, most in (("playbacks", LARGEST_COUNT), ("seed", LARGEST_SEED), ("workers", MOST_WORKERS)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to {most}")
        if not all(0 <= seconds <= 60 for seconds in self.smoothing_seconds):
            raise ValueError(f"smoothing_seconds is {self.smoothing_seconds}, expected 0 to 60")


def playback_samples(library: MotionLibrary, config: DatasetConfig) -> list[Sample]:
    """Whole clips and mirror images, played at random paces within the synthesis' range."""
    rng = np.random.default_rng([config.seed, 1])
    samples = []
    for track in library.tracks:
        for _ in range(config.playbacks):
            speed = rng.uniform(*config.synthesis.speed_range)
            dof_pos, velocity = track.play(0.0, int((track.num_frames - 1) / speed), speed)
            command = smooth(velocity, rng.choice(config.smoothing_seconds), FPS)
            samples.append(make_sample(dof_pos, command))
    return samples


_worker: tuple[Synthesiser, int] | None = None


def _start_worker(synthesiser: Synthesiser, seed: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the parent, and that ends the workers
    _worker = (synthesiser, seed)


def _sequence(index: int) -> Sample:
    assert _worker is not None
    synthesiser, seed = _worker
    return synthesiser.sequence(np.random.default_rng([seed, 2, index]))


def synthetic_samples(synthesiser: Synthesiser, config: DatasetConfig) -> list[Sample]:
    """``config.synthesis.num_sequences`` sequences; sequence i depends on the seed and i alone."""
    count = config.synthesis.num_sequences
    with multiprocessing.Pool(config.workers or os.cpu_count(), _start_worker, (synthesiser, config.seed)) as pool:
        return list(tqdm(pool.imap(_sequence, range(count), chunksize=8), "synthesis", total=count))


def compute_stats(
    samples: list[Sample], joint_names: tuple[str, ...], covered: tuple[tuple[float, ...], ...] = ()
) -> dict[str, Any]:
    """Normalisation constants in the checkpoint's format: mean and floored std of motion, range of command.

    They are those of the samples and their mirror images together. The command range leaves out the outermost
    0.2 % at each end: a few sharp turns at 5 rad/s would otherwise squeeze the commands that users give into a
    tenth of [-1, 1].

    Args:
        samples: at least one.
        joint_names: order of their joints.
        covered: least and greatest command that the range has to cover; empty for the samples' alone.
    """
    index, sign = mirror_map(joint_names)
    both, signs = index + [len(index) + i for i in index], np.array(sign * 2)
    motion = np.concatenate([s["motion"] for s in samples]).astype(np.float64)
    command = np.concatenate([s["command"] for s in samples])
    mean, square = motion.mean(axis=0), np.square(motion).mean(axis=0)
    mean, square = (mean + signs * mean[both]) / 2, (square + square[both]) / 2
    low, high = np.quantile(command, 0.002, axis=0), np.quantile(command, 0.998, axis=0)
    if covered:
        low, high = np.minimum(low, covered[0]), np.maximum(high, covered[1])
    widen = max(0.0, MIN_COMMAND_RANGE - (high[0] - low[0])) / 2
    side = np.maximum(np.maximum(-low[1:], high[1:]), MIN_COMMAND_RANGE / 2)
    return {
        "motion_mean": mean.astype(np.float32),
        "motion_std": np.sqrt(np.maximum(square - mean**2, STD_FLOOR**2)).astype(np.float32),
        "command_min": np.array([low[0] - widen, *-side], dtype=np.float32),
        "command_max": np.array([high[0] + widen, *side], dtype=np.float32),
        "num_joints": motion.shape[1] // 2,
        "motion_dim": motion.shape[1],
        "command_dim": command.shape[1],
    }


def build_dataset(clips: list[Clip], config: DatasetConfig) -> dict[str, Any]:
    """Samples and stats, as ``cmg_training_data.pt`` holds them."""
    joint_names = clips[0].joint_names
    if config.warp:
        if joint_names != JOINT_NAMES:
            raise ValueError(
                f"clips of {len(joint_names)} joints cannot be warped, expected the G1's; leave out --warp"
            )
        clips = [*clips, *warped_clips(clips, config.workers)]
    library = build_library(clips, joint_names)
    standing = np.array(default_dof_pos()) if joint_names == JOINT_NAMES else None
    samples = synthetic_samples(Synthesiser(library, config.synthesis, standing), config)
    samples += playback_samples(library, config)
    stats = compute_stats(samples, joint_names, RANGES.get(config.synthesis.targets, ()))
    return {"samples": samples, "stats": stats, "joint_names": list(joint_names)}


def balance_weights(commands: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Sampling weights that even out the commands seen in training.

    Commands are counted in cells of 0.2 m/s x 0.2 m/s x 0.4 rad/s; a row weighs its cell's count to the
    power ``-strength``: 0 leaves the data as it is, 1 makes every cell equally likely.

    Args:
        commands: [n, 3].

    Returns:
        [n] float64, mean 1.
    """
    cells = np.round(commands / np.array([0.2, 0.2, 0.4])).astype(np.int64)
    cells -= cells.min(axis=0)
    cell = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
    _, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
    weight = count[cell].astype(np.float64) ** -strength
    return weight / weight.mean()


def make_data_file(
    clips: tyro.conf.Positional[Path],
    /,
    out: Path = Path("cmg_training_data.pt"),
    exclude: tuple[str, ...] = (),
    accept: tuple[Kind, ...] = (),
    strict: bool = False,
    stats: Path | None = None,
    conventions: tyro.conf.OmitArgPrefixes[Conventions] = _AS_EXPECTED,
    config: tyro.conf.OmitArgPrefixes[DatasetConfig] = DatasetConfig(),
) -> None:
    """Make ``cmg_training_data.pt`` from a folder of motion clips.

    What each clip was read as is printed; clips that something speaks against are skipped, and the reason is printed.

    Args:
        clips: folder of .npz, .pkl or .csv clips, and of folders of them.
        out: file to write.
        exclude: names of clips to leave out, without suffix.
        accept: doubts that are no reason to skip a clip, such as "tilt" for a robot that crawls.
        strict: stop, with exit status 2, if a clip is skipped or --exclude names none.
        stats: checkpoint whose normalisation the file gets, for a training that begins with it; else the samples' own.
        conventions: what to take files for where they are not as expected.
        config: what samples are made of.
    """
    found = read_folder(clips, exclude=exclude, conventions=conventions, accept=accept)
    print(found.table(), flush=True)
    if strict and (found.skipped or found.unmatched):
        names = ", ".join([skipped.name for skipped in found.skipped] + found.unmatched)
        raise ValueError(f"{clips}: skipped or not there: {names}; the reasons are above (--strict)")
    loaded = found.usable()
    normalisation = None
    if stats is not None:
        normalisation = stats_of(read_pt(stats))
        read_stats(normalisation, 2 * loaded[0].dof_pos.shape[1], 3, stats)  # refuses what is none
    out.parent.mkdir(parents=True, exist_ok=True)
    data = build_dataset(loaded, config)
    data["stats"] = normalisation or data["stats"]
    write_pt(out, data)
    frames = sum(len(s["command"]) for s in data["samples"])
    print(f"{out}: {len(data['samples'])} samples, {frames} frames ({frames / FPS / 60:.0f} min)")


def main() -> int:
    """Command line; returns the exit status."""
    return run(_asked_for, lambda make: make(), None, "CMG_Ref.dataloader.dataset")


@functools.wraps(make_data_file)
def _asked_for(*arguments: Any, **options: Any) -> Callable[[], None]:
    """:func:`make_data_file` as the command line asks for it, to be called once that is parsed."""
    return functools.partial(make_data_file, *arguments, **options)


if __name__ == "__main__":
    sys.exit(main())
