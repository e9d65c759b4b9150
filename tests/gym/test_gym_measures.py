"""Learning curves: what is computed and drawn of what was logged."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from cmg_gym import curves
from cmg_runtime import EngineError


def written(folder: Path, first: int, values: np.ndarray, began: float = 1e9, seconds: float = 1.0) -> None:
    """A run whose curves are ``values``, with ten times as many steps a second; every iteration takes ``seconds``."""
    with SummaryWriter(str(folder)) as writer:
        for step, value in enumerate(values):
            for tag in (*curves.CURVES, curves.STEPS_PER_SECOND):
                scale = 10 if tag == curves.STEPS_PER_SECOND else 1
                writer.add_scalar(tag, scale * value, first + step, walltime=began + seconds * step)


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


def test_the_table_of_two_runs_is_about_the_same_iterations(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, more = rng.uniform(100, 200, 30), rng.uniform(100, 200, 12), rng.uniform(100, 200, 10)
    written(tmp_path / "one", 0, one, seconds=0.75)
    written(tmp_path / "two" / "a", 4, two, seconds=0.5)
    written(tmp_path / "two" / "b", 16, more, began=2e9, seconds=0.5)  # resumed years later
    both = np.concatenate([two, more])
    runs = {label: tmp_path / label for label in ("one", "two")}
    picture = str(tmp_path / "curves.png")

    def same(text: str, label: str, values: np.ndarray, seconds: float) -> None:
        row = re.search(rf"\| {label} \| (.+) \|", text)
        assert row is not None
        reward, rate, wall = map(float, row[1].split("|"))
        assert reward == pytest.approx(values.mean(), abs=0.006)
        assert rate == pytest.approx(10 * np.median(values), abs=0.51)
        assert wall == pytest.approx(seconds, abs=1e-3)

    def said(*options: str, **runs: Path) -> str:
        assert curves.main([*(f"{label}={run}" for label, run in runs.items()), "--out", picture, *options]) == 0
        return capsys.readouterr().out

    text = curves.table(runs, (10, 19))
    same(text, "one", one[10:20], 0.75)
    same(text, "two", both[6:16], 0.5)
    for wrong in ((3, 20), (10, 26), (20, 10), (10, 10)):
        with pytest.raises(EngineError, match="those of every run, 4 to 25"):
            curves.table(runs, wrong)
    assert said("--iterations", "10", "19", **runs) == f"{picture} is written\n\n{text}\n"
    text = said(**runs)  # all that both have
    assert "\nIterations 4 to 25\n" in text
    same(text, "one", one[4:26], 0.75)
    same(text, "two", both, 0.5)
    written(tmp_path / "later", 30, one)
    assert said(one=runs["one"], later=tmp_path / "later").startswith(f"{picture} is written\n\nNo table")
    written(tmp_path / "gap", 0, one[:8])
    written(tmp_path / "gap", 20, one[20:])  # a part of the log was lost: averages are of what both have
    both = np.concatenate([one[:8], one[20:]])
    same(curves.table({"one": runs["one"], "gap": tmp_path / "gap"}, None), "one", both, 0.75)


def test_curves_refuse_what_they_cannot_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="no TensorBoard file"):
        curves.read_curve(tmp_path, "Train/mean_reward")
    for wrong, message in (
        (["nothing"], "LABEL=FOLDER"),
        ([f"same={tmp_path}", f"same={tmp_path / 'two'}"], "one label"),
    ):
        assert curves.main(wrong) != 0
        assert message in capsys.readouterr().err
