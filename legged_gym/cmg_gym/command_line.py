"""What the command lines of this package share."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from mjlab.envs import ManagerBasedRlEnvCfg

from cmg_gym.captured import TrainingEnv, make_env
from cmg_gym.conditions import Conditions
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.learning.policies import Policy, load_policy, require_same_generator
from cmg_gym.mdp.reference_command import COMMAND_NAME, ReferenceCommandCfg
from cmg_gym.policy_card import read_card
from cmg_gym.robots import G1, robot_of
from CMG_Ref.command_line import require_seed
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.backends import BACKENDS
from cmg_runtime.device import resolve_device
from cmg_runtime.device.memory import require_memory
from cmg_runtime.inputs import require_choice

POLICIES = Path(__file__).resolve().parents[1] / "policies"

ROBOT_BYTES = 100_000
"""At least so many in the simulation; on a CPU 168 kB were measured for each of 1000."""

FLAT = Conditions()

MOST_SECONDS = 1e6
"""Of an episode, or of a command; twelve days."""


*_FIRST, _LAST = "auto", *reversed(BACKENDS)
BackendOption = Annotated[str, tyro.conf.arg(help=f"Of the generator: {', '.join(_FIRST)} or {_LAST}.")]
"""The option that names a backend."""


@dataclass(frozen=True)
class PolicyOptions:
    """Which policy, with which generator, where."""

    policy: Path | None = None
    """A checkpoint model_N.pt, a training run's folder, or an exported policy's folder; else the bundled one that was
    trained with the engine's generator."""
    engine: Path = G1.engine
    """The engine folder; the robot is the one with its joints."""
    backend: BackendOption = "auto"
    device: str = "cuda:0" if torch.cuda.is_available() else "cpu"
    captured: bool = False
    """On a GPU, step the training environment in CUDA graphs, as training does."""
    seed: int = 0


def policy_or_bundled(policy: Path | None, engine: Path) -> Path:
    """The policy that was asked for, or else the bundled one of the engine's generator.

    Raises:
        EngineError: no bundled policy was trained with it.
    """
    if policy is not None:
        return policy
    generator = read_manifest(engine).source["sha256"]
    for card in sorted(POLICIES.glob("*/policy.json")):
        if read_card(card.parent).engine_sha256 == generator:
            return card.parent
    raise EngineError(f"no bundled policy was trained with the generator of {engine}; give --policy")


def require_options(options: PolicyOptions) -> None:
    """Refuse a backend that there is none of, and a seed that is none. It asks nothing of the machine.

    Raises:
        EngineError: says which.
    """
    require_seed(options.seed)
    require_choice(options.backend, "backend", ("auto", *BACKENDS))


def require_room(num_envs: int, device: str) -> None:
    """Refuse more robots than any memory of this machine holds: a host gives what it does not have, and is killed.

    Raises:
        EngineError: says what is needed and what there is.
    """
    require_memory(ROBOT_BYTES * num_envs, resolve_device(device), f"a simulation of {num_envs} robots", "take fewer")


def require_commands(commands: Sequence[Sequence[float]]) -> None:
    """Refuse velocity commands that are missing or not finite.

    Raises:
        EngineError: says what they are.
    """
    if not commands or not all(math.isfinite(value) for command in commands for value in command):
        raise EngineError(f"--commands is {commands}; expected finite numbers, vx vy yaw of one or more commands")


def require_seconds(seconds: float) -> None:
    """Refuse a time that no number of steps takes.

    Raises:
        EngineError: says what it is.
    """
    if not 0 < seconds <= MOST_SECONDS:  # NaN is not
        raise EngineError(f"--seconds is {seconds:g}; expected a finite number above 0, at most {MOST_SECONDS:g}")


def reference_cfg(cfg: ManagerBasedRlEnvCfg) -> ReferenceCommandCfg:
    """The reference command's part of an environment's configuration."""
    reference = cfg.commands[COMMAND_NAME]
    assert isinstance(reference, ReferenceCommandCfg)
    return reference


def open_policy(
    options: PolicyOptions, num_envs: int, seconds: float, conditions: Conditions = FLAT
) -> tuple[TrainingEnv, Policy]:
    """The play environment with episodes of ``seconds``, and the policy in it.

    Raises:
        EngineError: an argument is wrong, or else the machine lacks what it takes. Building the environment takes a
            minute: both are told before.
    """
    require_options(options)
    policy = policy_or_bundled(options.policy, options.engine)
    require_same_generator(policy, read_manifest(options.engine))
    resolve_device(options.device)
    env = open_env(options, num_envs, seconds, conditions)
    return env, load_policy(policy, env)


def open_env(options: PolicyOptions, num_envs: int, seconds: float, conditions: Conditions = FLAT) -> TrainingEnv:
    """The play environment with episodes of ``seconds``."""
    require_room(num_envs, options.device)
    notice = f"Building the simulation of {num_envs} robots; kernels that were never compiled here take minutes."
    print(notice, file=sys.stderr, flush=True)
    robot = robot_of(read_manifest(options.engine))
    cfg = make_env_cfg(play=True, robot=robot)
    cfg.scene.num_envs = num_envs
    cfg.episode_length_s = seconds
    cfg.seed = options.seed
    reference = reference_cfg(cfg)
    reference.engine = str(options.engine)
    reference.cmg_backend = options.backend
    conditions.apply(cfg, robot)
    return TrainingEnv(make_env(cfg, options.device, None if options.captured else False))
