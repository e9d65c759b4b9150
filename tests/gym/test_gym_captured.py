"""The captured step: the same as mjlab's, with graphs that repeat what was recorded on the same memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.envs.mdp import dr
from mjlab.managers import CurriculumTermCfg, EventTermCfg, ObservationTermCfg, RewardTermCfg, SceneEntityCfg
from mjlab.utils.lab_api.math import quat_from_euler_xyz
from mujoco import MjSpec  # pyright: ignore[reportAttributeAccessIssue]

from cmg_gym.captured import CapturedEnv, TrainingEnv
from cmg_gym.captured.pieces import flat
from cmg_gym.mdp.reference_command import reference
from gym_case import g1_engine, make_cfg
from recorded_graph import RecordedGraphs

pytestmark = pytest.mark.xdist_group("gym")

ROBOTS = 6


def same_draws(cfg: ManagerBasedRlEnvCfg, floating: bool) -> ManagerBasedRlEnvCfg:
    """The configuration without what draws as often as something happens: captured, it draws for every robot."""
    reference_cfg: Any = cfg.commands["reference"]
    reference_cfg.resampling_time_range = (0.3, 0.3)
    reference_cfg.start_noise = None
    cfg.events = {}
    cfg.curriculum = {}
    # Which of several contacts a sensor shows is not the same from run to run on a GPU.
    del cfg.rewards["self_collisions"]
    for term in cfg.observations["actor"].terms.values():
        term.noise = None
    cfg.episode_length_s = 0.9
    cfg.scene.spec_fn = without_contacts if floating else None
    return cfg


def without_contacts(spec: MjSpec) -> None:
    """Limbs that touch each other make chaos of the last bit."""
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0


def seeded_draws(env: ManagerBasedRlEnv, seed: int) -> None:
    """Next episodes are the same in environments of other sizes and other random numbers before."""
    term = reference(env)
    source = env.unwrapped
    generator = torch.Generator().manual_seed(seed)
    states, sampler = term.states, term.sampler
    count = ROBOTS + 1

    def integers(low: int, high: int, rows: int) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)[:rows].to(source.device)

    def draw(rows: int) -> torch.Tensor:
        low, high = term.engine.command_range
        return low + (high - low) * torch.rand(count, 3, generator=generator)[:rows].to(source.device)

    def headings() -> torch.Tensor:
        zero = torch.zeros(count)
        yaw = 2 * math.pi * torch.rand(count, generator=generator)
        return quat_from_euler_xyz(zero, zero, yaw)[: source.num_envs].to(source.device)

    term._draw_headings = headings
    states._integers, sampler.draw = integers, draw  # pyright: ignore[reportAttributeAccessIssue]


def beside_each_other(
    make: Callable[[ManagerBasedRlEnvCfg], CapturedEnv],
    device: str,
    seed: int,
    steps: int,
    gravity: bool,
    **reference_settings: Any,
) -> None:
    """The same actions in mjlab's environment and in ours."""
    cfg = same_draws(
        make_cfg(g1_engine()[0], ROBOTS, seed, play=False, gravity=gravity, **reference_settings), floating=not gravity
    )
    plain, captured = ManagerBasedRlEnv(copy.deepcopy(cfg), device), make(cfg)
    vec = TrainingEnv(captured)
    with torch.inference_mode():
        for env in (plain, captured):
            seeded_draws(env, seed)
            reference(env)._until_change = 0
            reference(env).draw_episodes()
            env.reset()
            torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            action = 0.05 * torch.randn(ROBOTS, plain.action_manager.total_action_dim, generator=generator).to(device)
            expected = plain.step(action)
            observations, rewards, dones, extras = vec.step(action)
            where = f"step {step}"
            close(rewards, expected[1], where)
            assert torch.equal(dones.bool(), expected[2] | expected[3]), where
            assert torch.equal(extras["time_outs"], expected[3]), where
            for mine, theirs in zip(flat(observations.to_dict()), flat(expected[0]), strict=True):
                close(mine, theirs, where)
            for index, name in enumerate(plain.reward_manager.active_terms):
                ours = captured.reward_manager._step_reward[:ROBOTS, index]
                close(ours, plain.reward_manager._step_reward[:, index], f"{where}, {name}")


def close(mine: torch.Tensor, theirs: torch.Tensor, where: str) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4, msg=lambda text: f"{where}: {text}")


def recorded(cfg: ManagerBasedRlEnvCfg) -> CapturedEnv:
    return CapturedEnv(cfg, "cpu", graphs=RecordedGraphs())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["realtime", "pregenerated"])
def test_a_captured_step_is_mjlabs_step(seed: int, mode: str) -> None:
    beside_each_other(recorded, "cpu", seed, 60, gravity=False, cmg_mode=mode)


