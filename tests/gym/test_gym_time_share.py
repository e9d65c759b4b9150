"""The benchmark's section time-share: its rounds, its stopwatch, and the section on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cmg_export.bench import __main__ as bench
from cmg_export.bench import time_share
from cmg_gym.mdp.reference_command import COMMANDS_EVERY
from gym_case import CHECKPOINT, g1_engine

ON_CPU = pytest.param("cpu", ("torch",), ("trt",), marks=pytest.mark.xdist_group("gym"), id="cpu")
ON_GPU = pytest.param(
    "cuda", ("fused", "torch"), (), marks=(pytest.mark.gpu, pytest.mark.xdist_group("gym-gpu")), id="gpu"
)


def test_both_ways_of_timing_see_as_many_rounds_of_commands() -> None:
    for wanted in (1, 20, 30, 200):
        warm_up, steps = time_share.whole_rounds(wanted), time_share.whole_rounds(wanted)
        assert steps >= wanted and steps % COMMANDS_EVERY == 0
        ways = [index // COMMANDS_EVERY % 2 for index in range(warm_up, warm_up + 2 * steps)]
        rounds = [way for index, way in enumerate(ways, warm_up) if index % COMMANDS_EVERY == 0]
        assert sum(rounds) * 2 == len(rounds) and sum(ways) == steps


def test_the_stopwatch_times_what_it_is_attached_to() -> None:
    class Term:
        def _update_command(self, env_ids: None) -> str:
            return "done"

    term, watch = Term(), time_share.Stopwatch(torch.device("cpu"))
    watch.attach(term)  # pyright: ignore[reportArgumentType]
    assert watch.read() == 0.0
    assert term._update_command(None) == "done"
    assert watch.read() > 0 and watch.read() == 0.0


@pytest.mark.parametrize(("device", "backends", "left_out"), [ON_CPU, ON_GPU])
def test_shares_are_measured(device: str, backends: tuple[str, ...], left_out: tuple[str, ...], tmp_path: Path) -> None:
    """The whole section on a small scale: how long things take is not looked at, what is counted is."""
    num_envs = 4 if device == "cpu" else 70
    few = ["--time-share.steps", "1", "--time-share.warm-up", "1", "--time-share.textbook-envs", "2"]
    given = ["--sections", "time-share", "--engine", str(g1_engine()[0]), "--checkpoint", str(CHECKPOINT)]
    given += ["--num-envs", str(num_envs), "--device", device, "--out", str(tmp_path)]
    assert bench.main([*given, *few, "--backends", *backends, *left_out]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    found = report["time_share"]
    assert [share["backend"] for share in found["shares"]] == list(backends)
    for share in found["shares"]:
        assert 0 < share["reference"] < share["step"] and 0 < share["queued"] < share["step"]
    assert found["num_envs"] == num_envs and found["frames_ahead"] == 40 and found["textbook_frame_ms"] > 0
    for backend in left_out:
        assert any(line.startswith(f"time share of {backend}: ") for line in report["left_out"])
