"""The reference's share of a step, and learning curves: what is computed and drawn from what was measured."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from cmg_gym import curves, time_share
from cmg_gym.reference_command import COMMANDS_EVERY
from cmg_gym.time_share import Share
from cmg_runtime import EngineError


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
    import torch

    class Term:
        def _update_command(self, env_ids: None) -> str:
            return "done"

    term, watch = Term(), time_share._Stopwatch(torch.device("cpu"))
    watch.attach(term)  # pyright: ignore[reportArgumentType]
    assert watch.read() == 0.0
    assert term._update_command(None) == "done"
    assert watch.read() > 0 and watch.read() == 0.0


def written(folder: Path, first: int, values: np.ndarray) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, value in enumerate(values):
            for tag in curves.CURVES:
                writer.add_scalar(tag, value, first + step)


def test_curves_of_a_run_that_was_interrupted(tmp_path: Path, rng: np.random.Generator) -> None:
    before, after = rng.normal(size=12), rng.normal(size=9)
    written(tmp_path / "run" / "2026-01-01", 0, before)
    written(tmp_path / "run" / "2026-01-02", 8, after)  # resumed at iteration 8
    steps, values = curves.read_curve(tmp_path / "run", "Train/mean_reward")
    assert steps == list(range(17))
    np.testing.assert_allclose(values, [*before[:8], *after], rtol=1e-6)
    out = tmp_path / "curves.png"
    assert curves.main([f"ours={tmp_path / 'run'}", "--out", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_curves_refuse_what_they_cannot_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="no TensorBoard file"):
        curves.read_curve(tmp_path, "Train/mean_reward")
    assert curves.main(["nothing"]) != 0
    assert re.search("LABEL=FOLDER", capsys.readouterr().err)
