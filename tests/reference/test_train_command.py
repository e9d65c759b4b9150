"""``python -m CMG_Ref.train``: what it writes, going on after a stop, and its complaints."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
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

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, rng: np.random.Generator, seed: int) -> TrainConfig:
    write_pt(tmp_path / "data.pt", make_data(rng))
    return dataclasses.replace(TINY, data=tmp_path / "data.pt", out=tmp_path / "whole", seed=seed)


def run(config: TrainConfig) -> int:
    """The exit status of the command line that makes ``config``."""
    words = ["train"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        words += [] if value == field.default else [f"--{field.name.replace('_', '-')}", *map(str, np.ravel(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        return train_module.main()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the weights of two checkpoints are, to the bit."""
    a, b = one["model_state_dict"], other["model_state_dict"]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(config: TrainConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in config.out.glob("*.pt")}


@contextlib.contextmanager
def interrupted_in(steps: int) -> Iterator[None]:
    """Ctrl-C in the middle of step ``steps``."""
    step, done = TrainStep.step, []

    def interrupted(self: TrainStep, learning_rate: float) -> None:
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, learning_rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "step", interrupted)
        yield


def test_an_interrupted_training_ends_as_if_it_had_not_been(config: TrainConfig, capsys: Captured) -> None:
    assert run(config) == 0
    one = read_pt(config.out / "cmg_final.pt")
    for steps in (1, 4, 9, 10):  # of 10; the first phase ends after 4, the symmetric part after 9
        halves = dataclasses.replace(config, out=config.out.with_name(f"halves{steps}"))
        capsys.readouterr()
        with interrupted_in(steps):
            assert run(halves) == 130
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("CMG_Ref.train: interrupted") and "cmg_last.pt" in err and f"step {steps}" in err
        assert not (halves.out / "cmg_final.pt").exists()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert run(halves) == 0
        two = read_pt(halves.out / "cmg_final.pt")
        assert same(one, two) and one["epoch"] == two["epoch"] == 10 and one["loss"] == two["loss"] > 0, steps


def test_a_training_ends_in_the_time_it_is_given(config: TrainConfig) -> None:
    """A thousand hours of steps, in half a second."""
    in_time = dataclasses.replace(config, phases=((10**8, 1), (10**8, 4)), seconds=0.5, save_every=10**8)
    started = time.monotonic()
    final = read_pt(train(in_time))
    assert time.monotonic() - started < 60 and final["epoch"] == 2 * 10**8


def test_the_result_is_a_checkpoint_that_depends_on_the_seed(config: TrainConfig) -> None:
    final = train(config)
    content = read_pt(final)
    assert content["recipe"]["hidden_dim"] == 12 and "data" not in content["recipe"]
    np.testing.assert_array_equal(content["stats"]["motion_std"], read_pt(config.data)["stats"]["motion_std"])
    model, _ = as_reference(read_checkpoint(final))
    assert model(torch.zeros(2, 6), torch.zeros(2, 3)).isfinite().all()
    changes: tuple[dict[str, Any], ...] = ({}, {"seed": config.seed + 1}, {"init": final})
    others = [train(dataclasses.replace(config, out=config.out.with_name(f"{i}"), **c)) for i, c in enumerate(changes)]
    assert [same(content, read_pt(other)) for other in others] == [True, False, False]
    assert {p.name for p in config.out.iterdir()} == {"cmg_final.pt", "cmg_last.pt", "tensorboard"}


def test_loss_falls(config: TrainConfig) -> None:
    config = dataclasses.replace(config, hidden_dim=32, batch_size=64, learning_rate=0.01, noise=0.02)
    losses = []
    for steps in (2, 150):
        out = config.out.with_name(f"steps{steps}")
        losses.append(read_pt(train(dataclasses.replace(config, out=out, phases=((steps, 1),))))["loss"])
    assert losses[1] < 0.5 * losses[0]


