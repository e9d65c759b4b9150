"""The reference's share of a step: what is computed of what was measured, the command, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from cmg_gym import time_share
from cmg_gym.mdp.reference_command import COMMANDS_EVERY
from cmg_gym.time_share import Share
from gym_case import g1_engine

ON_CPU = pytest.param("cpu", ("torch",), ("trt",), marks=pytest.mark.xdist_group("gym"), id="cpu")
ON_GPU = pytest.param(
    "cuda", ("fused", "torch"), (), marks=(pytest.mark.gpu, pytest.mark.xdist_group("gym-gpu")), id="gpu"
)


def test_shares_as_a_table() -> None:
    shares = [Share("fused", 25.0, 0.4, 0.3, 11.5), Share("onnx", left_out="no CUDA provider")]
    assert math.isclose(shares[0].share, 0.016)
    text = time_share.table(shares, time_share.Options(num_envs=64, steps=27))
    assert "64 environments, 40 steps" in text
    assert "| fused | 25.00 | 0.400 | 1.60 % | 0.300 | 11.5 |" in text
    assert "| onnx | not run: no CUDA provider |" in text


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

    term, watch = Term(), time_share._Stopwatch(torch.device("cpu"))
    watch.attach(term)  # pyright: ignore[reportArgumentType]
    assert watch.read() == 0.0
    assert term._update_command(None) == "done"
    assert watch.read() > 0 and watch.read() == 0.0


@pytest.mark.parametrize(("device", "backends", "left_out"), [ON_CPU, ON_GPU])
def test_shares_are_measured(device: str, backends: tuple[str, ...], left_out: tuple[str, ...], tmp_path: Path) -> None:
    """The whole command on a small scale: how long things take is not looked at, what is counted is."""
    num_envs = 4 if device == "cpu" else 70
    small = f"--num-envs {num_envs} --steps 1 --warm-up 1 --textbook-envs 2 --device {device}".split()
    given = ["--engine", str(g1_engine()[0]), "--backends", *backends, *left_out, "--out", str(tmp_path)]
    assert time_share.main([*small, *given]) == 0
    document = json.loads((tmp_path / "time_share.json").read_text())
    assert [share["backend"] for share in document["shares"]] == list(backends)
    for share in document["shares"]:
        assert 0 < share["reference"] < share["step"] and 0 < share["queued"] < share["step"]
    assert document["num_envs"] == num_envs and document["frames_ahead"] == 40 and document["textbook_frame_ms"] > 0
    table = (tmp_path / "time_share.md").read_text()
    assert all(f"| {backend} | not run: " in table for backend in left_out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num-envs 0", "--num-envs is 0"),
        ("--steps -20", "--steps is -20"),
        ("--textbook-envs 0", "--textbook-envs is 0"),
        ("--warm-up -1", "--warm-up is -1"),
        ("--device nonsense", "unknown device 'nonsense'"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert time_share.main([*arguments.split(), "--engine", str(g1_engine()[0])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cmg_gym.time_share: ") and message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
