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

from cmg_gym import command_line, evaluate, export_checkpoint, play, train
from cmg_gym.command_line import BUNDLED_POLICY
from cmg_gym.controller import read_card
from cmg_gym.policies import require_same_generator
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.folder.manifest import Manifest
from gym_case import make_g1_engine

WRONG = (
    (evaluate, "--episodes 0", "--episodes is 0"),
    (evaluate, "--seconds nan", "--seconds is nan"),
    (evaluate, "--seconds inf", "--seconds is inf"),
    (evaluate, "--commands 0.5 nan 0", "--commands is"),
    (evaluate, "--policy nowhere", "nowhere is neither"),
    (evaluate, "--engine nowhere", "cannot read nowhere/manifest.json"),
    (play, "--seconds -1", "--seconds is -1"),
    (play, "--frames-per-picture 0", "--frames-per-picture is 0"),
    (play, "--commands inf 0 0", "--commands is"),
    (play, "--policy nowhere", "nowhere is neither"),
    (play, "--viewer --policy nowhere", "nowhere is neither"),
    (export_checkpoint, "--policy nowhere", "nowhere is neither"),
    (export_checkpoint, f"--policy {shlex.quote(str(BUNDLED_POLICY / 'policy.onnx'))}", "policy.onnx is neither"),
    (evaluate, "--device cuda:99", "cuda:99"),
    (evaluate, "--seed -2", "--seed is -2"),
    (evaluate, "--device nonsense", "unknown device 'nonsense'"),
    (play, "--seed 4294967296", "--seed is 4294967296"),
    (train, "--seed -1", "--seed is -1"),
    (train, "--num-envs 0", "--num-envs is 0"),
    (train, "--iterations -3", "--iterations is -3"),
    (train, "--delay-steps -1", "--delay-steps is -1"),
    (train, "--gpus -1", "--gpus is -1"),
    (train, "--mode eventually", "eventually"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine")
    make_g1_engine(path)
    return path


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(*arguments: object) -> None:
        raise AssertionError("an environment is built")

    monkeypatch.setattr(command_line, "ManagerBasedRlEnv", build)
    monkeypatch.setattr(train, "launch_training", build)
    monkeypatch.setenv("MUJOCO_GL", "disable")  # as where there is nothing to draw with
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("module", "arguments", "message"), WRONG)
def test_wrong_input_is_refused_in_one_line(
    module: ModuleType, arguments: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = [] if "--engine" in arguments else ["--engine", str(folder)]
    try:
        status = module.main([*shlex.split(arguments), *engine])
    except SystemExit as end:  # of what tyro refuses
        status = end.code
    said = capsys.readouterr().err
    assert status == 2
    assert message in said and said.startswith(module.__name__) and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_policy_of_another_generator_is_refused_before_an_environment_is_built(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    shutil.copy(BUNDLED_POLICY / "policy.onnx", exported)
    card = dataclasses.replace(read_card(BUNDLED_POLICY), engine_sha256="ab" * 32)
    (exported / "policy.json").write_text(json.dumps(dataclasses.asdict(card)))
    checkpoint = tmp_path / "model_3.pt"
    torch.save({"infos": {"trained_with": {"generator": "ab" * 32}}}, checkpoint)
    for policy in (exported, checkpoint):
        for command in (evaluate, play):
            assert command.main(["--engine", str(folder), "--policy", str(policy)]) == 2
            said = capsys.readouterr().err
            assert "another generator (abababababab)" in said and said.count("\n") == 1
    shutil.copy(BUNDLED_POLICY / "policy.onnx", tmp_path)  # of this generator, and not what is exported
    shutil.copy(BUNDLED_POLICY / "policy.json", tmp_path)
    assert export_checkpoint.main(["--engine", str(folder), "--policy", str(tmp_path)]) == 2
    assert "model_3.pt was trained with another generator" in capsys.readouterr().err
    broken = tmp_path / "model_4.pt"
    broken.write_bytes(checkpoint.read_bytes()[:100])
    assert export_checkpoint.main(["--engine", str(folder), "--policy", str(broken)]) == 2
    assert "is no checkpoint of this task" in capsys.readouterr().err


def test_a_policy_of_this_generator_and_one_that_does_not_say_are_taken(folder: Path, tmp_path: Path) -> None:
    manifest: Manifest = read_manifest(folder)
    for infos in ({}, {"trained_with": {"generator": manifest.source["sha256"]}}):
        torch.save({"infos": infos}, tmp_path / "model_3.pt")
        require_same_generator(tmp_path, manifest)
    with pytest.raises(EngineError, match="neither"):
        require_same_generator(tmp_path / "elsewhere", manifest)


def test_a_place_that_cannot_be_written_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(train, "launch_training", lambda task, config: Path(config.log_root, "run").mkdir(parents=True))
    assert train.main(["--engine", str(folder), "--gpus", "0", "--logs", str(tmp_path / "file")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cmg_gym.train: ") and str(tmp_path / "file") in said and said.count("\n") == 1


def test_an_interrupt_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "launch_training", interrupt)
    assert train.main(["--engine", str(folder), "--gpus", "0"]) == 130
    assert capsys.readouterr().err == "cmg_gym.train: interrupted; --resume goes on behind the last saved iteration\n"
