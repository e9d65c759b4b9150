"""What a checkpoint says of the training that wrote it, so that nobody goes on with another one by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg

from cmg_gym.mdp.reference_command import reference
from CMG_Ref.files.torch_files import read_start
from cmg_runtime import EngineError
from cmg_runtime.folder.manifest import Manifest

NAMES = {
    "gpus": "GPUs",
    "num_envs": "robots on each GPU",
    "mode": "mode of the reference",
    "delay_steps": "delay of targets",
}


def trained_with(env: ManagerBasedRlEnv, num_envs: int, gpus: int) -> dict[str, str | int]:
    """What goes into a checkpoint: the generator's hash, and the options that a resumed training may change.

    Args:
        num_envs: robots on each GPU; a captured environment has a spare one beside them.
        gpus: how many train together; 1 on a CPU.
    """
    term = reference(env)
    return {
        "generator": term.engine.manifest.source["sha256"],
        "gpus": gpus,
        "num_envs": num_envs,
        "mode": term.cfg.cmg_mode,
        "delay_steps": delay_steps(env.cfg),
    }


def delay_steps(cfg: ManagerBasedRlEnvCfg) -> int:
    """How many steps of physics joint targets may come late."""
    articulation = cfg.scene.entities["robot"].articulation
    assert articulation is not None
    return max(actuator.delay_max_lag for actuator in articulation.actuators)


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """What is in a checkpoint, on the CPU; nothing is unpickled but tensors and plain values.

    Raises:
        EngineError: it is none.
    """
    try:
        read_start(checkpoint)
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(saved["infos"] or {}, dict):
            raise ValueError(f"infos are a {type(saved['infos']).__name__}")
        return saved
    except Exception as error:  # of whatever a broken file makes torch raise
        reason = str(error).removeprefix(f"{checkpoint} ") if isinstance(error, ValueError) else type(error).__name__
        raise EngineError(f"{checkpoint} is no checkpoint of this task ({reason})") from None


def read_trained_with(checkpoint: Path) -> dict[str, Any]:
    """What :func:`trained_with` put into a checkpoint; older ones have nothing.

    Raises:
        EngineError: it is no checkpoint of this task.
    """
    found = (read_checkpoint(checkpoint)["infos"] or {}).get("trained_with", {})
    if not isinstance(found, dict) or not isinstance(found.get("generator", ""), str):
        raise EngineError(f"{checkpoint} is no checkpoint of this task (what it was trained with is not said)")
    return found


def require_generator(file: Path, saved: dict[str, Any], manifest: Manifest, advice: str) -> None:
    """Refuse what was trained with another generator than ``manifest``'s. Older checkpoints do not say.

    Args:
        file: what is refused.
        saved: as :func:`read_trained_with` gives it.
        manifest: of the engine that is to be used.
        advice: what to do instead, for the message.

    Raises:
        EngineError: it is another.
    """
    here = manifest.source["sha256"]
    before = saved.get("generator", here)
    if before != here:
        raise EngineError(
            f"{file} was trained with another generator ({before[:12]}) than {manifest.name}'s ({here[:12]}); {advice}"
        )


def changes(checkpoint: Path, manifest: Manifest, options: dict[str, str | int]) -> list[str]:
    """What differs in a training that goes on from ``checkpoint``, a line each. Older checkpoints do not say.

    Args:
        manifest: of the engine that is to be used.
        options: the values that are to be used, by the keys of :data:`NAMES`.

    Raises:
        EngineError: it is no checkpoint of this task, or was trained with another generator.
    """
    before = read_trained_with(checkpoint)
    require_generator(checkpoint, before, manifest, "give its --engine, or train without --resume")
    return [
        f"{what}: {options[key]}, before {before[key]}"
        for key, what in NAMES.items()
        if before.get(key, options[key]) != options[key]
    ]
