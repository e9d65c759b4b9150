"""The policy that comes with the project: it belongs to the bundled generator, and walks in the simulator."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mjlab.rl import RslRlVecEnvWrapper
from PIL import Image, ImageSequence
from PIL.GifImagePlugin import GifImageFile
from tensordict import TensorDict

from cmg_gym import play
from cmg_gym.command_line import BUNDLED_POLICY
from cmg_gym.controller import Controller, read_card
from cmg_gym.evaluation import run_episodes, summarise
from cmg_gym.learning.policies import load_policy
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_runtime import EngineError
from cmg_runtime.folder.manifest import file_sha256
from gym_case import CHECKPOINT, g1_engine, make_env

pytestmark = pytest.mark.xdist_group("gym")

FORWARD, STAND = (0.8, 0.0, 0.0), (0.0, 0.0, 0.0)


@pytest.fixture
def folder() -> Path:
    return g1_engine()[0]


@pytest.fixture(scope="module")
def robots(seed: int) -> RslRlVecEnvWrapper:
    """Six, on the ground."""
    return RslRlVecEnvWrapper(make_env(g1_engine()[0], 6, seed, play=True, falls=True))


def test_it_belongs_to_the_bundled_checkpoint_and_is_small() -> None:
    assert read_card(BUNDLED_POLICY).engine_sha256 == file_sha256(CHECKPOINT)
    assert sum(file.stat().st_size for file in BUNDLED_POLICY.iterdir()) < 2_000_000
    assert (BUNDLED_POLICY / "README.md").is_file()


def test_it_walks_and_stands(robots: RslRlVecEnvWrapper) -> None:
    """Three seconds, two robots each: upright all the time, and at the speed asked for in the last two."""
    policy = load_policy(BUNDLED_POLICY, robots)
    grid = torch.tensor([FORWARD, STAND, FORWARD])

    def without_it_the_last_two_fall(observations: TensorDict) -> torch.Tensor:
        actions = policy(observations)
        actions[4:] = 0
        return actions

    episodes = run_episodes(robots, without_it_the_last_two_fall, grid.repeat_interleave(2, dim=0), num_steps=150)
    assert bool(episodes.alive[:, :4].all()) and not bool(episodes.alive[-1, 4:].any())
    assert bool((episodes.alive[1:] <= episodes.alive[:-1]).all())  # none comes to life again
    speed = episodes.velocity[50:, :4].mean(dim=0)
    torch.testing.assert_close(speed[:, :2], episodes.command[:4, :2], atol=0.25, rtol=0)
    assert float(episodes.joint_error[:, :4].square().mean().sqrt()) < 0.25
    results = summarise(episodes, grid)
    assert [(result.command, result.survival) for result in results] == [(FORWARD, 1), (STAND, 1), (FORWARD, 0)]
    assert all(result.joint_error < 0.3 for result in results)


def test_a_policy_of_another_generator_or_robot_is_refused(
    robots: RslRlVecEnvWrapper, folder: Path, tmp_path: Path
) -> None:
    card = read_card(BUNDLED_POLICY)
    shutil.copy(BUNDLED_POLICY / "policy.onnx", tmp_path)

    def refused(**changes: object) -> str:
        changed = dataclasses.replace(card, **changes)  # pyright: ignore[reportArgumentType]
        (tmp_path / "policy.json").write_text(json.dumps(dataclasses.asdict(changed)))
        with pytest.raises(EngineError) as refusal:
            load_policy(tmp_path, robots)
        return str(refusal.value)

    assert "another engine_sha256 than" in refused(engine_sha256="0" * 64)
    with pytest.raises(EngineError, match="another checkpoint"):
        Controller(tmp_path, folder)
    assert "another action_scale, lead_s than" in refused(action_scale=(1.0,) * 29, lead_s=(0.0,) * 29)
    assert "another observation than" in refused(observation=card.observation[:-1])
    assert "another dof_upper than" in refused(dof_upper=card.dof_upper[:-1])


def test_a_checkpoint_of_another_task_is_refused(robots: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    path = tmp_path / "model_3.pt"
    ResidualRunner(robots, dataclasses.asdict(make_rl_cfg()), device="cpu").save(str(path))
    load_policy(path, robots)
    saved = torch.load(path, weights_only=True)
    first = next(name for name, values in saved["actor_state_dict"].items() if values.dim() == 2)
    saved["actor_state_dict"][first] = saved["actor_state_dict"][first][:, 1:]  # it observes less
    torch.save(saved, path)
    with pytest.raises(EngineError, match="no checkpoint of this task"):
        load_policy(path, robots)
    del saved["infos"]
    torch.save(saved, path)
    with pytest.raises(EngineError, match="no checkpoint of this task"):
        load_policy(path, robots)


@pytest.mark.draws
def test_play_draws_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "play.gif"
    commands = [str(number) for command in (STAND, FORWARD) for number in command]
    assert play.main(["--engine", str(folder), "--out", str(out), "--seconds", "0.08", "--commands", *commands]) == 0
    with Image.open(out) as animation:
        assert isinstance(animation, GifImageFile)
        assert (animation.n_frames, animation.info["duration"]) == (4, 40)
        pictures = [np.asarray(picture.convert("RGB"), dtype=int) for picture in ImageSequence.Iterator(animation)]
    # The robot and its ghost are the lightest things in the picture, and in the middle of it.
    rows, columns = np.nonzero(pictures[0][40:].min(axis=2) > 120)
    assert len(rows) > 1500 and abs(columns.mean() / pictures[0].shape[1] - 0.5) < 0.1
    assert all((before != after).any() for before, after in zip(pictures, pictures[1:], strict=False))


def test_captions() -> None:
    assert play.caption(STAND) == "stand"
    assert play.caption((0.8, 0.0, -0.5)) == "0.8 m/s, turning -0.5 rad/s"
    assert play.caption((0.0, 0.4, 0.0)) == "0.0 m/s, +0.4 m/s sideways"
