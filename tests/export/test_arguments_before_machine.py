"""What is wrong with a command line's arguments is said first, also where the machine lacks what it takes as well."""

from __future__ import annotations

import ctypes.util
import importlib
from pathlib import Path

import pytest
import torch

from gym_case import CHECKPOINT, g1_engine, refuse_to_build

CASES = (
    ("cmg_gym.evaluate", "--device cuda:1 --policy nowhere", "nowhere is neither"),
    ("cmg_gym.evaluate", "--device cuda:1 --engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_gym.evaluate", "--device cuda:1 --backend cubist", "unknown backend 'cubist'"),
    ("cmg_gym.play", "--device cuda:1 --policy nowhere", "nowhere is neither"),
    ("cmg_gym.play", "--device cuda:1 --engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_gym.play", "--device cuda:1 --backend cubist", "unknown backend 'cubist'"),
    ("cmg_gym.play", "--viewer --device cuda:1 --policy nowhere", "nowhere is neither"),
    ("cmg_gym.export_checkpoint", "--device cuda:1 --policy nowhere", "nowhere is neither"),
    ("cmg_gym.sim2sim", "--policy nowhere", "nowhere has no exported policy"),
    ("cmg_gym.latency", "--policy nowhere", "nowhere has no exported policy"),
    ("cmg_gym.train", "--gpus 3 --engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_gym.train", "--gpus 3 --resume --logs nowhere", "no checkpoint below nowhere"),
    ("cmg_gym.train", "--gpus 3 --backend cubist", "unknown backend 'cubist'"),
    ("cmg_export.bench.__main__", "--device cuda --sizes 0", "--sizes is 0"),
    ("cmg_export.bench.__main__", "--device cuda --engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_export.bench.kernels", "--engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_export.bench.__main__", "--device cuda --backends torch cubist", "unknown backend 'cubist'"),
    ("cmg_export.bench.__main__", "--device cuda --checkpoint nowhere", "cannot read nowhere ("),
    ("cmg_export.bench.__main__", "--sections time-share --device cuda --time-share.policy nowhere", "is neither"),
    ("cmg_export.soak.__main__", "--device cuda --checks 1", "--checks is 1"),
    ("cmg_export.soak.__main__", "--device cuda --engine nowhere", "cannot read nowhere/manifest.json"),
    ("cmg_export.demo.__main__", "--seconds 0.2", "--seconds is 0.2"),
    ("cmg_export.demo.__main__", "--engine nowhere", "cannot read nowhere/manifest.json"),
)
LACKS = (
    ("cmg_gym.evaluate", "--device cuda:1", "'cuda:1' is not there"),
    ("cmg_gym.play", "--device cuda:1", "'cuda:1' is not there"),
    ("cmg_gym.play", "--device cpu", "libosmesa6"),
    ("cmg_gym.train", "--gpus 3", "--gpus is 3"),
    ("cmg_export.bench.__main__", f"--device cuda --checkpoint {CHECKPOINT}", "torch sees no GPU"),
    ("cmg_export.soak.__main__", "--device cuda", "torch sees no GPU"),
)


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU and nothing to draw with; and nothing gets as far as to need them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    refuse_to_build(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("module", "arguments", "message"), [*CASES, *LACKS])
def test_arguments_come_before_the_machine(
    module: str, arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = [] if "--engine" in arguments else ["--engine", str(g1_engine()[0])]
    status = importlib.import_module(module).main([*arguments.split(), *engine])
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said
    assert not list(tmp_path.iterdir())