class waits:
    """A user's term that asks the device on the host, and one that counts in Python."""

    def __init__(self, cfg: RewardTermCfg, env: ManagerBasedRlEnv) -> None:
        self.calls = 0

    def __call__(self, env: ManagerBasedRlEnv) -> torch.Tensor:
        height = env.scene["robot"].data.root_link_pos_w[:, 2]
        return height + float(height.mean().item())


class counts(waits):
    def __call__(self, env: ManagerBasedRlEnv) -> torch.Tensor:
        self.calls += 1
        return torch.full((env.num_envs,), float(self.calls))


class collects(waits):
    def __init__(self, cfg: RewardTermCfg, env: ManagerBasedRlEnv) -> None:
        self.seen = []

    def __call__(self, env: ManagerBasedRlEnv) -> torch.Tensor:
        self.seen.append(True)
        return torch.full((env.num_envs,), float(len(self.seen)))


class binds:
    """An event that waits, and gives others a new object in every step, and a new tensor in every third one."""

    def __init__(self, cfg: EventTermCfg, env: ManagerBasedRlEnv) -> None:
        self.count = torch.zeros(1)
        self.box = SimpleNamespace(value=torch.zeros(env.num_envs))
        self.third = torch.zeros(env.num_envs)

    def __call__(self, env: ManagerBasedRlEnv, env_ids: None) -> None:
        self.count += 1
        number = self.count.item()
        self.box = SimpleNamespace(value=torch.full((env.num_envs,), number))
        if number % 3 == 0:
            self.third = torch.full((env.num_envs,), number)


def reads_the_box(env: ManagerBasedRlEnv) -> torch.Tensor:
    """100 times the third, and what is in the box."""
    event = env.event_manager.get_term_cfg("binds").func
    return 100 * event.third + event.box.value


def reads_the_counter(env: ManagerBasedRlEnv) -> torch.Tensor:
    return torch.full((env.num_envs,), float(env.common_step_counter))


@pytest.mark.slow
def test_what_cannot_be_captured_runs_between_graphs_and_is_named(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_cfg(g1_engine()[0], ROBOTS, seed, play=False)
    cfg.events["binds"] = EventTermCfg(func=binds, mode="step")
    for term in (reads_the_box, collects, waits, counts, reads_the_counter):
        cfg.rewards[term.__name__] = RewardTermCfg(func=term, weight=1.0)
    env = recorded(cfg)
    vec = TrainingEnv(env)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("captured step: ")]
    collected, *told, events = told
    assert "'collects'" in collected and "changes" in collected and "events of every step" in events
    assert [line.split("'")[1] for line in told] == ["waits", "counts", "reads_the_counter"], told
    assert "test_gym_captured.py" in told[0] and "changes" in told[1] and "common_step_counter" in told[2]
    event = env.event_manager.get_term_cfg("binds").func
    own = env.reward_manager.active_terms[-3:]
    step_rewards = []
    with torch.inference_mode():
        for _ in range(4):
            number = int(event.count)
            vec.step(torch.zeros(ROBOTS, env.action_manager.total_action_dim))
            now = float(env.reward_manager._step_reward[0, -5])
            assert now == pytest.approx(100 * (number - number % 3) + number)
            step_rewards.append([env.reward_manager._step_reward[0, -3 + place].item() for place in range(len(own))])
    first, second, third = step_rewards[1:]
    assert third[1] - second[1] == second[1] - first[1] == 1.0, "the term counts at every step"
    assert third[2] - second[2] == second[2] - first[2] == 1.0
    height = env.scene["robot"].data.root_link_pos_w[:, 2]
    assert abs(third[0] - 2 * float(height.mean())) < 0.2


def scaled(env: ManagerBasedRlEnv, scale: dict[str, float]) -> torch.Tensor:
    return torch.full((env.num_envs,), scale["all"])


@pytest.mark.slow
def test_settings_that_a_curriculum_changes_are_captured_again(seed: int) -> None:
    cfg = make_cfg(g1_engine()[0], ROBOTS, seed, play=False)
    cfg.rewards["scaled"] = RewardTermCfg(func=scaled, weight=1.0, params={"scale": {"all": 1.0}})
    env = recorded(cfg)
    vec = TrainingEnv(env)
    zero = torch.zeros(ROBOTS, env.action_manager.total_action_dim)
    alive = env.reward_manager.active_terms.index("alive")
    with torch.inference_mode():  # as PPO steps
        vec.step(zero)
        assert env.reward_manager._step_reward[0, alive] == 1.0
        env.reward_manager.get_term_cfg("alive").weight = 3.0
        vec.step(zero)
        assert env.reward_manager._step_reward[0, alive] == 3.0
        env.reward_manager.get_term_cfg("scaled").params["scale"]["all"] = 2.0
        vec.step(zero)
        assert env.reward_manager._step_reward[0, -1] == 2.0
        env.event_manager.get_term_cfg("push_robot").params["velocity_range"] = {"x": (5.0, 5.0)}
        env.event_manager._interval_term_time_left[0].zero_()
        vec.step(zero)
        assert bool((env.sim.data.qvel[:ROBOTS, 0] > 3.0).all()), "pushed as the changed parameter says"
        vec.step(zero)


