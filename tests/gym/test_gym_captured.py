"""The captured step: the same as mjlab's, with graphs that repeat what was recorded on the same memory."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.envs.mdp import dr
from mjlab.managers import CurriculumTermCfg, EventTermCfg, ObservationTermCfg, RewardTermCfg, SceneEntityCfg

from captured_case import ROBOTS, beside_each_other, close, recorded, walk_alike
from cmg_gym.captured import CapturedEnv, TrainingEnv
from cmg_gym.mdp.reference_command import reference
from cmg_runtime import EngineError
from gym_case import g1_engine, make_cfg

pytestmark = pytest.mark.xdist_group("gym")

CASES = pytest.mark.parametrize(
    ("standing", "mode"),
    [
        pytest.param(False, "realtime", id="hanging"),
        pytest.param(False, "pregenerated", id="hanging, pregenerated"),
        pytest.param(True, "realtime", id="standing"),
    ],
)


@pytest.mark.slow
@CASES
def test_a_captured_step_is_mjlabs_step(seed: int, standing: bool, mode: str) -> None:
    beside_each_other(recorded, "cpu", seed, 60, standing, cmg_mode=mode)


@pytest.mark.slow
def test_captured_robots_walk_as_mjlabs_do(seed: int) -> None:
    walk_alike(recorded, "cpu", seed, robots=24, steps=40)


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
@CASES
def test_a_captured_step_is_mjlabs_step_on_a_gpu(seed: int, standing: bool, mode: str) -> None:
    beside_each_other(on_a_gpu, "cuda:0", seed, 500, standing, cmg_mode=mode)


@pytest.mark.gpu
def test_captured_robots_walk_as_mjlabs_do_on_a_gpu(seed: int) -> None:
    walk_alike(on_a_gpu, "cuda:0", seed, robots=1024, steps=200)


def on_a_gpu(cfg: ManagerBasedRlEnvCfg) -> CapturedEnv:
    return CapturedEnv(cfg, "cuda:0")


class never_the_same(waits):
    """A term that gives the device other numbers at every call."""

    def __call__(self, env: ManagerBasedRlEnv) -> torch.Tensor:
        self.calls += self.steady
        return torch.tensor([float(self.calls), 1.0], device=env.device)[:1].expand(env.num_envs)

    steady = 0


@pytest.mark.slow
def test_constants_that_are_new_at_every_capture_are_refused(seed: int) -> None:
    cfg = make_cfg(g1_engine()[0], ROBOTS, seed, play=False)
    cfg.rewards["never"] = RewardTermCfg(func=never_the_same, weight=1.0)
    env = recorded(cfg)
    vec = TrainingEnv(env)
    env.reward_manager.get_term_cfg("never").func.steady = 1  # pyright: ignore[reportAttributeAccessIssue]
    env.capture_again()
    with pytest.raises(EngineError, match="other numbers at every call; run it with --no-captured"):
        vec.step(torch.zeros(ROBOTS, env.action_manager.total_action_dim))
