"""The bank of initial states: the generator's own, within the G1's limits, the same for the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from CMG_Ref import make_bank
from CMG_Ref.files.torch_files import save_checkpoint
from CMG_Ref.robot_g1 import default_dof_pos
from CMG_Ref.robot_g1.chain import g1_chain
from make_checkpoint import make_checkpoint

Patch = pytest.MonkeyPatch
LOWER, UPPER = np.array(g1_chain().joint_lower), np.array(g1_chain().joint_upper)


def standing_checkpoint(folder: Path, seed: int, spread: float) -> Path:
    """A random network whose motion strays about ``spread`` rad from the default pose."""
    made = make_checkpoint(folder, hidden_dim=16, num_experts=2, num_layers=2, gain=0.6, seed=seed)
    mean = np.array(default_dof_pos() + [0.0] * 29, dtype=np.float32)
    std = np.array([spread] * 29 + [1.0] * 29, dtype=np.float32)
    save_checkpoint(made.path, made.model.state_dict(), {**made.stats, "motion_mean": mean, "motion_std": std})
    return made.path


def run(monkeypatch: Patch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["make_bank", *map(str, arguments)])
    return make_bank.main()


def spread_that_leaves_the_limits(folder: Path, seed: int, monkeypatch: Patch) -> float:
    """The spread at which a quarter of the states of this seed's network are within the limits.

    The stats scale what the network plays and nothing else, so states of a tiny spread tell it.
    """
    tiny = 1e-3
    path = standing_checkpoint(folder, seed, tiny)
    assert run(monkeypatch, path, "--num-states", 80) == 0
    strays = (np.load(folder / "bank.npz")["motion"][:, :29] - np.array(default_dof_pos())) / tiny
    room = np.where(strays > 0, UPPER, LOWER) - np.array(default_dof_pos())
    return float(np.quantile((room / strays).min(axis=1), 0.75))


def test_states_keep_the_limits_and_repeat(
    tmp_path: Path, seed: int, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = spread_that_leaves_the_limits(tmp_path / "tiny", seed, monkeypatch)
    for spread in (0.1 * wide, wide):
        path = standing_checkpoint(tmp_path / "of" / str(spread), seed, spread)
        banks = []
        for bank_seed in (3, 3, 4):
            assert run(monkeypatch, path, "--out", tmp_path / "a.npz", "--num-states", 5, "--seed", bank_seed) == 0
            banks.append(np.load(tmp_path / "a.npz")["motion"])
            assert banks[-1].shape == (5, 58) and banks[-1].dtype == np.float32 and np.isfinite(banks[-1]).all()
            assert (banks[-1][:, :29] >= LOWER - 1e-6).all() and (banks[-1][:, :29] <= UPPER + 1e-6).all()
        assert np.array_equal(banks[0], banks[1]) and not np.array_equal(banks[0], banks[2])
        assert len(np.unique(banks[0], axis=0)) == 5
    small = make_checkpoint(tmp_path / "of" / "small", num_joints=23, hidden_dim=8, seed=seed).path
    torch.save(torch.load(path, weights_only=False)["model_state_dict"], tmp_path / "of" / "bare.pt")
    for expected, arguments in {
        "keep within the joint limits": (path, "--num-states", 80),  # as a quarter of 164 do
        "29 joint": (small,),
        "stats": (tmp_path / "of" / "bare.pt",),
        "No such file": (tmp_path / "absent.pt",),
        "Not a directory": (path, "--num-states", 1, "--out", tmp_path / "a.npz" / "bank.npz"),
    }.items():
        capsys.readouterr()
        assert run(monkeypatch, *arguments) == 2, expected
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and err.startswith("CMG_Ref.make_bank: ") and expected in err, err
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz", "of", "tiny"}, "something was left"
    assert [p.parent.name for p in tmp_path.rglob("bank.npz")] == ["tiny"]
