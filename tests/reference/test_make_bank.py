"""The bank of initial states: the generator's own, within the G1's limits, the same for the same seed."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from cmg_export.read.robot import g1_model
from CMG_Ref import make_bank
from CMG_Ref.files.torch_files import save_checkpoint
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from make_checkpoint import make_checkpoint

# MuJoCo's limits, read here by themselves.
_MODEL = mujoco.MjModel.from_xml_path(str(g1_model()))
LIMITS = np.array([_MODEL.jnt_range[_MODEL.joint(name).id] for name in JOINT_NAMES])


def standing_checkpoint(folder: Path, seed: int, spread: float) -> Path:
    """A random network whose motion strays about ``spread`` rad from the default pose."""
    made = make_checkpoint(folder, hidden_dim=16, num_experts=2, num_layers=2, gain=0.6, seed=seed)
    mean = np.array(default_dof_pos() + [0.0] * 29, dtype=np.float32)
    std = np.array([spread] * 29 + [1.0] * 29, dtype=np.float32)
    save_checkpoint(made.path, made.model.state_dict(), {**made.stats, "motion_mean": mean, "motion_std": std})
    return made.path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["make_bank", *map(str, arguments)])
    return make_bank.main()


def spread_that_leaves_the_limits(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """The spread at which a quarter of the states of this seed's network are within the limits.

    The stats scale what the network plays and nothing else, so states of a tiny spread tell it.
    """
    tiny = 1e-3
    path = standing_checkpoint(folder, seed, tiny)
    assert run(monkeypatch, path, "--num-states", 80) == 0
    with np.load(folder / "bank.npz") as data:  # where it goes by itself
        strays = (data["motion"][:, :29] - np.array(default_dof_pos())) / tiny
    room = np.where(strays > 0, LIMITS[:, 1], LIMITS[:, 0]) - np.array(default_dof_pos())
    return float(np.quantile((room / strays).min(axis=1), 0.75))


def test_states_keep_the_limits_and_repeat(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = spread_that_leaves_the_limits(tmp_path / "tiny", seed, monkeypatch)
    for spread in (0.1 * wide, wide):
        path = standing_checkpoint(tmp_path / "of" / str(spread), seed, spread)
        banks = []
        for name, bank_seed in (("a", 3), ("b", 3), ("c", 4)):
            out = tmp_path / f"{name}.npz"
            assert run(monkeypatch, path, "--out", out, "--num-states", 5, "--seed", bank_seed) == 0
            with np.load(out) as data:
                banks.append(data["motion"])
        assert banks[0].shape == (5, 58) and banks[0].dtype == np.float32 and np.isfinite(banks[0]).all()
        assert np.array_equal(banks[0], banks[1]) and not np.array_equal(banks[0], banks[2])
        assert len(np.unique(banks[0], axis=0)) == 5
        for bank in banks:
            assert (bank[:, :29] >= LIMITS[:, 0] - 1e-6).all() and (bank[:, :29] <= LIMITS[:, 1] + 1e-6).all()
    capsys.readouterr()
    assert run(monkeypatch, path, "--out", tmp_path / "d.npz", "--num-states", 80) == 2
    assert "keep within the joint limits" in capsys.readouterr().err  # as a quarter of 164 do
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz", "b.npz", "c.npz", "of", "tiny"}, "something was left"


def test_errors_are_one_line(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_checkpoint(tmp_path / "small", num_joints=23, hidden_dim=8, seed=seed).path
    good = standing_checkpoint(tmp_path / "good", seed, 0.1)
    torch.save(torch.load(good, weights_only=False)["model_state_dict"], tmp_path / "bare.pt")
    wild = standing_checkpoint(tmp_path / "wild", seed, 1e4)
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "file").touch()
    cases = {
        "29 joint": (small,),
        "stats": (tmp_path / "bare.pt",),
        "limits": (wild, "--num-states", 3),
        "damaged": (tmp_path / "broken.pt",),
        "No such file": (tmp_path / "absent.pt",),
        "at least 1": (good, "--num-states", 0),
        "Not a directory": (good, "--num-states", 1, "--out", tmp_path / "file" / "bank.npz"),
    }
    for expected, arguments in cases.items():
        assert run(monkeypatch, *arguments) == 2, expected
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and err.startswith("CMG_Ref.make_bank: ") and expected in err, err
    assert not list(tmp_path.rglob("bank.npz")) and not list(tmp_path.rglob("*.partial"))
