"""Of the section time-share: what a step of a training environment and an iteration of PPO take, as CUDA graphs, launch
by launch, and in mjlab's own velocity task. Importing it imports a simulator."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import MjlabOnPolicyRunner, RslRlOnPolicyRunnerCfg, RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg, load_runner_cls

from cmg_export.bench.results import TrainingSpeed
from cmg_export.bench.settings import Settings
from cmg_export.progress import stage
from cmg_export.timing import Samples, synchronise, wait_for
from cmg_gym.captured import TrainingEnv, make_env
from cmg_gym.command_line import policy_or_bundled, reference_cfg
from cmg_gym.curves import read_events
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.policies import Policy, load_policy
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.mdp.reference_command import COMMANDS_EVERY
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.robots import robot_of
from CMG_Ref.interrupts import raise_if_received
from cmg_runtime.errors import first_line

MJLABS_TASK = "Mjlab-Velocity-Flat-Unitree-G1"

END, COLLECTION, LEARNING = "Perf/total_fps", "Perf/collection_time", "Perf/learning_time"


@dataclass(frozen=True)
class Contender:
    """An environment, what walks in it, and what trains on it."""

    env: RslRlVecEnvWrapper
    policy: Policy
    runner: type[MjlabOnPolicyRunner]
    agent: RslRlOnPolicyRunnerCfg


def measure(settings: Settings, left_out: list[str]) -> tuple[TrainingSpeed, ...]:
    """Time the environments one after the other; the profiler, which slows launches down, comes when all are timed.

    Args:
        left_out: gets a line for each environment that does not run here.
    """
    timed: list[tuple[Contender, list[torch.Tensor], TrainingSpeed]] = []
    for name, build in _contenders(settings).items():
        try:
            with stage(f"training, {name}"):
                contender = build()
                actions, speed = _time(name, contender, settings)
            timed.append((contender, actions, speed))
        except Exception as error:  # any library's
            raise_if_received()
            synchronise(settings.device)  # where that fails too the device is lost
            left_out.append(f"training, {name}: {first_line(error)}")
    if settings.on_gpu:
        with stage("its kernels"):
            timed = [(made, acts, _with_kernels(made, acts, speed, settings)) for made, acts, speed in timed]
    else:
        left_out.append("training, captured: it takes a GPU")
    for contender, _, _ in timed:
        contender.env.close()
    return tuple(speed for _, _, speed in timed)


def open_training(settings: Settings, captured: bool) -> TrainingEnv:
    """The task's environment as in training.

    Raises:
        EngineError: its engine does not run here.
        ValueError: it cannot be captured.
    """
    cfg = make_env_cfg(robot=robot_of(settings.manifest))
    cfg.scene.num_envs, cfg.seed = settings.num_envs, settings.options.seed
    reference_cfg(cfg).engine = str(settings.options.engine)
    return TrainingEnv(make_env(cfg, str(settings.device), captured))


def policy_path(settings: Settings) -> Path:
    """The policy that walks in the task's environment."""
    return policy_or_bundled(settings.options.time_share.policy, settings.options.engine)


def _contenders(settings: Settings) -> dict[str, Callable[[], Contender]]:
    ways = {"eager": False, "captured": True} if settings.on_gpu else {"eager": False}
    ours = {name: lambda captured=captured: _ours(settings, captured) for name, captured in ways.items()}
    return {**ours, "mjlab's task": lambda: _mjlabs(settings)}


def _ours(settings: Settings, captured: bool) -> Contender:
    env = open_training(settings, captured)
    agent = make_rl_cfg(robot_of(settings.manifest))
    return Contender(env, load_policy(policy_path(settings), env), ResidualRunner, agent)


