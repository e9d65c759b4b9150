"""PPO as the training configures it, for small robots that are only random numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict

from cmg_gym.rl_cfg import make_rl_cfg

PLAIN = make_rl_cfg().algorithm.class_name
CAPTURED = "cmg_gym.learning.captured_ppo:CapturedPPO"
RSL_RL = "rsl_rl.algorithms:PPO"

OBS_DIMS = {"actor": 6, "critic": 9}
NUM_ACTIONS = 3


def make_ppo(
    name: str, num_envs: int, num_steps: int, device: str = "cpu", world: dict | None = None, **options: Any
) -> PPO:
    """The algorithm of a class's name; one by the same options has the same weights, in every process.

    Args:
        world: rsl_rl's words for this process among others.
        options: of the algorithm.
    """
    model = {"class_name": "MLPModel", "hidden_dims": (16,), "obs_normalization": True}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.5, "std_type": "scalar"}
    ppo = {"class_name": name, **options}
    cfg = {"algorithm": ppo, "actor": {**model, "distribution_cfg": noise}, "critic": dict(model), "multi_gpu": world}
    cfg |= {"obs_groups": {"actor": ["actor"], "critic": ["critic"]}, "num_steps_per_env": num_steps}
    robots = SimpleNamespace(num_envs=num_envs, num_actions=NUM_ACTIONS)
    observations = TensorDict({name: torch.zeros(num_envs, size) for name, size in OBS_DIMS.items()}, [num_envs])
    kind: Any = resolve_callable(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        algorithm = kind.construct_algorithm(observations.to(device), robots, cfg, device)
    algorithm.train_mode()
    return algorithm
