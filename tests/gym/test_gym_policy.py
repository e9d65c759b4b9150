"""The policy that comes with the project: it belongs to the bundled generator, and walks in the simulator."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg
from PIL import Image, ImageSequence
from PIL.GifImagePlugin import GifImageFile
from tensordict import TensorDict

from cmg_gym import play
from cmg_gym.captured import CapturedEnv, TrainingEnv
from cmg_gym.command_line import POLICIES, policy_or_bundled
from cmg_gym.conditions import Conditions
from cmg_gym.controller import Controller
from cmg_gym.evaluation import run_episodes, summarise
from cmg_gym.learning.policies import load_policy
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.learning.start_from import start_from
from cmg_gym.pictures.stage import caption
from cmg_gym.pictures.videos import save_mp4
from cmg_gym.policy_card import read_card
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.velocity_task import VELOCITY_TASK, HeldTwist, open_velocity_task
from cmg_gym.walk import exported_policy
from cmg_runtime import EngineError
from cmg_runtime.folder.manifest import file_sha256
from gym_case import BUNDLED_POLICY, CHECKPOINT, deployable_engine, few_trajectories, g1_engine, make_cfg, make_env

pytestmark = pytest.mark.xdist_group("gym")

FORWARD, STAND = (0.8, 0.0, 0.0), (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def robots(seed: int) -> RslRlVecEnvWrapper:
    return RslRlVecEnvWrapper(make_env(g1_engine()[0], 6, seed, play=True, falls=True))


def test_an_engine_gets_the_bundled_policy_of_its_generator(tmp_path: Path) -> None:
    folders = sorted(POLICIES.iterdir())
    assert [folder.name for folder in folders] == ["g1_all", "g1_neutral"]
    manifest = json.loads((g1_engine()[0] / "manifest.json").read_text())
    for folder in folders:
        manifest["source"]["sha256"] = file_sha256(CHECKPOINT.parents[1] / folder.name / "cmg_final.pt")
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert policy_or_bundled(None, tmp_path) == folder
        assert policy_or_bundled(tmp_path, tmp_path) == tmp_path
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
        assert (folder / "README.md").is_file()
    manifest["source"]["sha256"] = "ab" * 32
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match="no bundled policy was trained with the generator of .*; give --policy"):
        policy_or_bundled(None, tmp_path)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_captured_environment_is_evaluated_without_its_spare_world(seed: int) -> None:
    """The same pieces as on a GPU, run one by one."""
    robots = TrainingEnv(CapturedEnv(make_cfg(g1_engine()[0], 3, seed, play=True, falls=True), "cpu"))
    commands = torch.tensor([STAND, FORWARD, STAND])
    episodes = run_episodes(robots, load_policy(BUNDLED_POLICY, robots), commands, num_steps=40)
    assert torch.equal(episodes.command, commands) and bool(episodes.alive.all())
    assert episodes.velocity.shape == (40, 3, 3) and episodes.slip.shape == episodes.power.shape == (40, 3)
    assert float(episodes.joint_error.square().mean().sqrt()) < 0.25
    forward = episodes.velocity[20:, :, 0].mean(dim=0)
    torch.testing.assert_close(forward, commands[:, 0], atol=0.3, rtol=0)


@pytest.mark.slow
def test_mjlabs_own_task_is_measured_under_the_same_commands(seed: int, tmp_path: Path) -> None:
    """A network that has learned nothing, for a few steps: what counts is that nobody changes its command."""
    env, policy = open_velocity_task(
        untrained_of_mjlabs(tmp_path), 2, 21.0, Conditions(friction=0.3), "cpu", False, seed
    )
    commands = torch.tensor([(0.3, -0.2, 0.5), STAND])
    episodes = run_episodes(env, policy, commands, 12, HeldTwist(env))
    assert torch.equal(episodes.command, commands) and bool(episodes.joint_error.isnan().all())
    assert bool(episodes.velocity.isfinite().all()) and bool(episodes.alive.all())
    observed = env.get_observations()["actor"]
    assert isinstance(observed, torch.Tensor)
    found = [observed[:, k : k + 3] for k in range(observed.shape[1] - 2)]
    assert any(torch.equal(part, commands) for part in found)  # the network has been told
    soles = [i for i in range(env.unwrapped.sim.mj_model.ngeom) if "foot" in env.unwrapped.sim.mj_model.geom(i).name]
    assert bool((env.unwrapped.sim.model.geom_friction[:, soles, 0] == 0.3).all())


def test_robots_of_mjlabs_task_that_fall_are_measured_by_the_command_they_had(seed: int, tmp_path: Path) -> None:
    env = open_velocity_task(untrained_of_mjlabs(tmp_path), 3, 21.0, Conditions(), "cpu", False, seed)[0]
    commands = torch.tensor([(0.5, 0.0, 0.0)]).repeat(3, 1)
    generator = torch.Generator().manual_seed(seed)
    stumbling = lambda _: 3 * torch.randn(3, env.num_actions, generator=generator)  # noqa: E731
    episodes = run_episodes(env, stumbling, commands, 120, HeldTwist(env))
    assert not bool(episodes.alive[-1].any()) and torch.equal(episodes.command, commands)


def test_a_checkpoint_of_mjlabs_task_runs_no_code(tmp_path: Path) -> None:
    torch.save({"actor_state_dict": {}, "infos": {"harm": Harm(tmp_path / "done")}}, tmp_path / "model_1.pt")
    with pytest.raises(EngineError, match="is no checkpoint of this task"):
        open_velocity_task(tmp_path, 1, 1.0, Conditions(), "cpu", False, 0)
    assert not (tmp_path / "done").exists()


class Harm:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def untrained_of_mjlabs(folder: Path) -> Path:
    """A checkpoint of mjlab's own velocity task in ``folder``, which is returned."""
    cfg = load_env_cfg(VELOCITY_TASK)
    cfg.scene.num_envs = 1
    untrained = TrainingEnv(ManagerBasedRlEnv(cfg, "cpu"))
    agent = dataclasses.asdict(load_rl_cfg(VELOCITY_TASK))
    MjlabOnPolicyRunner(untrained, agent, device="cpu").save(str(folder / "model_1.pt"))
    return folder


