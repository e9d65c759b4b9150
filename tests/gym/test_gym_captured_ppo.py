"""PPO that does not wait for the device, against rsl_rl's own: the same rollouts, weights, rates, logs, checkpoints."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from rsl_rl.algorithms import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensordict import TensorDict

from cmg_gym.learning import runner
from cmg_gym.learning.captured_ppo import CapturedPPO
from cmg_gym.learning.recording import Recorder
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_runtime import EngineError
from cmg_runtime.device.graphs import WARM_UPS, Piece, run_eagerly
from ppo_case import CAPTURED, NUM_ACTIONS, OBS_DIMS, RSL_RL, make_ppo

NUM_ENVS, NUM_STEPS, NUM_ITERATIONS = 16, 6, 3
STORED = ("actions", "values", "actions_log_prob", "rewards", "dones", "returns", "advantages")

Step = tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]

on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """Adam blows rounding up where gradients are small."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Robots:
    """An environment of random numbers: what rsl_rl's runner asks of one, and what a captured one has beside that."""

    def __init__(self, seed: int, device: str, captured: bool = False) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = NUM_ENVS, NUM_ACTIONS, 20
        self.device, self.captured, self.cfg = device, captured, {}
        self.unwrapped = SimpleNamespace(common_step_counter=0)
        self.episode_length_buf = torch.zeros(NUM_ENVS)
        self._generator = torch.Generator().manual_seed(seed)
        self._offset = self._draw(1)
        self._observations = self._observe()

    def step(self, actions: torch.Tensor) -> Step:
        """Rewards that the actions have a part in, so that there is something to learn."""
        rewards = self._draw(NUM_ENVS) - actions.square().sum(dim=1)
        fell, over = (torch.rand(2, NUM_ENVS, generator=self._generator) < 0.1).to(self.device)
        self._observations = self._observe()
        return self._observations, rewards, (fell | over).long(), {"time_outs": over, "log": {}}

    def get_observations(self) -> TensorDict:
        return self._observations

    def episode_statistics(self) -> dict[str, float]:
        return {"Metrics/something": 0.25}

    def _observe(self) -> TensorDict:
        return TensorDict(
            {name: self._offset + self._draw(NUM_ENVS, size) for name, size in OBS_DIMS.items()}, [NUM_ENVS]
        )

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.device)


def make(name: str, device: str) -> PPO:
    return make_ppo(name, NUM_ENVS, NUM_STEPS, device, entropy_coef=0.005, num_learning_epochs=3)


@torch.inference_mode()
def roll_out(robots: Robots, captured: PPO, plain: PPO | None) -> None:
    """Fill the storage of both; the plain one takes the other's actions for what it has drawn."""
    observations = robots.get_observations()
    for _ in range(NUM_STEPS):
        actions = captured.act(observations)
        if plain is not None:
            drawn = actions.clone()
            plain._raw_actor.distribution.sample = lambda drawn=drawn: drawn  # pyright: ignore
            plain.act(observations)
        observations, rewards, dones, extras = robots.step(actions)
        for algorithm in filter(None, (captured, plain)):
            algorithm.process_env_step(observations, rewards, dones, extras)
    for algorithm in filter(None, (captured, plain)):
        algorithm.compute_returns(observations)


def train_alike(robots: Robots, captured: PPO, plain: PPO, seed: int) -> None:
    """An iteration of both, compared."""
    roll_out(robots, captured, plain)
    for name in STORED:
        torch.testing.assert_close(getattr(captured.storage, name), getattr(plain.storage, name))
    losses = []
    for algorithm in (captured, plain):
        torch.manual_seed(seed)  # of the mini-batches
        losses.append(algorithm.update())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert captured.learning_rate == pytest.approx(plain.learning_rate, rel=1e-6)
    saved, expected = captured.save(), plain.save()
    for model in ("actor_state_dict", "critic_state_dict"):
        torch.testing.assert_close(saved[model], expected[model], rtol=1e-5, atol=1e-7)


class Rehearsal:
    """Runs work before it is recorded, as often as a GPU's recorder does."""

    def record(self, pieces: list[Piece]) -> Callable[[], None]:
        for _ in range(WARM_UPS):
            run_eagerly(pieces)
        return torch.inference_mode(False)(torch.no_grad()(lambda: run_eagerly(pieces)))


