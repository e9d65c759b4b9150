"""A captured environment beside mjlab's own: step by step where both draw the same, and by statistics where not."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.utils.lab_api.math import quat_from_euler_xyz
from mujoco import MjSpec  # pyright: ignore[reportAttributeAccessIssue]
from tensordict import TensorDict

from cmg_gym.captured import CapturedEnv, TrainingEnv
from cmg_gym.captured.pieces import OVERFLOWN
from cmg_gym.learning.policies import load_policy
from cmg_gym.mdp.command_stages import FULL_RANGE
from cmg_gym.mdp.reference_command import reference
from gym_case import BUNDLED_POLICY, g1_engine, make_cfg
from recorded_graph import RecordedGraphs

ROBOTS = 6

STANDARD_ERRORS = 5.0
"""By which means may differ. Some thirty are compared: one in 60 000 runs has one that does so by chance."""

CONTACTS = ("foot_contact", "foot_air_time", "foot_contact_forces")
"""Observations that mjlab makes of the state itself where an episode ends: see :class:`CapturedEnv`."""

Make = Callable[[ManagerBasedRlEnvCfg], CapturedEnv]


def recorded(cfg: ManagerBasedRlEnvCfg) -> CapturedEnv:
    """On a CPU, with graphs that repeat what was recorded."""
    return CapturedEnv(cfg, "cpu", graphs=RecordedGraphs())


def beside_each_other(make: Make, device: str, seed: int, steps: int, standing: bool, **settings: Any) -> None:
    """The same actions in mjlab's environment and in ours: states, and every term of observations, rewards,
    terminations, metrics and logs.

    Args:
        standing: on the ground, as the bundled policy lets them; else hanging in the air, under all kinds of commands,
            with random actions. What the ground makes of the last bit is more than 1e-4 now and then, and on a GPU the
            last bit is not the same from run to run: there, mjlab's environment differs from itself, too.
        settings: of the reference command.
    """
    cfg = _same_draws(make_cfg(g1_engine()[0], ROBOTS, seed, play=False, gravity=standing, **settings), standing)
    plain, captured = ManagerBasedRlEnv(copy.deepcopy(cfg), device), make(cfg)
    again = ManagerBasedRlEnv(copy.deepcopy(cfg), device) if standing and device != "cpu" else None
    vec = TrainingEnv(captured)
    differences, of_again = Differences(), Differences()
    policy = load_policy(BUNDLED_POLICY, RslRlVecEnvWrapper(plain)) if standing else None
    logged, logged_again, ended = defaultdict[str, float](float), defaultdict[str, float](float), 0
    with torch.inference_mode():
        for env in filter(None, (plain, captured, again)):
            _seeded_draws(env, seed, standing)
            reference(env)._until_change = 0
            reference(env).draw_episodes()
            env.reset()
            torch.manual_seed(seed)
        captured.episode_statistics()
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            if policy is None:
                action = 0.05 * torch.randn(ROBOTS, plain.action_manager.total_action_dim, generator=generator)
                action = action.to(device)
            else:
                action = policy(TensorDict(cast("dict[str, Any]", plain.obs_buf), [ROBOTS]))
            _, rewards, terminated, time_outs, extras = plain.step(action)
            _, our_rewards, dones, our_extras = vec.step(action)
            assert torch.equal(dones.bool(), terminated | time_outs), f"step {step}"
            assert torch.equal(our_extras["time_outs"], time_outs), f"step {step}"
            number = int(dones.sum())
            expected = {**_terms(plain), **_observations(plain), "reward": rewards}
            differences.add({**_terms(captured), **_observations(captured), "reward": our_rewards}, expected)
            if again is not None:
                log_again = again.step(action)[-1]["log"]
                of_again.add({**_terms(again), **_observations(again), "reward": again.reward_buf}, expected)
            if number:
                ended += number
                for name, value in extras["log"].items():
                    times = 1 if "Termination" in name else number
                    logged[name] += float(value) * times
                    logged_again[name] += float(value if again is None else log_again[name]) * times
    assert ended >= ROBOTS
    differences.require(None if again is None else of_again)
    statistics = captured.episode_statistics()
    assert statistics.pop(OVERFLOWN) == 0
    assert statistics.keys() == logged.keys(), statistics.keys() ^ logged.keys()
    for name, value in statistics.items():
        total, total_again = (log[name] / (1 if "Termination" in name else ended) for log in (logged, logged_again))
        allowed = 1e-4 + 1e-3 * abs(total) + STANDARD_ERRORS * abs(total - total_again)
        assert abs(value - total) <= allowed, (name, value, total, total_again)


class Differences:
    """How far each term of each robot's steps differs, relative where numbers are larger than 1."""

    def __init__(self) -> None:
        self._found: dict[str, list[torch.Tensor]] = defaultdict(list)  # [robots] of each step

    def add(self, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
        """Those of a step, in which every term has [robots, ...] numbers."""
        for name, mine in ours.items():
            expected = theirs[name].double()
            difference = (mine.double() - expected).abs() / (1 + expected.abs())
            self._found[name].append(difference.nan_to_num(nan=math.inf).reshape(ROBOTS, -1).amax(dim=1))

    def require(self, of_repeats: Differences | None) -> None:
        """None by more than 1e-4; or beside repeats, hardly more of them than there."""
        for name, found in self._found.items():
            differences = torch.stack(found)
            share, worst = float((differences > 1e-4).double().mean()), float(differences.max())
            if of_repeats is None:
                first = int((differences > 1e-4).any(dim=1).int().argmax())
                assert share == 0, f"{name} differs by up to {worst:.1e}, and by more than 1e-4 from step {first} on"
                continue
            among = float((torch.stack(of_repeats._found[name]) > 1e-4).double().mean())
            print(f"{name}: {share:.1%} differ by more than 1e-4, in repeats {among:.1%}; at most {worst:.1e}")
            assert share <= 0.02 + 2 * among, f"{name}: {share:.1%} differ by more than 1e-4, in repeats {among:.1%}"


def walk_alike(make: Make, device: str, seed: int, robots: int, steps: int) -> None:
    """The bundled policy walks in both, with everything random, each with random numbers of its own: means over robots
    of all rewards, terminations, and of how the command is followed."""
    cfg = make_cfg(g1_engine()[0], robots, seed, play=False, stages=FULL_RANGE, num_trajectories=max(32, robots))
    cfg.episode_length_s = min(1.5, steps * 0.02 / 2)
    one, other = (_walk(TrainingEnv(env), steps) for env in (ManagerBasedRlEnv(copy.deepcopy(cfg), device), make(cfg)))
    assert one.keys() == other.keys() and float(one["termination time_out"].mean()) * steps > 0.5
    for name, expected in one.items():
        ours = other[name]
        allowed = STANDARD_ERRORS * math.sqrt((float(ours.var()) + float(expected.var())) / robots)
        difference = abs(float(ours.mean()) - float(expected.mean()))
        assert difference <= allowed + 1e-6, (name, float(ours.mean()), float(expected.mean()), allowed)


def close(mine: torch.Tensor, theirs: torch.Tensor, where: str) -> None:
    """Within 1e-4; of booleans, equal."""
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4, msg=lambda text: f"{where}: {text}")