def _mjlabs(settings: Settings) -> Contender:
    cfg, agent = load_env_cfg(MJLABS_TASK), load_rl_cfg(MJLABS_TASK)
    assert isinstance(agent, RslRlOnPolicyRunnerCfg)
    cfg.scene.num_envs, cfg.seed = settings.num_envs, settings.options.seed
    agent.logger, agent.upload_model = "tensorboard", False
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg, str(settings.device)))
    standing = torch.zeros(env.num_envs, env.num_actions, device=env.device)  # there is no policy of it here
    return Contender(env, lambda _: standing, load_runner_cls(MJLABS_TASK) or MjlabOnPolicyRunner, agent)


def _time(name: str, contender: Contender, settings: Settings) -> tuple[list[torch.Tensor], TrainingSpeed]:
    """The actions of the last round of commands, and what it takes."""
    samples, resets, actions = _time_steps(contender, settings)
    iterations = max(2, settings.calls(settings.options.time_share.iterations))
    whole, collection, learning = _time_iterations(contender, iterations)
    steps = contender.agent.num_steps_per_env * contender.env.num_envs
    return actions, TrainingSpeed(name, samples.timing(), resets, whole, collection, learning, steps / whole)


@torch.inference_mode()  # as rollouts
def _time_steps(contender: Contender, settings: Settings) -> tuple[Samples, float, list[torch.Tensor]]:
    env, share, samples = contender.env, settings.options.time_share, Samples()
    observations, _ = env.reset()
    # As in the midst of a training: episodes do not end together.
    env.episode_length_buf = torch.randint_like(env.episode_length_buf, int(env.max_episode_length))
    actions: list[torch.Tensor] = []
    resets = 0
    warm_up, steps = (whole_rounds(settings.calls(count)) for count in (share.warm_up, share.steps))
    for index in range(warm_up + steps):
        actions = [*actions[1 - COMMANDS_EVERY :], contender.policy(observations)]
        step = lambda actions=actions[-1]: env.step(actions)  # noqa: E731
        (observations, _, dones, _), returned, finished = wait_for(step, settings.device)
        if index >= warm_up:
            samples.wall.append(finished)
            samples.call.append(returned)
            resets += int(dones.sum())
    return samples, resets / steps, actions


def whole_rounds(steps: int) -> int:
    """At least so many, from one passing on of commands to another."""
    return -(-steps // COMMANDS_EVERY) * COMMANDS_EVERY


def _time_iterations(contender: Contender, count: int) -> tuple[float, float, float]:
    """Train from scratch: s an iteration, from the end of one to the end of the next, and of collecting and learning.

    Medians of the second half of ``count``: the first one captures, and everything is allocated in the first ones.
    """
    with tempfile.TemporaryDirectory() as logs, contextlib.redirect_stdout(io.StringIO()):
        runner = contender.runner(contender.env, asdict(contender.agent), logs, str(contender.env.device))
        runner.learn(count, init_at_random_ep_len=True)
        ends, collection, learning = (list(curve.values()) for curve in read_events(logs, END, COLLECTION, LEARNING))
    walls = [after - before for (_, before), (_, after) in zip(ends, ends[1:], strict=False)]
    return (
        median(walls[len(walls) // 2 :]),
        median(value for value, _ in collection[count // 2 :]),
        median(value for value, _ in learning[count // 2 :]),
    )


@torch.inference_mode()
def _with_kernels(
    contender: Contender, actions: list[torch.Tensor], speed: TrainingSpeed, settings: Settings
) -> TrainingSpeed:
    """With the number of kernels of a step, copies included, and what they take by the GPU's clock."""
    from torch.profiler import ProfilerActivity, profile

    contender.env.reset()
    found = []
    for _ in range(2):  # what comes first is to find the profiler awake
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for action in actions:
                contender.env.step(action)
            synchronise(settings.device)
        found = [event for event in profiler.events() or () if event.device_type.name == "CUDA"]
    milliseconds = 1e-3 * sum(event.time_range.elapsed_us() for event in found)
    return replace(speed, kernels=len(found) / len(actions), kernel_ms=milliseconds / len(actions))
