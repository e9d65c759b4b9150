"""Writes a golden engine folder: ``python tests/golden/make_golden.py NAME`` makes ``tests/golden/NAME``.

One is kept for every schema version, named ``schema_<version>``, and never made again: that a newer version still loads
it is what it is for. It is a tiny random network, built and proved as ``make engine`` does it. ``expected.npz`` holds
inputs and what the float64 reference model makes of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cmg_export.build import Options, build_engine
from cmg_export.compile.tensorrt import PlanOptions
from make_checkpoint import make_checkpoint

NUM_ENVS, NUM_FRAMES, SEED = 7, 20, 2026


def make_golden(folder: Path) -> None:
    """Build the engine and write its expected outputs.

    Raises:
        FileExistsError: there is one already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; a golden folder is not made again, choose another name")
    generator = torch.Generator().manual_seed(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_checkpoint(
            Path(scratch) / "golden", num_joints=4, hidden_dim=16, num_experts=2, num_layers=3, seed=SEED
        )
        mean, std, low, high = (
            torch.tensor(made.stats[key], dtype=torch.float64)
            for key in ("motion_mean", "motion_std", "command_min", "command_max")
        )
        normal = torch.randn(16, len(mean), generator=generator, dtype=torch.float64)
        bank = (mean + std * normal).float()
        np.savez(made.path.parent / "bank.npz", motion=bank.numpy())
        build_engine(Options(made.path, out=folder, tensorrt=PlanOptions(library="none")))  # no CPU loads a plan
    command = (low + (high - low) * torch.rand(NUM_ENVS, len(low), generator=generator, dtype=torch.float64)).float()
    model = made.model.double()
    states = [bank[:NUM_ENVS].double()]
    with torch.no_grad():
        for _ in range(NUM_FRAMES):
            scaled = 2 * (command.double() - low) / (high - low) - 1
            states.append(model((states[-1] - mean) / std, scaled) * std + mean)
    np.savez(folder / "expected.npz", command=command.numpy(), motion=torch.stack(states).numpy())


if __name__ == "__main__":
    make_golden(Path(__file__).resolve().parent / sys.argv[1])
