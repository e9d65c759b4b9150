"""``python -m CMG_Ref.train``: what it writes, going on after a stop, and its complaints."""

from __future__ import annotations

import dataclasses
import hashlib
import io
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
from CMG_Ref.checkpoint.reader import as_reference, read_checkpoint
from CMG_Ref.files.torch_files import read_pt, write_pt
from CMG_Ref.train import train
from CMG_Ref.training.config import TrainConfig
from CMG_Ref.training.step import TrainStep
from training_case import TINY, make_data

Patch = pytest.MonkeyPatch
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, rng: np.random.Generator, seed: int) -> TrainConfig:
    write_pt(tmp_path / "data.pt", make_data(rng))
    return dataclasses.replace(TINY, data=tmp_path / "data.pt", out=tmp_path / "whole", seed=seed)


def run(monkeypatch: Patch, config: TrainConfig | None = None, *words: str) -> int:
    """The exit status of the command line that makes ``config``, with more words."""
    options = []
    if config is not None:
        names = ("data", "out", "hidden_dim", "num_experts", "num_layers", "batch_size", "learning_rate", "seed")
        for name in (*names, "device"):
            options += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
        options += ["--phases", *(str(number) for phase in config.phases for number in phase)]
    monkeypatch.setattr(sys, "argv", ["train", *options, *words])
    return train_module.main()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_pt(path)["model_state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_after(monkeypatch: Patch, steps: int) -> None:
    """Ctrl-C in the middle of step ``steps`` from now on."""
    step, done = TrainStep.step, []

    def interrupted(self: TrainStep, learning_rate: float) -> None:
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, learning_rate)

    monkeypatch.setattr(TrainStep, "step", interrupted)


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    config: TrainConfig, monkeypatch: Patch, capsys: Captured
) -> None:
    assert run(monkeypatch, config) == 0
    one = read_pt(config.out / "cmg_final.pt")
    for steps in (1, 4, 9, 10):  # of 10; the first phase ends after 4, the symmetric part after 9
        halves = dataclasses.replace(config, out=config.out.with_name(f"halves{steps}"))
        capsys.readouterr()
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            assert run(patch, halves) == 130
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("CMG_Ref.train: interrupted") and "cmg_last.pt" in err and f"step {steps}" in err
        assert not (halves.out / "cmg_final.pt").exists()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert run(monkeypatch, halves) == 0
        two = read_pt(halves.out / "cmg_final.pt")
        assert same(one["model_state_dict"], two["model_state_dict"]), steps
        assert one["epoch"] == two["epoch"] == 10 and one["loss"] == two["loss"] > 0


def test_the_result_is_a_checkpoint_that_depends_on_the_seed(config: TrainConfig) -> None:
    final = train(config)
    content = read_pt(final)
    assert content["recipe"]["hidden_dim"] == 12 and "data" not in content["recipe"]
    np.testing.assert_array_equal(content["stats"]["motion_std"], read_pt(config.data)["stats"]["motion_std"])
    model, _ = as_reference(read_checkpoint(final))
    assert model(torch.zeros(2, 6), torch.zeros(2, 3)).isfinite().all()
    changes: tuple[dict[str, Any], ...] = ({}, {"seed": config.seed + 1}, {"init": final})
    outs = (config.out.with_name(name) for name in ("again", "seed", "init"))
    others = [train(dataclasses.replace(config, out=out, **c)) for out, c in zip(outs, changes, strict=True)]
    assert [same(weights(final), weights(other)) for other in others] == [True, False, False]
    assert {p.name for p in config.out.iterdir()} == {"cmg_final.pt", "cmg_last.pt", "tensorboard"}


def test_loss_falls(config: TrainConfig) -> None:
    config = dataclasses.replace(config, hidden_dim=32, batch_size=64, learning_rate=0.01, noise=0.02)
    losses = []
    for steps in (2, 150):
        out = config.out.with_name(f"steps{steps}")
        losses.append(read_pt(train(dataclasses.replace(config, out=out, phases=((steps, 1),))))["loss"])
    assert losses[1] < 0.5 * losses[0]