def test_a_policy_of_another_generator_or_robot_is_refused(robots: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no exported policy"):
        read_card(tmp_path)
    shutil.copy(BUNDLED_POLICY / "policy.onnx", tmp_path)
    card = read_card(BUNDLED_POLICY)
    for changes, message in (
        ({"action_scale": (1.0,) * 29, "lead_s": (0.0,) * 29}, "another action_scale, lead_s than"),
        ({"observation": card.observation[:-1]}, "another observation than"),
        ({"dof_upper": (*card.dof_upper[:-1], 9.0)}, "another dof_upper than"),
        ({"engine_sha256": "0" * 64}, "another engine_sha256 than"),
    ):
        changed = dataclasses.replace(card, **changes)  # pyright: ignore[reportArgumentType]
        (tmp_path / "policy.json").write_text(json.dumps(dataclasses.asdict(changed)))
        with pytest.raises(EngineError, match=message):
            load_policy(tmp_path, robots)
    with pytest.raises(EngineError, match="another checkpoint"):
        Controller(tmp_path, deployable_engine())


@pytest.mark.slow
def test_a_training_begins_with_the_networks_of_another_policy(
    robots: RslRlVecEnvWrapper, tmp_path: Path, generator: torch.Generator
) -> None:
    def runner() -> ResidualRunner:
        return ResidualRunner(robots, dataclasses.asdict(make_rl_cfg()), device="cpu")

    def values_of(of: ResidualRunner, name: str) -> list[torch.Tensor]:
        return list(getattr(of.alg, name).state_dict().values())

    observations = TensorDict({"actor": torch.randn(5, 212, generator=generator)}, [5])
    counter = robots.unwrapped.common_step_counter
    try:
        first, second, third = runner(), runner(), runner()
        start_from(first, BUNDLED_POLICY, 30)
        told = load_policy(BUNDLED_POLICY, robots)(observations)
        torch.testing.assert_close(first.get_inference_policy("cpu")(observations), told, atol=1e-4, rtol=1e-4)
        assert first.current_learning_iteration == 30 and robots.unwrapped.common_step_counter == 30 * 24
        first.save(str(tmp_path / "model_29.pt"))
        start_from(second, tmp_path, 7)
        for name in ("actor", "critic"):
            assert all(map(torch.equal, values_of(first, name), values_of(second, name)))
        assert second.current_learning_iteration == 7
        saved = torch.load(tmp_path / "model_29.pt", weights_only=True)
        del saved["critic_state_dict"]["mlp.0.weight"]  # another task's critic
        torch.save(saved, tmp_path / "model_30.pt")
        critic = [value.clone() for value in values_of(third, "critic")]
        start_from(third, tmp_path, 7)
        assert all(map(torch.equal, values_of(first, "actor"), values_of(third, "actor")))
        assert all(map(torch.equal, critic, values_of(third, "critic")))
    finally:
        robots.unwrapped.common_step_counter = counter
    sees_less = dataclasses.replace(read_card(BUNDLED_POLICY), observation=read_card(BUNDLED_POLICY).observation[:-1])
    shutil.copytree(BUNDLED_POLICY, tmp_path / "less")
    (tmp_path / "less" / "policy.json").write_text(json.dumps(dataclasses.asdict(sees_less)))
    with pytest.raises(EngineError, match="another observation"):
        start_from(runner(), tmp_path / "less", 0)


def test_a_checkpoint_of_another_task_is_refused(robots: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    path = tmp_path / "model_3.pt"
    ResidualRunner(robots, dataclasses.asdict(make_rl_cfg()), device="cpu").save(str(path))
    load_policy(path, robots)
    saved = torch.load(path, weights_only=True)
    weights = saved["actor_state_dict"]
    first = next(name for name, values in weights.items() if values.dim() == 2)
    observes_less = {**saved, "actor_state_dict": {**weights, first: weights[first][:, 1:]}}
    for other in (observes_less, {name: value for name, value in saved.items() if name != "infos"}):
        torch.save(other, path)
        with pytest.raises(EngineError, match="no checkpoint of this task"):
            load_policy(path, robots)


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("where", [[], ["--warp"]], ids=["plain", "warp"])
def test_play_draws_it(where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_trajectories(monkeypatch)
    out = tmp_path / "play.gif"
    given = ["--engine", str(deployable_engine()), "--out", str(out), "--seconds", "0.08", "--frames-per-picture", "2"]
    assert play.main([*given, *where, "--commands", *map(str, (*STAND, *FORWARD))]) == 0
    with Image.open(out) as animation:
        assert isinstance(animation, GifImageFile)
        assert (animation.n_frames, animation.info["duration"]) == (4, 40)
        pictures = [np.asarray(picture.convert("RGB"), dtype=int) for picture in ImageSequence.Iterator(animation)]
    assert count_frames_and_secs(str(out.with_suffix(".mp4")))[0] == 4
    red, green, blue = np.moveaxis(pictures[0], 2, 0)
    height, width = red.shape
    reference = (green > red + 40) & (green > blue + 40)
    rows, columns = np.nonzero(reference[: height * 3 // 4])
    assert len(rows) > 1500 and np.ptp(rows) > height / 3  # it is large, and
    robot = (np.ptp(pictures[0], axis=2) < 20) & (
        green > 120
    )  # so is the robot, to the right of it: left in the picture
    assert np.median(columns) > width / 2 and robot[height // 5 : height // 2, : width // 2].sum() > 1500
    assert (blue[:10] > red[:10] + 40).mean() > 0.9  # a sky
    assert all((before != after).any() for before, after in zip(pictures, pictures[1:], strict=False))


def test_a_film_that_is_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    class Interrupted:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise KeyboardInterrupt

    (tmp_path / "play.mp4").write_bytes(b"old")
    pictures = [Image.new("RGB", (64, 48)), Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        save_mp4(pictures, tmp_path / "play.mp4", 0.08)  # pyright: ignore[reportArgumentType]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    said = save_mp4(pictures[:1], tmp_path / "play.mp4", 0.08)  # pyright: ignore[reportArgumentType]
    assert said.startswith("1 pictures") and count_frames_and_secs(str(tmp_path / "play.mp4"))[0] == 1


def test_captions() -> None:
    said = [caption(command, command) for command in (STAND, (0.8, 0.0, -0.5), (0.0, 0.4, 0.0))]
    assert said == ["stand", "0.8 m/s, turn -0.5 rad/s", "0.0 m/s, +0.4 m/s to the left"]
    assert caption((1.4, 0.0, 0.0), (2.0, 0.0, 0.0)) == "1.4 m/s (asked: 2.0 m/s)"


def test_what_the_deployed_loop_cannot_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--engine", str(deployable_engine())]
    (tmp_path / "model_3.pt").write_bytes(b"")
    assert play.main([*given, "--backend", "torch"]) == 2
    assert "leave it out, or add --warp" in capsys.readouterr().err
    with pytest.raises(EngineError, match="export_checkpoint --policy .*model_3.pt"):
        exported_policy(tmp_path / "model_3.pt")
    shutil.copytree(BUNDLED_POLICY, tmp_path / "policy")
    assert exported_policy(tmp_path) == tmp_path / "policy"
