"""A training in its processes: one on a CPU or a GPU, one for each GPU of this machine, or those that torchrun started
on one machine or several."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from mjlab.envs import ManagerBasedRlEnvCfg
from mjlab.rl import RslRlOnPolicyRunnerCfg
from mjlab.utils.gpu import select_gpus
from mjlab.utils.os import dump_yaml
from mjlab.utils.torch import configure_torch_backends

from cmg_gym.captured import TrainingEnv, make_env
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.learning.start_from import resume_from, start_from
from cmg_runtime import EngineError


@dataclass(frozen=True)
class Training:
    """What is trained, and on what.

    Attributes:
        env: of each process; its seed is set from the agent's.
        agent: PPO; every process takes the seed that follows the last one's.
        logs: the run's folder is made below it, in one of the agent's ``experiment_name``.
        gpus: processes that :func:`launch` starts, a GPU each; 0 trains on the CPU. Of processes that are started
            already it only says whether they have a GPU each.
        captured: as :func:`cmg_gym.captured.make_env` takes it.
        checkpoint: what to go on from; None begins anew. Every process reads it.
        policy, iteration: whose networks to begin with, and the iteration from which to count then; None for new ones.
    """

    env: ManagerBasedRlEnvCfg
    agent: RslRlOnPolicyRunnerCfg
    logs: Path
    gpus: int
    captured: bool | None = None
    checkpoint: Path | None = None
    policy: Path | None = None
    iteration: int = 0


@dataclass(frozen=True)
class Process:
    """Which of the processes that train together this one is.

    Attributes:
        rank: among all of them; 0 is the one that writes.
        local_rank: among those of this machine; it is the index of its GPU.
        world_size: how many there are.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1


def started_process() -> Process | None:
    """What torchrun, or another launcher that speaks its language, says of this process; None where none started it.

    Raises:
        EngineError: it says what is no number.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not all(name in os.environ for name in names):
        return None
    for name in names:
        if not os.environ[name].isdecimal():
            raise EngineError(
                f"{name} is {os.environ[name]!r}; expected a number, as torchrun sets it, or none of {names}"
            )
    return Process(*(int(os.environ[name]) for name in names))


def launch(training: Training) -> None:
    """Train, and wait for the end.

    Raises:
        Exception: what ended one of the processes; the others are ended with it.
    """
    folder = training.logs.resolve() / training.agent.experiment_name / _run_name(training.agent)
    if started_process() is not None:
        run_training(training, folder)
        return
    selected, count = select_gpus(list(range(training.gpus)) or None)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, selected or ()))
    if count > 1:
        _start_processes(count, training, folder)
    else:
        run_training(training, folder)


def run_training(training: Training, folder: Path) -> None:
    """Train in this process, alone or with the others that there are."""
    process = started_process() or Process()
    device = f"cuda:{process.local_rank}" if training.gpus else "cpu"
    if training.gpus:
        torch.cuda.set_device(device)
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(process.local_rank)
    configure_torch_backends()
    seed = training.agent.seed + process.rank
    agent, env_cfg = replace(training.agent, seed=seed), replace(training.env, seed=seed)
    env = TrainingEnv(make_env(env_cfg, device, training.captured), agent.clip_actions)
    writes = process.rank == 0
    print(f"Training on {device}, process {process.rank + 1} of {process.world_size}, seed {seed}", flush=True)
    agent_cfg = asdict(agent)  # the runner puts into it what no file can hold
    if writes:
        print(f"Writing to {folder}", flush=True)
        dump_yaml(folder / "params" / "env.yaml", asdict(env_cfg))
        dump_yaml(folder / "params" / "agent.yaml", agent_cfg)
    runner = ResidualRunner(env, agent_cfg, str(folder) if writes else None, device)
    runner.add_git_repo_to_log(__file__)
    if training.checkpoint is not None:
        resume_from(runner, training.checkpoint)
    elif training.policy is not None:
        start_from(runner, training.policy, training.iteration)
    runner.learn(agent.max_iterations, init_at_random_ep_len=True)
    env.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run_name(agent: RslRlOnPolicyRunnerCfg) -> str:
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return f"{time}_{agent.run_name}" if agent.run_name else time


def _start_processes(count: int, training: Training, folder: Path) -> None:
    import torchrunx

    logging.basicConfig(level=logging.INFO)  # what the processes print arrives as log messages
    os.environ.setdefault("TORCHRUNX_LOG_DIR", str(folder / "torchrunx"))
    torchrunx.Launcher(
        hostnames=["localhost"],
        workers_per_host=count,
        backend=None,  # rsl_rl lets them meet
        copy_env_vars=(*torchrunx.DEFAULT_ENV_VARS_FOR_COPY, "MUJOCO*"),
    ).run(run_training, training, folder)
