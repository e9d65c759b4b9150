"""The benchmark's section time-share on a small scale: how long things take is not looked at, what is counted is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmg_export.bench import __main__ as bench
from cmg_export.bench import time_share
from cmg_gym.mdp.reference_command import COMMANDS_EVERY
from gym_case import CHECKPOINT, few_trajectories, g1_engine

ON_CPU = pytest.param("cpu", 4, ("torch",), ("trt",), marks=pytest.mark.xdist_group("gym"), id="cpu")
GPU_MARKS = (pytest.mark.gpu, pytest.mark.xdist_group("gym-gpu"))
ON_GPU = pytest.param("cuda", 70, ("fused", "torch"), (), marks=GPU_MARKS, id="gpu")


@pytest.mark.slow
@pytest.mark.parametrize(("device", "num_envs", "backends", "left_out"), [ON_CPU, ON_GPU])
def test_shares_are_measured(
    device: str,
    num_envs: int,
    backends: tuple[str, ...],
    left_out: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_trajectories(monkeypatch)
    read, waits = time_share.Stopwatch.read, []
    monkeypatch.setattr(time_share.Stopwatch, "read", lambda watch: (waits.append(watch.waits), read(watch))[1])
    few = ["--time-share.steps", "1", "--time-share.warm-up", "1", "--time-share.textbook-envs", "2"]
    few += ["--time-share.iterations", "2"]
    given = ["--sections", "time-share", "--engine", str(g1_engine()[0]), "--checkpoint", str(CHECKPOINT)]
    given += ["--num-envs", str(num_envs), "--device", device, "--out", str(tmp_path)]
    assert bench.main([*given, *few, "--backends", *backends, *left_out]) == 0
    # Whole rounds of commands: one to warm up, and one for each way of timing.
    ways = [False] * COMMANDS_EVERY + [True] * COMMANDS_EVERY + [False] * COMMANDS_EVERY
    assert waits == ways * len(backends)
    report = json.loads((tmp_path / "bench.json").read_text())
    found = report["time_share"]
    assert [share["backend"] for share in found["shares"]] == list(backends)
    for share in found["shares"]:
        assert 0 < share["reference"] < share["step"] and 0 < share["queued"] < share["step"]
    assert found["num_envs"] == num_envs and found["frames_ahead"] == 40 and found["textbook_frame_ms"] > 0
    on_gpu = device == "cuda"
    names = ["eager", *(["captured"] if on_gpu else []), "mjlab's task"]
    assert [speed["name"] for speed in found["training"]] == names
    for speed in found["training"]:
        assert speed["step"]["count"] == COMMANDS_EVERY and 0 < speed["collection"] < speed["iteration"]
        assert speed["steps_per_second"] == pytest.approx(24 * num_envs / speed["iteration"])
        assert (speed["kernels"] is not None and speed["kernels"] > 100 and speed["kernel_ms"] > 0) == on_gpu
    for backend in left_out:
        assert any(line.startswith(f"time share of {backend}: ") for line in report["left_out"])