def test_complaints_are_one_line(config: TrainConfig, tmp_path: Path, capsys: Captured) -> None:
    data = read_pt(config.data)
    stats, samples = data["stats"], data["samples"]
    nameless = {"samples": samples, "stats": stats}
    (tmp_path / "file").touch()
    cases: dict[str, dict[str, Any]] = {
        "no joint names": {"data": nameless},
        "symmetric": {"data": {**data, "stats": {**stats, "motion_mean": stats["motion_mean"] + 1}}},
        "1 joint names": {"data": {**data, "joint_names": ["waist_yaw_joint"]}},
        "no samples": {"data": [1, 2]},
        "motion_std has shape [7]": {"data": {**data, "stats": {**stats, "motion_std": np.ones(7, np.float32)}}},
        "samples are not motion": {"data": {**data, "samples": [{"motion": np.zeros(4), "command": np.zeros(3)}]}},
        "loss is nan": {"data": {**data, "samples": [{**s, "motion": np.nan * s["motion"]} for s in samples]}},
        "No such file": {"data": tmp_path / "absent.pt"},
        "even number": {"hidden_dim": 13},
        "file": {"out": tmp_path / "file" / "out"},
        "hidden_dim was 12, is 8": {"hidden_dim": 8, "init": train(config)},
    }
    for case in ("batch_size 0", "learning_rate 2.0", "gradient_clip 0.0", "noise nan", "ema 1.0", "balance -0.1"):
        name, value = case.split()
        cases[f"{name} is {value}; expected"] = {name: type(getattr(config, name))(value)}
    for expected, change in cases.items():
        if isinstance(change.get("data"), (dict, list)):
            write_pt(tmp_path / "wrong.pt", change["data"])
            change = {"data": tmp_path / "wrong.pt"}
        capsys.readouterr()
        assert run(dataclasses.replace(config, **{"out": tmp_path / "new", **change})) == 2, expected
        err = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("training:")]
        assert len(err) == 1 and err[0].startswith("CMG_Ref.train: ") and expected in err[0], err
    write_pt(tmp_path / "nameless.pt", nameless)
    changes: dict[str, Any] = {"data": tmp_path / "nameless.pt", "out": tmp_path / "plain", "symmetric_part": 0.0}
    assert run(dataclasses.replace(config, **changes)) == 0


