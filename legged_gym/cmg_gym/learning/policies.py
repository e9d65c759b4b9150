"""Trained policies, as something that maps observations to actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mjlab.rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from cmg_gym.learning.export import describe
from cmg_gym.learning.resume import read_trained_with, require_generator
from cmg_gym.learning.runner import ResidualRunner, checkpoints
from cmg_gym.mdp.reference_command import reference
from cmg_gym.policy_card import PolicyCard, read_card
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.robots import robot_of
from cmg_runtime import EngineError
from cmg_runtime.errors import first_line
from cmg_runtime.folder.manifest import Manifest

Policy = Callable[[TensorDict], torch.Tensor]
"""Observations of all environments -> actions [num_envs, num_joints]."""


def find_policy(path: str | Path) -> Path:
    """The file that ``path`` stands for: an exported policy's ``policy.onnx``, else a checkpoint."""
    exported = Path(path) / "policy.onnx"
    return exported if exported.is_file() else find_checkpoint(path)


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint ``model_N.pt``, or the newest in a run's folder.

    Raises:
        EngineError: it is neither.
    """
    path = Path(path)
    if path.is_dir() and checkpoints(path):
        return checkpoints(path)[-1]
    if path.suffix != ".pt" or not path.is_file():
        raise EngineError(f"{path} is neither a checkpoint, nor a run with one, nor an exported policy's folder")
    return path


def require_same_generator(path: str | Path, manifest: Manifest) -> None:
    """Refuse a policy that was trained with another generator than an engine's. An older checkpoint does not say.

    Args:
        path: as :func:`load_policy` takes it.
        manifest: of the engine.

    Raises:
        EngineError: there is no policy, or it is another generator's.
    """
    file = find_policy(path)
    if file.name == "policy.onnx":
        card = read_card(file.parent)
        require_generator(file, {"generator": card.engine_sha256}, manifest, f"expected --engine of {card.engine!r}")
    else:
        require_generator(file, read_trained_with(file), manifest, "give its --engine")


def load_policy(path: str | Path, env: RslRlVecEnvWrapper) -> Policy:
    """A policy for ``env``.

    Args:
        path: a checkpoint ``model_N.pt``; a run's folder, for its newest checkpoint; or an exported policy's folder,
            which runs in ONNX Runtime on the CPU.

    Raises:
        EngineError: it is none of these, or an exported policy of another generator, robot or task.
    """
    file = find_policy(path)
    if file.name == "policy.onnx":
        require_same(read_card(file.parent), describe(env.unwrapped, iterations=0))
        return _from_onnx(file)
    return load_runner(file, env).get_inference_policy(str(env.device))


def require_same(card: PolicyCard, here: PolicyCard) -> None:
    """Refuse a policy where anything that it depends on differs from what is ``here``, but for rounding.

    Raises:
        EngineError: names what differs.
    """
    differ = [
        field.name
        for field in fields(PolicyCard)
        if field.name not in ("iterations", "engine")
        and not alike(getattr(card, field.name), getattr(here, field.name))
    ]
    if differ:
        raise EngineError(
            f"the policy was trained with another {', '.join(differ)} than there is here; "
            f"expected engine {card.engine!r}, checkpoint {card.engine_sha256[:12]}"
        )


def alike(one: Any, other: Any) -> bool:
    """Whether two values of a field of ``policy.json`` are the same, but for rounding."""
    if isinstance(one, tuple) and one and isinstance(one[0], float):
        return len(one) == len(other) and np.allclose(one, other, rtol=1e-4, atol=1e-6)
    return one == other


def load_runner(path: str | Path, env: RslRlVecEnvWrapper) -> ResidualRunner:
    """A runner with the policy of a checkpoint ``model_N.pt``, or of the newest in a run's folder.

    Raises:
        EngineError: it is neither, or another task's.
    """
    path = find_checkpoint(path)
    runner = ResidualRunner(
        env, asdict(make_rl_cfg(robot_of(reference(env.unwrapped).engine.manifest))), device=str(env.device)
    )
    try:
        runner.load(str(path), load_cfg={"actor": True, "iteration": True}, map_location=str(env.device))
    except (RuntimeError, KeyError, UnpicklingError) as error:  # of weights that do not fit
        raise EngineError(f"{path} is no checkpoint of this task ({first_line(error)})") from None
    return runner


def _from_onnx(path: Path) -> Policy:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def policy(observations: TensorDict) -> torch.Tensor:
        actor = observations["actor"]
        return torch.from_numpy(session.run(None, {name: actor.cpu().numpy()})[0]).to(actor.device)

    return policy
