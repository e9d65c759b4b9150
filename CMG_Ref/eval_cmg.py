"""Judge a Conditional Motion Generator by its own rollouts.

    python -m CMG_Ref.eval_cmg CMG_Ref/runs/g1_all/cmg_final.pt

Every command of a grid, as far as the checkpoint's range goes, is rolled out from bank states and from standing
poses. Reported for each: whether
joints stay within their limits, whether the robot keeps moving (or stands, where it should), the velocity that
the standing foot implies, the stride frequency and whether left mirrors right. Exit status: 0 when every requirement is
met, 1 when one is missed, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from CMG_Ref.checkpoint.reader import Stats, as_reference, read_checkpoint, usable_range
from CMG_Ref.command_line import pick_device, require_between, require_seed, run
from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.evaluation.calibration import StandingFoot, calibration_from_dict
from CMG_Ref.evaluation.grid import WALK_BEFORE_STOP, Case, command_grid, make_starts
from CMG_Ref.evaluation.report import text_report, write_reports
from CMG_Ref.evaluation.results import Evaluation, gather, judge
from CMG_Ref.evaluation.rollouts import (
    LIMIT_MARGIN,
    MOVING_SPEED,
    SETTLE,
    STILL_SPEED,
    Model,
    VelocityMeasure,
    measure,
    roll_out,
)
from CMG_Ref.evaluation.velocity_reader import READER_FILE, VelocityReader, fit_reader, read_reader, write_reader
from CMG_Ref.files.torch_files import read_start
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos

MIN_FRAMES = round((WALK_BEFORE_STOP + SETTLE + 1.2) * FPS)


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, and where the results go."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint of the G1's 29 joints."""
    data: Path | None = None
    """Where the stats are, for a checkpoint without them: cmg_training_data.pt, or YAML of the same keys."""
    bank: Path | None = None
    """Initial motion states, "motion" [K, 58] in an .npz; without it, bank.npz beside the checkpoint if there."""
    clips: Path | None = None
    """Folder of motion clips to learn from how a velocity shows; what is learnt is kept as velocity.npz beside the
    checkpoint. Without it, velocity.npz there, or else the standing foot with the checkpoint's or built-in factors."""
    exclude: tuple[str, ...] = ()
    """Names of clips to leave out of that, without suffix."""
    out: Path | None = None
    """Where evaluation.json, .md and .png go; without it, beside the checkpoint."""
    device: str = "auto"
    """"cpu", "cuda" or "auto"."""
    seed: int = 0
    num_rollouts: int = 64
    """Rollouts of each command."""
    num_frames: int = 500
    """Frames of each rollout, 50 a second."""


def evaluate(
    model: Model,
    stats: Stats,
    *,
    bank: torch.Tensor | None = None,
    idle_dof_pos: torch.Tensor | None = None,
    velocity: VelocityMeasure | None = None,
    cases: tuple[Case, ...] | None = None,
    num_rollouts: int = 64,
    num_frames: int = 500,
    seed: int = 0,
    name: str = "CMG",
    progress: Callable[[int], object] = lambda frame: None,
) -> Evaluation:
    """Roll out, measure and judge.

    Args:
        model: (motion [N, 58], command [N, 3]) -> next motion, all normalised; such as a ``CMG``.
        stats: normalisation, on the device and in the float type to compute in.
        bank: initial motion states [K, 58], physical units, or None.
        idle_dof_pos: a second standing pose [29] to start from, rad.
        velocity: reads velocities off joint angles; None for the standing foot with built-in factors.
        cases: commands; None for the whole grid within the stats' range. Bars are judged on the families that are
            there.
        num_rollouts: of each command, half from the bank (if given) and half from standing poses.
        num_frames: of each rollout, at least ``MIN_FRAMES``.
        seed: of the choice of bank states and of the noise on the standing poses.
        name: shown in the reports.
        progress: called with the number of frames done.

    Raises:
        ValueError: too few frames or rollouts, or not the G1's 29 joints.
    """
    _require_usable(stats, bank, num_rollouts, num_frames)
    if cases is None:
        cases = command_grid(stats.command_min.tolist(), stats.command_max.tolist())
    poses = [torch.tensor(default_dof_pos())] + ([] if idle_dof_pos is None else [idle_dof_pos])
    starts = make_starts(bank, poses, num_rollouts, torch.Generator().manual_seed(seed))
    dof_pos, dof_vel = roll_out(model, stats, cases, starts.motion, num_frames, progress)
    velocity = StandingFoot(device=dof_pos.device, dtype=dof_pos.dtype) if velocity is None else velocity
    measures = measure(cases, dof_pos, dof_vel, velocity)
    results = gather(cases, measures, starts.groups)
    mismatch = measures.velocity_mismatch[measures.stable]
    settings: dict[str, Any] = {
        "name": name,
        "num_rollouts": num_rollouts,
        "num_frames": num_frames,
        "seed": seed,
        "limit_margin": LIMIT_MARGIN,
        "moving_speed": MOVING_SPEED,
        "still_speed": STILL_SPEED,
    }
    return Evaluation(results, judge(results), velocity.source, float(mismatch.mean()), settings)


