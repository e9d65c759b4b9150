"""Wrong input to the training package's command lines: one line, and before anything is built or written."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cmg_gym import evaluate, export_checkpoint, latency, play, sim2sim, train
from cmg_gym.learning.policies import require_same_generator
from cmg_gym.policy_card import read_card
from cmg_runtime import read_manifest
from gym_case import BUNDLED_POLICY, g1_engine, refuse_to_build

Capture = pytest.CaptureFixture[str]
WRONG = (  # each kind once: test_arguments_before_machine.py has what is missing
    (evaluate, "--episodes 0", "--episodes is 0"),
    (evaluate, "--seconds nan", "--seconds is nan"),
    (evaluate, "--seconds inf", "--seconds is inf"),
    (train, "--gpus 0 --start-from nowhere", "nowhere is neither"),
    (train, "--gpus 0 --start-from nowhere --resume", "give one"),
    (train, "--gpus 0 --begin-at 3", "without --start-from"),
    (evaluate, "--friction nan", "--friction is nan"),
    (evaluate, "--power-of nowhere", "nowhere is no evaluation.json"),
    (evaluate, "--commands 0.5 nan 0", "--commands is"),
    (evaluate, "--device cuda:99", "cuda:99"),
    (evaluate, "--device nonsense", "unknown device 'nonsense'"),
    (evaluate, "--seed -2", "--seed is -2"),
    (sim2sim, "--episodes 0", "--episodes is 0"),
    (sim2sim, "--seconds nan", "--seconds is nan"),
    (sim2sim, "--commands 0.5 nan 0", "--commands is"),
    (sim2sim, "--seed -2", "--seed is -2"),
    (latency, "--steps 0", "--steps is 0"),
    (play, "--seconds -1", "--seconds is -1"),
    (play, "--frames-per-picture 0", "--frames-per-picture is 0"),
    (play, "--out film.mp4", "--out is film.mp4"),
    (play, "--commands inf 0 0", "--commands is"),
    (play, "--captured", "--captured is of the training environment"),
    (export_checkpoint, f"--policy {shlex.quote(str(BUNDLED_POLICY / 'policy.onnx'))}", "policy.onnx is neither"),
    (export_checkpoint, "", "give --policy, a checkpoint"),
    (evaluate, "--mjlab", "--mjlab measures a policy of mjlab's own task"),
    (train, "--seed -1", "--seed is -1"),
    (train, f"--start-from {BUNDLED_POLICY} --begin-at 9 --iterations 9", "--begin-at is 9 and --iterations"),
    (train, "--iterations -3", "--iterations is -3"),
    (train, "--gpus -1", "--gpus is -1"),
    (train, "--mode eventually", "eventually"),
)


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuse_to_build(monkeypatch)
    monkeypatch.setenv("MUJOCO_GL", "disable")  # as where there is nothing to draw with
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder() -> Path:
    return g1_engine()[0]


@pytest.mark.parametrize(("module", "arguments", "message"), WRONG)
def test_wrong_input_is_refused_in_one_line(
    module: ModuleType, arguments: str, message: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    try:
        status = module.main([*shlex.split(arguments), "--engine", str(folder)])
    except SystemExit as end:  # of what tyro refuses
        status = end.code
    said = capsys.readouterr().err
    assert status == 2
    assert message in said and said.startswith(module.__name__) and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_policy_of_another_generator_is_refused_before_an_environment_is_built(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    exported, checkpoint, broken = tmp_path / "exported", tmp_path / "model_3.pt", tmp_path / "broken.pt"
    shutil.copytree(BUNDLED_POLICY, exported)
    card = dataclasses.replace(read_card(BUNDLED_POLICY), engine_sha256="ab" * 32)
    (exported / "policy.json").write_text(json.dumps(dataclasses.asdict(card)))
    torch.save({"infos": {"trained_with": {"generator": "ab" * 32}}}, checkpoint)
    shutil.copytree(BUNDLED_POLICY, tmp_path, dirs_exist_ok=True)  # of this generator, and not what is exported
    broken.write_bytes(checkpoint.read_bytes()[:100])
    for command, policy, message in (
        (evaluate, exported, "another generator (abababababab)"),
        (play, checkpoint, "another generator (abababababab)"),
        (export_checkpoint, tmp_path, "model_3.pt was trained with another generator"),
        (export_checkpoint, broken, "is no checkpoint of this task"),
    ):
        assert command.main(["--engine", str(folder), "--policy", str(policy)]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1

    manifest = read_manifest(folder)
    for infos in ({}, {"trained_with": {"generator": manifest.source["sha256"]}}):  # says nothing, and is of this one
        torch.save({"infos": infos}, checkpoint)
        require_same_generator(tmp_path, manifest)


def test_a_place_that_cannot_be_written_and_an_interrupt_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").touch()
    given = ["--engine", str(folder), "--gpus", "0", "--logs", str(tmp_path / "file")]
    monkeypatch.setattr(train, "launch", lambda training: (training.logs / "run").mkdir(parents=True))
    assert train.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("cmg_gym.train: ") and str(tmp_path / "file") in said and said.count("\n") == 1
    monkeypatch.setattr(train, "launch", interrupt)
    assert train.main(given) == 130
    assert capsys.readouterr().err == "cmg_gym.train: interrupted; --resume goes on behind the last saved iteration\n"