def _walk(vec: TrainingEnv, steps: int) -> dict[str, torch.Tensor]:
    """[robots] means over ``steps`` steps, in float64."""
    env, robots = vec.unwrapped, slice(vec.num_envs)
    totals: dict[str, Any] = defaultdict(float)
    with torch.inference_mode():
        policy, (observations, _) = load_policy(BUNDLED_POLICY, vec), vec.reset()
        for _ in range(steps):
            observations, rewards, dones, _ = vec.step(policy(observations))
            totals["rewards"] += rewards.double()
            totals["episodes that end"] += dones.double()
            totals["upright"] += env.scene["robot"].data.projected_gravity_b[robots, 2].double()
            for name, value in _terms(env).items():
                if name not in STATES:
                    totals[name] += value.double()
    return {name: total.cpu() / steps for name, total in totals.items()}


STATES = ("qpos", "qvel", "episode lengths", "reference")


def _terms(env: ManagerBasedRlEnv) -> dict[str, torch.Tensor]:
    """[robots, ...] by name: the state, and what each term of the last step gave."""
    robots = slice(getattr(env, "num_robots", env.num_envs))
    term = reference(env)
    found = {
        "qpos": env.sim.data.qpos[robots],
        "qvel": env.sim.data.qvel[robots],
        "episode lengths": env.episode_length_buf[robots],
        "reference": term.frames.dof_pos[robots],
    }
    for index, name in enumerate(env.reward_manager.active_terms):
        found[f"reward {name}"] = env.reward_manager._step_reward[robots, index]
    for name in env.termination_manager.active_terms:
        found[f"termination {name}"] = env.termination_manager.get_term(name)[robots]
    for name, values in term.metrics.items():
        found[f"metric {name}"] = values[robots]
    return found


def _observations(env: ManagerBasedRlEnv) -> dict[str, torch.Tensor]:
    """[robots, ...] by name: each term of what was observed last; of contacts only where no episode has ended."""
    manager, robots, found = env.observation_manager, slice(getattr(env, "num_robots", env.num_envs)), {}
    any_ended = bool((env.reset_terminated | env.reset_time_outs)[robots].any())
    for group, values in env.obs_buf.items():
        assert isinstance(values, torch.Tensor)
        widths = [math.prod(shape) for shape in manager.group_obs_term_dim[group]]
        for name, value in zip(manager.active_terms[group], values[robots].split(widths, dim=1), strict=True):
            if not (any_ended and name in CONTACTS):
                found[f"observation {group}/{name}"] = value
    return found


def _same_draws(cfg: ManagerBasedRlEnvCfg, standing: bool) -> ManagerBasedRlEnvCfg:
    """The configuration without what draws as often as something happens: captured, it draws for every robot."""
    reference_cfg: Any = cfg.commands["reference"]
    reference_cfg.resampling_time_range = (0.3, 0.3)
    reference_cfg.start_noise = None
    reference_cfg.standing_share = 1.0 if standing else 0.1
    cfg.events = {}
    cfg.curriculum = {}
    # Which of several contacts a sensor shows is not the same from run to run on a GPU.
    del cfg.rewards["self_collisions"]
    for term in cfg.observations["actor"].terms.values():
        term.noise = None
    cfg.episode_length_s = 0.9
    cfg.scene.env_spacing = 0.0  # else they stand elsewhere where there is a world more, and rounding is another
    cfg.scene.spec_fn = None if standing else _without_contacts
    return cfg


def _without_contacts(spec: MjSpec) -> None:
    """Limbs that touch each other make chaos of the last bit."""
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0


def _seeded_draws(env: ManagerBasedRlEnv, seed: int, standing: bool) -> None:
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
        share = torch.rand(count, 3, generator=generator)[:rows].to(source.device)
        return torch.zeros_like(share) if standing else low + (high - low) * share

    def headings() -> torch.Tensor:
        zero = torch.zeros(count)
        yaw = 2 * math.pi * torch.rand(count, generator=generator)
        return quat_from_euler_xyz(zero, zero, yaw)[: source.num_envs].to(source.device)

    term._draw_headings = headings
    states._integers, sampler.draw = integers, draw  # pyright: ignore[reportAttributeAccessIssue]
