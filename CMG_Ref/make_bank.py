"""Make the bank of initial motion states that goes with a checkpoint.

    python -m CMG_Ref.make_bank CMG_Ref/runs/g1_all/cmg_final.pt

The generator itself is rolled out from the standing pose under the evaluation's commands, and states are taken at
random times after it has settled into each: gaits at every speed in every phase, and standing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from CMG_Ref.checkpoint.reader import as_reference, read_checkpoint, usable_range
from CMG_Ref.command_line import require_between, require_seed, run
from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.evaluation.grid import command_grid, make_starts
from CMG_Ref.evaluation.rollouts import SETTLE, roll_out
from CMG_Ref.files.torch_files import write_beside
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from CMG_Ref.robot_g1.chain import g1_chain


@dataclass(frozen=True)
class BankConfig:
    """Which checkpoint, and how many states."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint of the G1's 29 joints, with stats."""
    out: Path | None = None
    """The file to write; without it, bank.npz beside the checkpoint."""
    data: Path | None = None
    """Where the stats are, for a checkpoint without them: cmg_training_data.pt, or YAML of the same keys."""
    num_states: int = 512
    seed: int = 0


def make_bank(config: BankConfig) -> np.ndarray:
    """States [num_states, 58] float32: joint positions (rad), then velocities (rad/s), all within the joint limits.

    Raises:
        ValueError: an unreadable checkpoint, or one whose rollouts never stay within the limits.
    """
    require_between("num_states", config.num_states, 1)
    require_seed(config.seed)
    trained = read_checkpoint(config.checkpoint, config.data)
    print(f"{config.checkpoint}: {trained.weights.note}")
    model, stats = as_reference(trained)
    if len(stats.motion_mean) != 2 * len(JOINT_NAMES):
        raise ValueError(
            f"{config.checkpoint}: motion has {len(stats.motion_mean)} values, expected {2 * len(JOINT_NAMES)}; "
            "banks are made for 29 joint G1s"
        )
    generator = torch.Generator().manual_seed(config.seed)
    within = usable_range(trained)
    cases = tuple(case for case in command_grid(within.min, within.max) if case.family != "stopping")
    rollouts = max(2, -(-2 * config.num_states // len(cases)))
    starts = make_starts(None, [torch.tensor(default_dof_pos())], rollouts, generator)
    num_frames = round((SETTLE + 2.0) * FPS)
    dof_pos, dof_vel = roll_out(model, stats, cases, starts.motion, num_frames)
    motion = torch.cat([dof_pos, dof_vel], dim=-1).flatten(1, 2)
    times = torch.randint(round(SETTLE * FPS), num_frames, (motion.shape[1],), generator=generator)
    states = motion[times, torch.arange(motion.shape[1])]
    chain = g1_chain()
    lower, upper = torch.tensor(chain.joint_lower), torch.tensor(chain.joint_upper)
    joints = len(chain.joint_lower)
    inside = ((states[:, :joints] >= lower) & (states[:, :joints] <= upper)).all(-1) & states.isfinite().all(-1)
    states = states[inside]
    if len(states) < config.num_states:
        raise ValueError(
            f"{config.checkpoint}: {len(states)} of {len(inside)} states keep within the joint limits, "
            f"expected {config.num_states}; train it further or ask for fewer"
        )
    return states[torch.randperm(len(states), generator=generator)[: config.num_states]].numpy()


def main() -> int:
    """Command line; returns the exit status."""
    return run(BankConfig, _write_bank, None, "CMG_Ref.make_bank", description=__doc__)


def _write_bank(config: BankConfig) -> None:
    out = config.out or config.checkpoint.parent / "bank.npz"
    states = make_bank(config)
    with write_beside(out) as stream:
        np.savez(stream, motion=states)
    print(f"{out}: {len(states)} motion states")


if __name__ == "__main__":
    sys.exit(main())