class follows:
    """A term of the curriculum that works with the robots whose episodes end."""

    def __init__(self, cfg: CurriculumTermCfg, env: ManagerBasedRlEnv) -> None:
        self.asked: list[list[int]] = []
        self.reset_of: list[list[int]] = []

    def __call__(self, env: ManagerBasedRlEnv, env_ids: torch.Tensor | slice) -> torch.Tensor:
        self.asked.append(torch.arange(env.num_envs)[env_ids].tolist())
        return torch.zeros(())

    def reset(self, env_ids: torch.Tensor | slice) -> None:
        self.reset_of.append(torch.arange(ROBOTS + 1)[env_ids].tolist())


@pytest.mark.slow
def test_what_follows_episodes_that_end_is_told_which(seed: int) -> None:
    cfg = make_cfg(g1_engine()[0], ROBOTS, seed, play=False)
    cfg.curriculum["follows"] = CurriculumTermCfg(func=follows)
    joints = {"asset_cfg": SceneEntityCfg("robot"), "operation": "scale", "ranges": (0.5, 2.0)}
    cfg.events["armature"] = EventTermCfg(mode="reset", func=dr.dof_armature, params=joints)
    env = recorded(cfg)
    vec = TrainingEnv(env)
    zero = torch.zeros(ROBOTS, env.action_manager.total_action_dim)
    curriculum = env.curriculum_manager.get_term_cfg("follows").func  # pyright: ignore[reportAttributeAccessIssue]
    with torch.inference_mode():
        vec.step(zero)
        curriculum.asked.clear()
        curriculum.reset_of.clear()
        env.episode_length_buf = torch.where(torch.arange(ROBOTS + 1) % 2 == 1, 10**6, 1)
        before = env.sim.model.dof_invweight0[:ROBOTS, -1].clone()
        vec.step(zero)
        vec.step(zero)
    assert curriculum.asked == curriculum.reset_of == [[1, 3, 5]]
    changed = env.sim.model.dof_invweight0[:ROBOTS, -1] != before
    assert changed.tolist() == [False, True] * 3, "what MuJoCo derives from the armature"


@pytest.mark.slow
def test_graphs_follow_another_backend(seed: int) -> None:
    env = recorded(make_cfg(g1_engine()[0], ROBOTS, seed, play=False))
    vec, term = TrainingEnv(env), reference(env)
    zero = torch.zeros(ROBOTS, env.action_manager.total_action_dim)
    with torch.inference_mode():
        vec.step(zero)
        term.use_backend("torch")
        vec.reset()
        for _ in range(2):
            observations, _, _, _ = vec.step(zero)
            first = sum(math.prod(shape) for shape in env.observation_manager.group_obs_term_dim["actor"][:6])
            expected = env.observation_manager.get_term_cfg("actor", "reference_dof_pos")
            now = expected.func(env, **expected.params)[:ROBOTS]
            torch.testing.assert_close(observations["actor"][:, first : first + now.shape[1]], now)


def torques_without_nan(env: ManagerBasedRlEnv) -> torch.Tensor:
    return env.scene["robot"].data.qfrc_actuator.nan_to_num()


@pytest.mark.slow
def test_forces_that_are_observed_are_of_the_state_that_is_observed(seed: int) -> None:
    cfg = make_cfg(g1_engine()[0], ROBOTS, seed, play=False)
    cfg.observations["critic"].terms["torques"] = ObservationTermCfg(func=torques_without_nan)
    env = recorded(cfg)
    vec = TrainingEnv(env)
    with torch.inference_mode():
        for _ in range(2):
            observations, _, _, _ = vec.step(torch.zeros(ROBOTS, env.action_manager.total_action_dim))
        env.sim.forward()
        expected = torques_without_nan(env)[:ROBOTS]
    close(observations["critic"][:, -expected.shape[1] :], expected, "torques")


@pytest.mark.gpu
def test_a_captured_step_is_mjlabs_step_on_a_gpu(seed: int) -> None:
    beside_each_other(lambda cfg: CapturedEnv(cfg, "cuda:0"), "cuda:0", seed, 500, gravity=False)