def test_complaints_are_one_line(config: TrainConfig, tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    data = read_pt(config.data)
    stats, samples = data["stats"], data["samples"]
    contents: dict[str, tuple[str, Any]] = {
        "nameless": ("no joint names", {"samples": samples, "stats": stats}),
        "lopsided": ("symmetric", {**data, "stats": {**stats, "motion_mean": stats["motion_mean"] + 1}}),
        "misnamed": ("1 joint names", {**data, "joint_names": ["waist_yaw_joint"]}),
        "no_samples": ("no samples", {"stats": stats}),
        "a_list": ("no samples", [1, 2]),
        "no_stats": ("motion_mean is missing", {**data, "stats": {}}),
        "wide": ("motion_std has shape [7]", {**data, "stats": {**stats, "motion_std": np.ones(7, np.float32)}}),
        "flat": ("samples are not motion", {**data, "samples": [{"motion": np.zeros(4), "command": np.zeros(3)}]}),
        "nan": ("loss is nan", {**data, "samples": [{**s, "motion": np.nan * s["motion"]} for s in samples]}),
    }
    cases: list[tuple[str, dict[str, Any]]] = []
    for name, (expected, content) in contents.items():
        write_pt(tmp_path / f"{name}.pt", content)
        cases.append((expected, {"data": tmp_path / f"{name}.pt"}))
    (tmp_path / "damaged.pt").write_bytes(b"no")
    (tmp_path / "file").touch()
    train(config)
    last = config.out / "cmg_last.pt"
    before = last.read_bytes()
    capsys.readouterr()
    for expected, change in (
        *cases,
        ("No such file", {"data": tmp_path / "absent.pt"}),
        ("damaged", {"data": tmp_path / "damaged.pt"}),
        ("even number", {"hidden_dim": 13}),
        ("abacus", {"device": "abacus"}),
        ("100 transitions", {"phases": ((3, 100),)}),
        ("file", {"out": tmp_path / "file" / "out"}),
        ("cannot go on", {"out": config.out, "hidden_dim": 20}),
    ):
        wrong = dataclasses.replace(config, **{"out": tmp_path / "new", **change})
        assert run(monkeypatch, wrong) == 2, expected
        err = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("training:")]
        assert len(err) == 1 and err[0].startswith("CMG_Ref.train: ") and expected in err[0], err
        assert last.read_bytes() == before
    new = dataclasses.replace(config, out=tmp_path / "new")
    assert run(monkeypatch, new, "--init", str(last)) == 0
    capsys.readouterr()
    assert run(monkeypatch, config, "--hidden-dim", "8", "--init", str(last)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    nameless = dataclasses.replace(config, data=tmp_path / "nameless.pt", out=tmp_path / "plain")
    assert run(monkeypatch, nameless, "--symmetric-part", "0") == 0


def test_numbers_that_cannot_be_are_refused(monkeypatch: Patch, tmp_path: Path, capsys: Captured) -> None:
    """Those that ``test_command_lines`` does not try."""
    monkeypatch.chdir(tmp_path)
    wrong = "batch_size 0, hidden_dim -1, save_every 0, log_every 0, velocity_every 0, learning_rate nan, "
    wrong += "gradient_clip 0, noise -0.1, ema 1, asymmetry_kept 1.5, balance nan"
    for name, value in (case.split() for case in wrong.split(", ")):
        assert run(monkeypatch, None, f"--{name.replace('_', '-')}", value) == 2
        assert re.fullmatch(rf"CMG_Ref.train: {name} is {value}(\.0)?; expected .+\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def start_again(config: TrainConfig, capsys: Captured, **changes: Any) -> list[str]:
    """Train with these settings in the same place; the lines that say what differs."""
    capsys.readouterr()
    train(dataclasses.replace(config, **changes))
    prefix = f"{config.out / 'cmg_last.pt'}: "
    return [line.removeprefix(prefix) for line in capsys.readouterr().out.splitlines() if line.startswith(prefix)]


def refused(config: TrainConfig, **changes: Any) -> str:
    """The refusal of these settings in the same place, which changes no file there."""
    before = {path.name: path.read_bytes() for path in config.out.glob("*.pt")}
    with pytest.raises(ValueError) as caught:
        train(dataclasses.replace(config, **changes))
    assert {path.name: path.read_bytes() for path in config.out.glob("*.pt")} == before
    assert str(config.out / "cmg_last.pt") in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def half_trained(config: TrainConfig, monkeypatch: Patch) -> TrainConfig:
    """A training of 10 steps that was interrupted after 4."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 4)
        train(config)
    return config


def parts_of(config: TrainConfig) -> list[dict[str, Any]]:
    return read_pt(config.out / "cmg_final.pt")["recipe"]["parts"]


def steps_of(config: TrainConfig) -> list[tuple[int, int]]:
    return [(part["from_step"], part["to_step"]) for part in parts_of(config)]


def test_other_settings_are_said_and_recorded_part_by_part(
    config: TrainConfig, monkeypatch: Patch, capsys: Captured
) -> None:
    half_trained(config, monkeypatch)
    changes: dict[str, Any] = {"learning_rate": 1e-4, "seed": config.seed + 1, "phases": ((2, 1), (10, 2))}
    lines = start_again(config, capsys, **changes, log_every=7)
    assert [line.split()[0] for line in lines] == ["learning_rate", "phases", "seed"]
    assert lines[0] == "learning_rate was 0.003, is 0.0001 from step 4 on"
    assert "rollouts go on with 2 frames" in lines[1] and "not used" in lines[2]
    recipe = read_pt(config.out / "cmg_final.pt")["recipe"]
    assert steps_of(config) == [(0, 4), (4, 12)]
    assert [part["settings"]["learning_rate"] for part in recipe["parts"]] == [0.003, 1e-4]
    assert {part["settings"]["seed"] for part in recipe["parts"]} == {config.seed} == {recipe["seed"]}
    assert "learning_rate" not in recipe and "phases" not in recipe and recipe["batch_size"] == 16
    assert recipe["parts"] == read_pt(config.out / "cmg_last.pt")["recipe"]["parts"]
    again = dataclasses.replace(config, **changes)
    assert start_again(again, capsys, phases=((2, 1), (10, 2), (3, 3)))[0].startswith("phases was")
    assert steps_of(config) == [(0, 4), (4, 12), (12, 15)]


def test_other_data_is_gone_on_with_only_in_the_same_units(
    config: TrainConfig, monkeypatch: Patch, capsys: Captured, tmp_path: Path, rng: np.random.Generator
) -> None:
    half_trained(config, monkeypatch)
    data = read_pt(config.data)
    stats = data["stats"]
    degrees = {**stats, **{key: np.rad2deg(stats[key]) for key in ("motion_mean", "motion_std")}}
    in_degrees = [{**sample, "motion": np.rad2deg(sample["motion"])} for sample in data["samples"]]
    write_pt(tmp_path / "degrees.pt", {**data, "samples": in_degrees, "stats": degrees})
    write_pt(tmp_path / "renamed.pt", {**data, "joint_names": ["left_hip_joint", "waist_yaw_joint", "right_hip_joint"]})
    write_pt(tmp_path / "more.pt", {**data, "samples": data["samples"] + make_data(rng)["samples"]})
    assert re.search(r"motion_(mean|std)\[\d+\] was .* in .*degrees.pt", refused(config, data=tmp_path / "degrees.pt"))
    assert "joint_names were left_knee_joint" in refused(config, data=tmp_path / "renamed.pt")
    assert "num_experts was 2, is 3 now" in refused(config, num_experts=3)
    assert "num_layers was 2, is 3 now" in refused(config, num_layers=3)
    (line,) = start_again(config, capsys, data=tmp_path / "more.pt")
    assert line == "data is another file than up to step 4, with the same stats"
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (config.data, tmp_path / "more.pt")]
    assert [part["data_sha256"] for part in parts_of(config)] == hashes


def test_the_checkpoint_to_start_from_is_the_one_it_began_with(
    config: TrainConfig, monkeypatch: Patch, capsys: Captured, tmp_path: Path
) -> None:
    one, other = (train(dataclasses.replace(config, out=tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    begun = half_trained(dataclasses.replace(config, init=one), monkeypatch)
    assert "init is not the checkpoint" in refused(begun, init=other)
    assert start_again(begun, capsys) == []  # the same command
    assert [part["init_sha256"] for part in parts_of(begun)] == [hashlib.sha256(one.read_bytes()).hexdigest()]
    fresh = half_trained(dataclasses.replace(config, out=tmp_path / "fresh"), monkeypatch)
    assert "init is not the checkpoint" in refused(fresh, init=one)


def test_a_finished_training_started_again(config: TrainConfig, capsys: Captured) -> None:
    final = train(config)
    before = {path.name: path.read_bytes() for path in config.out.glob("*.pt")}
    assert start_again(config, capsys, log_every=3) == []
    assert {path.name: path.read_bytes() for path in config.out.glob("*.pt")} == before
    assert "learning_rate was 0.003, is 0.1" in refused(config, learning_rate=0.1)
    assert "10 steps are done, phases end at 9" in refused(config, phases=((9, 1),))
    start_again(config, capsys, asymmetry_kept=1.0)  # acts on the final weights alone
    changed = read_pt(final)
    assert changed["recipe"]["asymmetry_kept"] == 1.0 and changed["epoch"] == 10
    final.write_bytes(before[final.name][:500])
    start_again(config, capsys)
    assert same(weights(final), torch.load(io.BytesIO(before[final.name]), weights_only=False)["model_state_dict"])


def test_a_state_that_does_not_say_what_it_was_made_with(
    config: TrainConfig, monkeypatch: Patch, capsys: Captured
) -> None:
    """As versions before wrote it: it goes on, and nothing is claimed for its steps."""
    last = half_trained(config, monkeypatch).out / "cmg_last.pt"
    content = read_pt(last)
    write_pt(last, {key: value for key, value in content.items() if key not in ("recipe", "joint_names")})
    (line,) = start_again(config, capsys)
    assert line.startswith("nothing says what the 4 steps so far were trained with")
    assert steps_of(config) == [(0, 4), (4, 10)]
    before, after = (part["settings"] for part in parts_of(config))
    assert before is None and after["learning_rate"] == 0.003
    assert "learning_rate" not in read_pt(config.out / "cmg_final.pt")["recipe"]
