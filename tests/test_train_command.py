"""``python -m CMG_Ref.train``: what it writes, going on after a stop, and its complaints."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref import train as train_module
from CMG_Ref.checkpoint_io import load_reference, read_pt, write_pt
from CMG_Ref.train import TrainConfig, train
from CMG_Ref.training.step import TrainStep
from training_case import TINY, make_data


@pytest.fixture
def config(tmp_path: Path, rng: np.random.Generator, seed: int) -> TrainConfig:
    write_pt(tmp_path / "data.pt", make_data(rng))
    return dataclasses.replace(TINY, data=tmp_path / "data.pt", out=tmp_path / "whole", seed=seed)


def arguments(config: TrainConfig) -> list[str]:
    """The command line that makes ``config``."""
    phases = [str(number) for phase in config.phases for number in phase]
    plain = {name: str(getattr(config, name)) for name in ("data", "out", "hidden_dim", "num_experts", "num_layers")}
    plain |= {name: str(getattr(config, name)) for name in ("batch_size", "learning_rate", "seed", "device")}
    named = [word for name, value in plain.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["train", *named, "--phases", *phases]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", list(words))
    return train_module.main()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_pt(path)["model_state_dict"]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the middle of step ``steps`` from now on."""
    update, done = TrainStep._update, []

    def interrupted(self: TrainStep) -> None:
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        update(self)

    monkeypatch.setattr(TrainStep, "_update", interrupted)


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 9, 10])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    assert run(monkeypatch, *arguments(config)) == 0
    halves = dataclasses.replace(config, out=config.out.with_name("halves"))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        assert run(patch, *arguments(halves)) == 130
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("CMG_Ref.train: interrupted") and "cmg_last.pt" in err[-1] and f"step {steps}" in err[-1]
    assert not (halves.out / "cmg_final.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(monkeypatch, *arguments(halves)) == 0
    one, two = (read_pt(out / "cmg_final.pt") for out in (config.out, halves.out))
    assert_same(one["model_state_dict"], two["model_state_dict"])
    assert one["epoch"] == two["epoch"] == 10 and one["loss"] == two["loss"] > 0


def test_the_result_is_a_checkpoint_that_depends_on_the_seed(config: TrainConfig) -> None:
    final = train(config)
    content = read_pt(final)
    data = read_pt(config.data)
    assert content["recipe"]["hidden_dim"] == 12 and "data" not in content["recipe"]
    np.testing.assert_array_equal(content["stats"]["motion_std"], data["stats"]["motion_std"])
    model, _ = load_reference(final)
    assert model(torch.zeros(2, 6), torch.zeros(2, 3)).isfinite().all()
    again = train(dataclasses.replace(config, out=config.out.with_name("again")))
    assert_same(weights(final), weights(again))
    other = train(dataclasses.replace(config, out=config.out.with_name("other"), seed=config.seed + 1))
    assert not torch.equal(weights(final)["layers.0.expert_weights.0"], weights(other)["layers.0.expert_weights.0"])
    second = train(dataclasses.replace(config, out=config.out.with_name("second"), init=final))
    assert not torch.equal(weights(final)["layers.0.expert_weights.0"], weights(second)["layers.0.expert_weights.0"])
    assert {p.name for p in config.out.iterdir()} == {"cmg_final.pt", "cmg_last.pt", "tensorboard"}


def test_loss_falls(config: TrainConfig) -> None:
    config = dataclasses.replace(config, hidden_dim=32, batch_size=64, learning_rate=0.01, noise=0.02)
    losses = []
    for steps in (2, 300):
        out = config.out.with_name(f"steps{steps}")
        losses.append(read_pt(train(dataclasses.replace(config, out=out, phases=((steps, 1),))))["loss"])
    assert losses[1] < 0.5 * losses[0]


def test_complaints_are_one_line(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read_pt(config.data)
    made: dict[str, Any] = {
        "nameless": {"samples": data["samples"], "stats": data["stats"]},
        "lopsided": {**data, "stats": {**data["stats"], "motion_mean": data["stats"]["motion_mean"] + 1}},
        "misnamed": {**data, "joint_names": ["waist_yaw_joint"]},
        "no_samples": {"stats": data["stats"]},
        "a_list": [1, 2],
        "nan": {**data, "samples": [{**s, "motion": s["motion"] * np.float32("nan")} for s in data["samples"]]},
    }
    for name, content in made.items():
        write_pt(tmp_path / f"{name}.pt", content)
    (tmp_path / "damaged.pt").write_bytes(b"no")
    (tmp_path / "file").touch()
    train(config)
    last = config.out / "cmg_last.pt"
    capsys.readouterr()
    for expected, change in (
        ("No such file", {"data": tmp_path / "absent.pt"}),
        ("damaged", {"data": tmp_path / "damaged.pt"}),
        ("no joint names", {"data": tmp_path / "nameless.pt"}),
        ("symmetric", {"data": tmp_path / "lopsided.pt"}),
        ("1 joint names", {"data": tmp_path / "misnamed.pt"}),
        ("no samples", {"data": tmp_path / "no_samples.pt"}),
        ("no samples", {"data": tmp_path / "a_list.pt"}),
        ("loss is nan", {"data": tmp_path / "nan.pt"}),
        ("even number", {"hidden_dim": 13}),
        ("abacus", {"device": "abacus"}),
        ("100 transitions", {"phases": ((3, 100),)}),
        ("file", {"out": tmp_path / "file" / "out"}),
        ("cannot go on", {"out": config.out, "hidden_dim": 20}),
    ):
        wrong = dataclasses.replace(config, **{"out": tmp_path / "new", **change})
        before = last.read_bytes()
        assert run(monkeypatch, *arguments(wrong)) == 2, expected
        err = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("training:")]
        assert len(err) == 1 and err[0].startswith("CMG_Ref.train: ") and expected in err[0], err
        assert last.read_bytes() == before
    assert run(monkeypatch, *arguments(dataclasses.replace(config, out=tmp_path / "new")), "--init", str(last)) == 0
    capsys.readouterr()
    assert run(monkeypatch, *arguments(config), "--hidden-dim", "8", "--init", str(last)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    nameless = dataclasses.replace(config, data=tmp_path / "nameless.pt", out=tmp_path / "plain")
    assert run(monkeypatch, *arguments(nameless), "--symmetric-part", "0") == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch-size", "0"),
        ("hidden-dim", "-1"),
        ("save-every", "0"),
        ("log-every", "0"),
        ("velocity-every", "0"),
        ("learning-rate", "nan"),
        ("gradient-clip", "0"),
        ("noise", "-0.1"),
        ("ema", "1"),
        ("asymmetry-kept", "1.5"),
        ("balance", "nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", f"--{option}", value) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"CMG_Ref.train: {option.replace('-', '_')} is {value}(\.0)?; expected .+\n", said)
    assert not list(tmp_path.iterdir())
