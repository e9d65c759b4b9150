"""Two processes that train together, against one that sees all their samples."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from rsl_rl.algorithms import PPO
from tensordict import TensorDict

from ppo_case import CAPTURED, OBS_DIMS, PLAIN, make_ppo

NUM_PROCESSES = 2
NUM_ENVS, NUM_STEPS, NUM_ROLLOUTS = 7, 5, 3
RECORDED = ("actions", "values", "actions_log_prob", "returns")

Rollout = dict[str, torch.Tensor]


def make_one(name: str, num_envs: int, rank: int | None = None, device: str = "cpu") -> PPO:
    """One step by plain gradient descent, in which no rounding is blown up."""
    world = None if rank is None else {"global_rank": rank, "local_rank": rank, "world_size": NUM_PROCESSES}
    once = {"optimizer": "sgd", "learning_rate": 0.05, "num_learning_epochs": 1, "num_mini_batches": 1}
    # Clipped gradients would all be of one length.
    return make_ppo(name, num_envs, NUM_STEPS, device, world, max_grad_norm=1e3, **once)


def roll_out(algorithm: PPO, generator: torch.Generator, offset: float) -> Rollout:
    """Fill the storage with robots whose observations and rewards lie about ``offset``; returns a copy on the CPU."""

    def draw(*shape: int) -> torch.Tensor:
        return offset + (1.0 + offset) * torch.randn(*shape, generator=generator)

    def observe() -> TensorDict:
        drawn = {name: draw(NUM_ENVS, size) for name, size in OBS_DIMS.items()}
        return TensorDict(drawn, [NUM_ENVS]).to(algorithm.device)

    seen: list[TensorDict] = []
    with torch.inference_mode():
        observations = observe()
        for _ in range(NUM_STEPS):
            algorithm.act(observations)
            observations = observe()
            seen.append(observations)
            rewards = draw(NUM_ENVS).to(algorithm.device)
            dones = (torch.rand(NUM_ENVS, generator=generator) < 0.1).to(algorithm.device)
            algorithm.process_env_step(observations, rewards, dones, {})
        algorithm.compute_returns(observations)
    storage = algorithm.storage
    assert storage.distribution_params is not None
    rollout = {name: getattr(storage, name).clone() for name in RECORDED}
    rollout |= {f"observations/{name}": storage.observations[name].clone() for name in OBS_DIMS}
    rollout |= {f"distribution/{i}": value.clone() for i, value in enumerate(storage.distribution_params)}
    rollout |= {f"seen/{name}": torch.cat([step[name] for step in seen]) for name in OBS_DIMS}
    return {name: value.cpu() for name, value in rollout.items()}


def train_process(rank: int, folder: Path, seed: int, name: str, on_gpus: bool) -> None:
    device = f"cuda:{rank}" if on_gpus else "cpu"
    if on_gpus:
        torch.cuda.set_device(rank)
    torch.set_num_threads(1)
    meeting = {"init_method": f"file://{folder / 'meeting'}", "rank": rank, "world_size": NUM_PROCESSES}
    torch.distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=timedelta(minutes=2), **meeting)
    torch.manual_seed(seed + rank)
    generator = torch.Generator().manual_seed(seed + rank)
    algorithm = make_one(name, NUM_ENVS, rank, device)
    record = []
    for _ in range(NUM_ROLLOUTS):
        rollout = roll_out(algorithm, generator, offset=float(rank))
        algorithm.update()
        record.append((rollout, copy.deepcopy(algorithm.save()), algorithm.learning_rate))
    torch.save(record, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def update_on(
    algorithm: PPO, rollouts: list[Rollout], statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Update with the robots of all ``rollouts`` beside each other, normalised by ``statistics`` (mean, variance)."""
    storage = algorithm.storage
    joined = {name: torch.cat([rollout[name] for rollout in rollouts], dim=1) for name in rollouts[0]}
    for name in RECORDED:
        getattr(storage, name).copy_(joined[name])
    advantages = (joined["returns"] - joined["values"]).double()
    storage.advantages.copy_((advantages - advantages.mean()) / advantages.std())
    for name in OBS_DIMS:
        storage.observations[name].copy_(joined[f"observations/{name}"])
        normalizer = getattr(algorithm, name).obs_normalizer
        normalizer._mean, normalizer._var = (value.float().unsqueeze(0) for value in statistics[name])
        normalizer._std = normalizer._var.sqrt()
    storage.distribution_params = (joined["distribution/0"], joined["distribution/1"])
    algorithm.update()


NO_TWO = "needs two CUDA devices: `pytest -m gpu` where there are"
TWO_GPUS = (pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < NUM_PROCESSES, reason=NO_TWO))


@pytest.mark.parametrize("name", [PLAIN, CAPTURED], ids=["plain", "captured"])
@pytest.mark.parametrize("on_gpus", [False, pytest.param(True, marks=TWO_GPUS)], ids=["cpu", "gpus"])
def test_two_processes_learn_what_one_learns_of_all_their_samples(
    tmp_path: Path, seed: int, name: str, on_gpus: bool
) -> None:
    method = "spawn" if on_gpus else "fork"  # a new process takes half a minute to import what this one has
    given = (tmp_path, seed, name, on_gpus)
    torch.multiprocessing.start_processes(train_process, given, NUM_PROCESSES, start_method=method)  # pyright: ignore
    files = [tmp_path / f"{rank}.pt" for rank in range(NUM_PROCESSES)]
    records = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    one = make_one(PLAIN, NUM_PROCESSES * NUM_ENVS)
    seen = {name: torch.empty(0, size, dtype=torch.float64) for name, size in OBS_DIMS.items()}
    for together in zip(*records, strict=True):
        rollouts, saved, rates = map(list, zip(*together, strict=True))
        for name in OBS_DIMS:
            seen[name] = torch.cat([seen[name], *(rollout[f"seen/{name}"].double() for rollout in rollouts)])
        statistics = {name: (value.mean(dim=0), value.var(dim=0, correction=0)) for name, value in seen.items()}
        update_on(one, rollouts, statistics)
        assert rates == pytest.approx([one.learning_rate] * NUM_PROCESSES, rel=1e-6)  # sent round as float32
        for name in OBS_DIMS:
            expected = one.save()[f"{name}_state_dict"]
            del expected["obs_normalizer.count"]  # of a process's own samples
            for process in saved:
                state = process[f"{name}_state_dict"]
                assert state.pop("obs_normalizer.count") == len(seen[name]) // NUM_PROCESSES
                torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-6)
            first, *others = (process[f"{name}_state_dict"] for process in saved)
            for other in others:
                torch.testing.assert_close(other, first, rtol=0, atol=0)
