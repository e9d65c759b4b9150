"""Input that is well-formed but absurd: refused in one line, without warnings, and never built upon."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_export.__main__ import main
from cmg_export.build import Options, build_engine
from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime import read_manifest
from make_checkpoint import make_checkpoint


def refused(path: Path, data: Path | None = None) -> str:
    with warnings.catch_warnings(), pytest.raises(CheckpointError) as caught:
        warnings.simplefilter("error")
        load_checkpoint(path, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("card", ["[" * 200_000, '{"name": "\\ud800"}', '{"default_dof_pos": [NaN]}'])
def test_cards(tmp_path: Path, seed: int, card: str) -> None:
    path = make_checkpoint(tmp_path, hidden_dim=8, seed=seed).path
    (tmp_path / "card.json").write_text(card)
    assert "card.json" in refused(path)


def test_deeply_nested_yaml(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, "bare+yaml", hidden_dim=8, seed=seed)
    assert made.data is not None
    made.data.write_text("[" * 5000)
    assert "nested too deeply" in refused(made.path, made.data)


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("num_joints", np.array([29, 29]), "num_joints"),
        ("motion_std", np.full(58, 1e300), r"motion_std[0]"),
        ("motion_std", np.full(58, 1e-40, np.float32), r"motion_std[0]"),
    ],
)
def test_stats(tmp_path: Path, seed: int, name: str, value: Any, complaint: str) -> None:
    path = make_checkpoint(tmp_path, hidden_dim=8, seed=seed).path
    content = torch.load(path, weights_only=False)
    content["stats"][name] = value
    torch.save(content, path)
    assert complaint in refused(path)


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("layers.999999999999.expert_weights.0", torch.zeros(2, 2), "layers.999999999999"),
        ("gating.gating_network.0.bias", torch.zeros(8).to_sparse(), "sparse"),
        ("gating.gating_network.0.bias", torch.zeros(8, device="meta"), "no values"),
    ],
)
def test_parameters(tmp_path: Path, seed: int, name: str, value: torch.Tensor, complaint: str) -> None:
    path = make_checkpoint(tmp_path, hidden_dim=8, seed=seed).path
    content = torch.load(path, weights_only=False)
    content["model_state_dict"][name] = value
    torch.save(content, path)
    assert complaint in refused(path)


@pytest.mark.parametrize("value", [1e30, 1e300])
def test_a_bank_of_nonsense_cannot_switch_off_the_rollout_gate(tmp_path: Path, seed: int, value: float) -> None:
    path = make_checkpoint(tmp_path, hidden_dim=8, seed=seed).path
    np.savez(tmp_path / "bank.npz", motion=np.full((4, 58), value))
    assert "bank.npz" in refused(path)


def test_out_is_the_working_directory(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path / "in", num_joints=3, hidden_dim=8, seed=seed).path
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert main([str(path), "--out", ".", "--precision", "fp32"]) == 0
    os.chdir(tmp_path)  # the folder stood in was replaced
    assert read_manifest(tmp_path / "out").artifacts


def test_an_engine_without_its_artifacts_is_not_up_to_date(tmp_path: Path, seed: int) -> None:
    path = make_checkpoint(tmp_path / "in", num_joints=3, hidden_dim=8, seed=seed).path
    options = Options(path, out=tmp_path / "out", precision="fp32")
    build_engine(options)
    whole = read_manifest(tmp_path / "out")
    text = whole.to_json()
    start = text.index('"artifacts": [')
    end = text.index('"schema_version"')
    (tmp_path / "out" / "manifest.json").write_text(text[:start] + '"artifacts": [],\n ' + text[end:])
    assert not read_manifest(tmp_path / "out").artifacts
    assert [a.name for a in build_engine(options)[0].artifacts] == [a.name for a in whole.artifacts]