def _require_usable(stats: Stats, bank: torch.Tensor | None, num_rollouts: int, num_frames: int) -> None:
    joints = len(JOINT_NAMES)
    if stats.motion_mean.shape[-1] != 2 * joints:
        raise ValueError(
            f"motion has {stats.motion_mean.shape[-1]} values, expected {2 * joints}; only 29 joint G1s are evaluated"
        )
    if bank is not None and (bank.dim() != 2 or bank.shape[1] != 2 * joints or not len(bank)):
        raise ValueError(f"bank is {tuple(bank.shape)}, expected (K, {2 * joints}); make it from this checkpoint")
    if num_frames < MIN_FRAMES or num_rollouts < 4:
        raise ValueError(
            f"{num_rollouts} rollouts of {num_frames} frames; expected at least 4 of {MIN_FRAMES}, to see stops through"
        )


def evaluate_checkpoint(config: EvalConfig) -> Evaluation:
    """Load what ``config`` names, and evaluate it.

    Raises:
        ValueError: a file is missing, damaged or not what it should be.
    """
    require_seed(config.seed)
    require_between("num_rollouts", config.num_rollouts, 1)
    require_between("num_frames", config.num_frames, 1)
    trained = read_checkpoint(config.checkpoint, config.data)
    print(f"{config.checkpoint}: {trained.weights.note}")
    bank = _load_bank(config)
    # Only now the device: what is wrong with the input comes before what the machine lacks.
    model, stats = as_reference(trained, pick_device(config.device))
    _require_usable(stats, bank, config.num_rollouts, config.num_frames)  # now, before there is a progress bar
    extra = trained.content
    idle = extra.get("idle_dof_pos")
    velocity = _velocity_measure(config, extra, stats)
    within = usable_range(trained)
    with tqdm(total=config.num_frames, desc="rollouts", unit="frame", mininterval=1.0) as bar:
        evaluation = evaluate(
            model,
            stats,
            bank=bank,
            idle_dof_pos=None if idle is None else torch.as_tensor(idle),
            velocity=velocity,
            cases=command_grid(within.min, within.max),
            num_rollouts=config.num_rollouts,
            num_frames=config.num_frames,
            seed=config.seed,
            name=f"{config.checkpoint.resolve().parent.name}/{config.checkpoint.name}",
            progress=lambda frame: bar.update(),
        )
    return evaluation


def _velocity_measure(config: EvalConfig, extra: dict[str, Any], stats: Stats) -> VelocityMeasure:
    """As ``config`` names it; on the device and in the float type of the stats."""
    device, dtype = stats.motion_mean.device, stats.motion_mean.dtype
    kept = config.checkpoint.with_name(READER_FILE)
    if config.clips is not None:
        found = read_folder(config.clips, JOINT_NAMES, exclude=config.exclude)
        for skipped in found.skipped:
            print(f"velocity without {skipped.name}: {skipped.reason}", file=sys.stderr)
        values = fit_reader(found.usable())
        write_reader(kept, values)
        return VelocityReader(values, device, dtype)
    if kept.exists():
        return VelocityReader(read_reader(kept), device, dtype)
    if "calibration" in extra:
        return StandingFoot(calibration_from_dict(extra["calibration"], "carried by the checkpoint"), device, dtype)
    return StandingFoot(device=device, dtype=dtype)


def main() -> int:
    """Command line; returns the exit status."""
    return run(EvalConfig, _report, None, "CMG_Ref.eval_cmg", description=__doc__)


def _report(config: EvalConfig) -> int:
    evaluation = evaluate_checkpoint(config)
    paths = write_reports(evaluation, config.out or config.checkpoint.parent)
    print(text_report(evaluation))
    print(f"written: {', '.join(str(path) for path in paths)}")
    return 0 if evaluation.passed else 1


def _load_bank(config: EvalConfig) -> torch.Tensor | None:
    path = config.bank or config.checkpoint.parent / "bank.npz"
    if config.bank is None and not path.exists():
        return None
    read_start(path, "an .npz with motion [K, 58]")
    try:
        with np.load(path, allow_pickle=False) as data:
            return torch.from_numpy(np.asarray(data["motion"], dtype=np.float32))
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a bank ({error}); expected an .npz with motion [K, 58]") from None


if __name__ == "__main__":
    sys.exit(main())