@pytest.mark.parametrize("rehearsed", [False, True], ids=["", "rehearsed"])
@on_both
def test_it_learns_what_rsl_rl_learns_and_goes_on_from_its_checkpoints(
    seed: int, device: str, rehearsed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rehearsed:  # recording leaves no trace
        monkeypatch.setattr(Recorder, "__init__", lambda self, _: setattr(self, "_recorder", Rehearsal()))
    robots, captured, plain = Robots(seed, device), make(CAPTURED, device), make(RSL_RL, device)
    for iteration in range(NUM_ITERATIONS):
        train_alike(robots, captured, plain, seed + iteration)
    mean, std = cast("tuple[torch.Tensor, torch.Tensor]", captured.storage.distribution_params)
    drawn = (captured.storage.actions - mean) / std
    assert abs(float(drawn.mean())) < 0.3 and abs(float(drawn.std()) - 1.0) < 0.3
    for name, algorithm in (("captured", captured), ("plain", plain)):
        torch.save(algorithm.save(), tmp_path / name)
    saved = read(tmp_path / "captured"), read(tmp_path / "plain")
    options, expected = (state["optimizer_state_dict"]["param_groups"] for state in saved)
    assert options == [{**expected[0], "lr": pytest.approx(expected[0]["lr"], rel=1e-6)}]
    for new_captured in (make(CAPTURED, device), captured):  # one that has not trained yet, and one that has
        new_captured.load(read(tmp_path / "plain"), None, strict=True)
        new_plain = make(RSL_RL, device)
        new_plain.load(read(tmp_path / "captured"), None, strict=True)
        train_alike(robots, new_captured, new_plain, seed)


def read(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


OPTIONS = [
    {"schedule": "fixed"},
    {"desired_kl": 1e-7},  # always exceeded: the learning rate falls
    {"desired_kl": 1.0},  # never reached: it rises
    {"use_clipped_value_loss": False},
    {"optimizer": "adamw"},
    {"normalize_advantage_per_mini_batch": True, "max_grad_norm": 0.1},
]


@on_both
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_options_mean_what_they_do_in_rsl_rl(seed: int, device: str, options: dict[str, Any]) -> None:
    captured, plain = (make_ppo(name, NUM_ENVS, NUM_STEPS, device, **options) for name in (CAPTURED, RSL_RL))
    robots, before = Robots(seed, device), captured.learning_rate
    for iteration in range(2):
        train_alike(robots, captured, plain, seed + iteration)
    if "desired_kl" in options:
        falls = options["desired_kl"] < 0.01
        assert captured.learning_rate < before if falls else captured.learning_rate > before


@on_both
def test_nan_is_told_as_rsl_rl_tells_it(seed: int, device: str, rng: np.random.Generator) -> None:
    robots, captured = Robots(seed, device), make(CAPTURED, device)
    roll_out(robots, captured, None)
    captured.update()
    group, step = str(rng.choice([*OBS_DIMS, "rewards"])), int(rng.integers(NUM_STEPS))
    observations = robots.get_observations()
    with pytest.raises(ValueError, match=f"{group}.* contain"), torch.inference_mode():
        for number in range(NUM_STEPS):
            observations, rewards, dones, extras = robots.step(captured.act(observations))
            broken = rewards if group == "rewards" else observations[group]
            if number == step:
                broken[rng.integers(NUM_ENVS)] = float("nan")
            captured.process_env_step(observations, rewards, dones, extras)


def test_what_it_does_not_know_is_refused() -> None:
    symmetry = {"data_augmentation_func": lambda **_: None}
    with pytest.raises(EngineError, match="nor symmetry; train with --no-captured"):
        make_ppo(CAPTURED, NUM_ENVS, NUM_STEPS, symmetry_cfg=symmetry)


@on_both
def test_it_is_logged_as_rsl_rl_logs_it(
    seed: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seeds for both, so the same episodes; what the environment logs comes once an iteration."""
    monkeypatch.setattr(runner, "trained_with", lambda *_: {})
    monkeypatch.setattr(runner, "export_policy", lambda *_: None)
    logged = []
    for captured in (False, True):
        folder = tmp_path / str(captured)
        cfg = asdict(make_rl_cfg())
        cfg["num_steps_per_env"] = NUM_STEPS
        cfg["actor"]["hidden_dims"] = cfg["critic"]["hidden_dims"] = (16,)
        torch.manual_seed(seed)
        training = runner.ResidualRunner(Robots(seed, device, captured), cfg, str(folder), device)  # pyright: ignore
        assert isinstance(training.alg, CapturedPPO) == captured
        act, seeds = training.alg.act, itertools.count(seed)

        def seeded(obs: TensorDict, act: Any = act, seeds: Any = seeds) -> torch.Tensor:
            torch.manual_seed(next(seeds))  # rsl_rl draws actions in its updates, too, and throws them away
            return act(obs)

        training.alg.act = seeded
        if isinstance(training.alg, CapturedPPO):
            assert training.alg.rollout.actions.shape == (NUM_ENVS, NUM_ACTIONS)  # recorded; that draws, too
        training.learn(NUM_ITERATIONS)
        events = EventAccumulator(str(folder)).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("Perf/") and not tag.endswith("/time")]
        logged.append({tag: [event.value for event in events.Scalars(tag)] for tag in tags})
        assert (folder / f"model_{NUM_ITERATIONS - 1}.pt").is_file()
    plain, of_captured = logged
    assert of_captured.pop("Metrics/something") == [0.25] * NUM_ITERATIONS
    # The plain one logs the spread that the last mini-batch saw.
    std = of_captured.pop("Policy/mean_std"), plain.pop("Policy/mean_std")
    assert std[0] == pytest.approx(std[1], rel=0.1)
    assert of_captured.keys() == plain.keys() and len(plain["Train/mean_reward"]) == NUM_ITERATIONS
    for tag, values in plain.items():
        assert of_captured[tag] == pytest.approx(values, rel=1e-4, abs=1e-6), tag


@pytest.mark.gpu
def test_the_host_waits_twice_an_iteration(seed: int) -> None:
    robots, captured = Robots(seed, "cpu"), make(CAPTURED, "cuda")
    steps = [robots.step(torch.zeros(NUM_ENVS, NUM_ACTIONS)) for _ in range(NUM_STEPS)]
    steps = [(o.to("cuda"), r.cuda(), d.cuda(), {"time_outs": e["time_outs"].cuda()}) for o, r, d, e in steps]

    def iteration() -> None:
        with torch.inference_mode():
            for observations, rewards, dones, extras in steps:
                captured.act(observations.to("cuda"))  # as rsl_rl's loop
                captured.process_env_step(observations, rewards, dones, extras)
            captured.compute_returns(observations)
        captured.update()

    iteration()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            iteration()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in told if "called a synchronizing" in str(warning.message)]
    assert len(waits) == 2, waits