def start_again(config: TrainConfig, **changes: Any) -> list[str]:
    """Train with these settings in the same place; the lines that say what differs."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train(dataclasses.replace(config, **changes))
    prefix = f"{config.out / 'cmg_last.pt'}: "
    return [line.removeprefix(prefix) for line in said.getvalue().splitlines() if line.startswith(prefix)]


def refused(config: TrainConfig, **changes: Any) -> str:
    """The refusal of these settings in the same place, which changes no file there."""
    before = files(config)
    with pytest.raises(ValueError) as caught:
        train(dataclasses.replace(config, **changes))
    assert files(config) == before
    assert str(config.out / "cmg_last.pt") in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def half_trained(config: TrainConfig) -> TrainConfig:
    """A training of 10 steps that was interrupted after 4."""
    with interrupted_in(4), pytest.raises(KeyboardInterrupt):
        train(config)
    return config


def parts_of(config: TrainConfig, *keys: str) -> list[tuple[Any, ...]]:
    """These of every part of the recipe."""
    return [tuple(part[key] for key in keys) for part in read_pt(config.out / "cmg_final.pt")["recipe"]["parts"]]


def test_other_settings_are_said_and_recorded_part_by_part(config: TrainConfig) -> None:
    half_trained(config)
    changes: dict[str, Any] = {"learning_rate": 1e-4, "seed": config.seed + 1, "phases": ((2, 1), (10, 2))}
    lines = start_again(config, **changes, log_every=7)
    assert [line.split()[0] for line in lines] == ["learning_rate", "phases", "seed"]
    assert lines[0] == "learning_rate was 0.003, is 0.0001 from step 4 on"
    assert "rollouts go on with 2 frames" in lines[1] and "not used" in lines[2]
    recipe = read_pt(config.out / "cmg_final.pt")["recipe"]
    assert parts_of(config, "from_step", "to_step") == [(0, 4), (4, 12)]
    settings = [(part["settings"]["learning_rate"], part["settings"]["seed"]) for part in recipe["parts"]]
    assert settings == [(0.003, config.seed), (1e-4, config.seed)] and recipe["seed"] == config.seed
    assert "learning_rate" not in recipe and "phases" not in recipe and recipe["batch_size"] == 16
    assert recipe["parts"] == read_pt(config.out / "cmg_last.pt")["recipe"]["parts"]
    again = dataclasses.replace(config, **changes)
    assert start_again(again, phases=((2, 1), (10, 2), (3, 3)))[0].startswith("phases was")
    assert parts_of(config, "from_step", "to_step") == [(0, 4), (4, 12), (12, 15)]


def test_other_data_is_gone_on_with_only_in_the_same_units(
    config: TrainConfig, tmp_path: Path, rng: np.random.Generator
) -> None:
    half_trained(config)
    data = read_pt(config.data)
    stats = data["stats"]
    degrees = {**stats, **{key: np.rad2deg(stats[key]) for key in ("motion_mean", "motion_std")}}
    write_pt(tmp_path / "degrees.pt", {**data, "stats": degrees})
    write_pt(tmp_path / "renamed.pt", {**data, "joint_names": ["left_hip_joint", "waist_yaw_joint", "right_hip_joint"]})
    write_pt(tmp_path / "more.pt", {**data, "samples": data["samples"] + make_data(rng)["samples"]})
    assert re.search(r"motion_(mean|std)\[\d+\] was .* in .*degrees.pt", refused(config, data=tmp_path / "degrees.pt"))
    assert "joint_names were left_knee_joint" in refused(config, data=tmp_path / "renamed.pt")
    assert "num_experts was 2, is 3 now" in refused(config, num_experts=3)
    (line,) = start_again(config, data=tmp_path / "more.pt")
    assert line == "data is another file than up to step 4, with the same stats"
    assert parts_of(config, "data_sha256") == [(sha256(config.data),), (sha256(tmp_path / "more.pt"),)]


def test_the_checkpoint_to_start_from_is_the_one_it_began_with(config: TrainConfig, tmp_path: Path) -> None:
    one, other = (train(dataclasses.replace(config, out=tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    begun = half_trained(dataclasses.replace(config, init=one))
    assert "init is not the checkpoint" in refused(begun, init=other)
    assert start_again(begun) == []  # the same command
    assert parts_of(begun, "init_sha256") == [(sha256(one),)]
    fresh = half_trained(dataclasses.replace(config, out=tmp_path / "fresh"))
    assert "init is not the checkpoint" in refused(fresh, init=one)


def test_a_finished_training_started_again(config: TrainConfig) -> None:
    final = train(config)
    before, whole = files(config), read_pt(final)
    assert start_again(config, log_every=3) == [] and files(config) == before
    assert "learning_rate was 0.003, is 0.1" in refused(config, learning_rate=0.1)
    assert "10 steps are done, phases end at 9" in refused(config, phases=((9, 1),))
    start_again(config, asymmetry_kept=1.0)  # acts on the final weights alone
    assert read_pt(final)["recipe"]["asymmetry_kept"] == 1.0 and read_pt(final)["epoch"] == 10
    final.write_bytes(before[final.name][:500])
    start_again(config)
    assert same(read_pt(final), whole)


def test_a_state_that_does_not_say_what_it_was_made_with(config: TrainConfig) -> None:
    """As versions before wrote it: it goes on, and nothing is claimed for its steps."""
    last = half_trained(config).out / "cmg_last.pt"
    content = read_pt(last)
    write_pt(last, {key: value for key, value in content.items() if key not in ("recipe", "joint_names")})
    (line,) = start_again(config)
    assert line.startswith("nothing says what the 4 steps so far were trained with")
    assert parts_of(config, "from_step", "to_step") == [(0, 4), (4, 10)]
    (before,), (after,) = parts_of(config, "settings")
    assert before is None and after["learning_rate"] == 0.003
    assert "learning_rate" not in read_pt(config.out / "cmg_final.pt")["recipe"]
