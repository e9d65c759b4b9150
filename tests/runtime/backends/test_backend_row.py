"""A backend is a class and a row of the table; windows, rollouts and pools are made by its own rollout."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import load_engine, read_manifest
from cmg_runtime.backends import BACKENDS, WEIGHTS_FILE, BackendRow
from cmg_runtime.backends.torch import TorchBackend
from cmg_runtime.loading import PREFERRED_BACKENDS
from window_case import random_robot_case


class CountingBackend(TorchBackend):
    """It counts its steps, and notes the frames of each rollout."""

    rollouts: list[int] = []
    steps = 0

    def step(self, *tensors: torch.Tensor) -> None:
        CountingBackend.steps += 1
        super().step(*tensors)

    def rollout(self, motion: torch.Tensor, commands: torch.Tensor, out: torch.Tensor, *guard: Any) -> None:
        assert motion.stride(-1) == commands.stride(-1) == out.stride(-1) == 1
        self.rollouts.append(len(out))
        super().rollout(motion, commands, out, *guard)


def test_a_new_row_is_a_backend_whose_rollout_is_used(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, truth, _ = random_robot_case()
    folder = Path(shutil.copytree(made, tmp_path / "engine", ignore=shutil.ignore_patterns("checkpoint")))
    manifest = read_manifest(folder)
    plain = next(one for one in manifest.artifacts if (one.backend, one.precision) == ("torch", "fp32"))
    added = replace(plain, name="counting_fp32", backend="counting")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=(plain, added)).to_json())
    row = BackendRow("counting", f"{__name__}:CountingBackend", WEIGHTS_FILE, {"cpu": 9})
    monkeypatch.setitem(BACKENDS, row.name, row)
    engine, other = (load_engine(folder, 4, backend=name, horizon=9) for name in ("counting", "torch"))
    assert engine.backend_name == "counting"

    motion, commands = truth.states(3, generator), truth.commands(15, generator).unflatten(0, (3, 5))
    column_major = motion.t().contiguous().t(), commands.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    uses: list[tuple[Any, int]] = [
        (lambda e: e.reset(motion=motion[0], command=commands[0, 0]), 8),
        (lambda e: e.rollout(motion, commands), 5),
        (lambda e: e.rollout(*column_major), 5),
        (lambda e: e.make_pool(3, 6, commands, motion).rows, 5),
    ]
    for use, num_frames in uses:
        CountingBackend.rollouts.clear()
        CountingBackend.steps = 0
        seen, expected = use(engine), use(other)
        assert (CountingBackend.rollouts, CountingBackend.steps) == ([num_frames], num_frames)
        assert seen is expected is None or torch.equal(seen, expected)
    assert torch.equal(engine.future(range(9)).root_pos, other.future(range(9)).root_pos)


def test_auto_prefers_what_is_faster() -> None:
    assert PREFERRED_BACKENDS["cpu"] == ("onnx", "torch", "torchscript")
    assert PREFERRED_BACKENDS["cuda"] == ("fused", "trt", "torch", "onnx", "torchscript")
