"""The examples: the patch does for a motion library what it says, and a training's record is what the runner had."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmg_runtime import EngineError
from cmg_runtime.motion_lib import MotionLibCMG
from dropin_case import g1_case
from examples import published_code, train_twist, training_record
from mimic_case import SimulatedEnv

ENVIRONMENT, CONFIGURATION = (
    f"legged_gym/legged_gym/envs/{name}.py" for name in ("base/humanoid_mimic", "g1/g1_mimic_distill_config")
)
AROUND = {
    ENVIRONMENT: "class Environment:\n    def _init_buffers(self):\n",
    CONFIGURATION: "class Cfg:\n    class motion:\n",
}


def like_published(folder: Path) -> None:
    """Files of which the patch finds its lines, so that they can be run: its context, and what is around it."""
    patch = train_twist.PATCH.read_text()
    for name, around in AROUND.items():
        (hunk,) = re.findall(rf"\+\+\+ b/{name}\n@@ .*\n((?:[ +-].*\n)+?)(?=---|\Z)", patch)
        context = re.sub(r"^\+.*\n", "", hunk, flags=re.MULTILINE)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(around + re.sub("^ ", "", context, flags=re.MULTILINE))


@pytest.mark.slow
def test_the_patch_gives_an_environment_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = g1_case(23)
    (tmp_path / "g1_neutral").symlink_to(case.folder)
    monkeypatch.setenv("CMG_ENGINES", str(tmp_path))
    like_published(tmp_path)
    published_code.apply_patch(train_twist.PATCH, tmp_path)
    names: dict[str, Any] = {"LEGGED_GYM_ROOT_DIR": "", "MotionLib": None}
    for name in AROUND:
        exec((tmp_path / name).read_text(), names)
    env = SimulatedEnv(case)
    env.cfg.motion = names["Cfg"].motion
    env.cfg.motion.cmg_backend = "torch"
    names["Environment"]._load_motions(env)
    library = vars(env)["_motion_lib"]
    assert isinstance(library, MotionLibCMG) and library.mode == "realtime"
    assert library.get_key_body_idx(env.cfg.motion.upper_key_bodies) == [
        library.body_names.index(name) for name in env.cfg.motion.upper_key_bodies
    ]


def test_a_patch_is_applied_wholly_or_not_at_all(tmp_path: Path) -> None:
    like_published(tmp_path)
    before = (tmp_path / ENVIRONMENT).read_text()
    (tmp_path / CONFIGURATION).write_text("class Cfg: ...\n")
    with pytest.raises(EngineError, match=r"g1_mimic_distill_config\.py is not as published"):
        published_code.apply_patch(train_twist.PATCH, tmp_path)
    assert (tmp_path / ENVIRONMENT).read_text() == before
    (tmp_path / CONFIGURATION).unlink()
    with pytest.raises(EngineError, match=r"g1_mimic_distill_config\.py is missing"):
        published_code.apply_patch(train_twist.PATCH, tmp_path)


def test_what_is_not_installed_is_stood_in_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("termcolor", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # cannot be imported
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("WANDB_MODE", "online")
    (tmp_path / "published.py").write_text("from termcolor import cprint\nimport wandb\nwandb.log({'a': 1}, step=2)")
    published_code.prepare([tmp_path])
    assert importlib.import_module("published").cprint("text", "green") is None
    with pytest.raises(EngineError, match="elsewhere is missing"):
        published_code.prepare([tmp_path / "elsewhere"])


class Runner:
    """rsl_rl's, as far as its record needs it."""

    num_steps_per_env = 5

    def __init__(self) -> None:
        self.env = SimpleNamespace(num_envs=3, episode_sums={"alive": None})
        self.current_learning_iteration = 0

    def log(self, values: dict[str, Any]) -> None:
        print("what rsl_rl prints")

    def learn(self, iterations: int, init_at_random_ep_len: bool) -> None:
        for it in range(self.current_learning_iteration, self.current_learning_iteration + iterations):
            values = {"it": it, "rewbuffer": [it, it + 2.0], "lenbuffer": [] if it == 0 else [4.0]}
            infos = [{"rew_alive": torch.tensor(0.5), "rew_other": 1.0}, {"rew_alive": 1.5}]
            self.log({**values, "collection_time": 0.5, "learn_time": 1.0, "ep_infos": infos})

    def save(self, path: str) -> None:
        Path(path).write_text(str(self.current_learning_iteration))

    def load(self, path: str) -> None:
        self.current_learning_iteration = int(Path(path).read_text())


def test_a_training_is_recorded_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training_record.train(Runner(), 4, tmp_path, "first", max_minutes=0)
    with pytest.raises(EngineError, match="holds a training already"):
        training_record.train(Runner(), 4, tmp_path, "again")
    training_record.train(Runner(), 4, tmp_path, "on", resume=True)
    with (tmp_path / "iterations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["iteration"], row["reward"], row["rew_alive"]) for row in rows] == [
        (str(it), f"{it + 1}", "1") for it in range(4)
    ]
    assert [row["episode_length"] for row in rows] == ["nan", "4", "4", "4"]
    assert {row["steps_per_second"] for row in rows} == {"10"}
    assert training_record.latest_checkpoint(tmp_path).name == "model_4.pt"
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "what rsl_rl prints" not in capsys.readouterr().out


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_twist.main(["--twist", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert "legged_gym is missing; expected a checkout" in said and "\n" not in said
    assert not list(tmp_path.iterdir())
