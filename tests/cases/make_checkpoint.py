"""Fresh random checkpoints of any size, in every form that users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from CMG_Ref.module import CMG

FORMS = ("full", "bare+data", "bare+yaml")


class MadeCheckpoint(NamedTuple):
    """A checkpoint on disk and what was put into it."""

    path: Path
    data: Path | None
    model: CMG
    stats: dict[str, Any]


def make_checkpoint(
    folder: Path,
    form: str = "full",
    *,
    num_joints: int = 29,
    command_dim: int = 3,
    hidden_dim: int = 64,
    num_experts: int = 4,
    num_layers: int = 3,
    gating_hidden_dim: int | None = None,
    gain: float = 0.8,
    seed: int = 0,
) -> MadeCheckpoint:
    """Write ``folder/cmg_final.pt`` and, for the bare forms, the data file that has its stats.

    Args:
        folder: made if it is not there.
        form: "full": a dict with weights, stats and what a trainer adds; "bare+data": a bare state dict and
            ``train/cmg_training_data.pt``; "bare+yaml": a bare state dict and ``train/stats.yaml``. The data
            files do not lie beside the checkpoint, so they have to be named.
        gain: growth of the largest inputs in a frame (normalised units). Below 1 rollouts stay bounded and calm;
            above, they may grow or turn chaotic.
        seed: of weights and stats.
    """
    generator = torch.Generator().manual_seed(seed)
    model = CMG(2 * num_joints, command_dim, hidden_dim, num_experts, num_layers, gating_hidden_dim)
    _fill(model, gain, generator)
    stats = make_stats(num_joints, command_dim, seed)
    path, data = save_checkpoint(folder, model.state_dict(), stats, form)
    return MadeCheckpoint(path, data, model, stats)


def make_stats(num_joints: int, command_dim: int, seed: int) -> dict[str, Any]:
    """Stats as a dataset would give them: positions within a radian, velocities several times wider."""
    rng = np.random.default_rng(seed)

    def uniform(low: float, high: float, count: int) -> np.ndarray:
        return rng.uniform(low, high, count).astype(np.float32)

    return {
        "motion_mean": np.concatenate([uniform(-0.6, 0.6, num_joints), uniform(-0.05, 0.05, num_joints)]),
        "motion_std": np.concatenate([uniform(0.1, 0.4, num_joints), uniform(0.3, 3.0, num_joints)]),
        "command_min": uniform(-1.5, -0.5, command_dim),
        "command_max": uniform(0.5, 2.0, command_dim),
        "num_joints": num_joints,
        "motion_dim": 2 * num_joints,
        "command_dim": command_dim,
    }


def make_sample(stats: dict[str, Any], rng: np.random.Generator, frames: int = 100) -> dict[str, np.ndarray]:
    """A sample of a data file, spread as the stats say; an empty one for stats that were spoiled on purpose."""
    try:
        noise = rng.standard_normal((frames + 1, stats["motion_dim"]))
        motion = stats["motion_mean"] + stats["motion_std"] * noise
        command = rng.uniform(stats["command_min"], stats["command_max"], (frames, stats["command_dim"]))
    except (TypeError, ValueError, OverflowError):
        return {}
    with np.errstate(over="ignore"):
        return {"motion": motion.astype(np.float32), "command": command.astype(np.float32)}


def save_checkpoint(folder: Path, state_dict: Any, stats: dict[str, Any], form: str) -> tuple[Path, Path | None]:
    """Write weights and stats in the given form; the paths of the checkpoint and of its data file, if any."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cmg_final.pt"
    if form == "full":
        torch.save({"model_state_dict": state_dict, "stats": stats, "epoch": 3, "loss": np.float64(0.25)}, path)
        return path, None
    torch.save(state_dict, path)
    (folder / "train").mkdir(exist_ok=True)
    if form == "bare+data":
        data = folder / "train" / "cmg_training_data.pt"
        rng = np.random.default_rng(len(state_dict))
        torch.save({"samples": [make_sample(stats, rng) for _ in range(3)], "stats": stats}, data)
    elif form == "bare+yaml":
        data = folder / "train" / "stats.yaml"
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in stats.items()}
        data.write_text(yaml.safe_dump(plain))
    else:
        raise ValueError(f"unknown form {form!r}; expected one of {FORMS}")
    return path, data


@torch.no_grad()
def _fill(model: CMG, gain: float, generator: torch.Generator) -> None:
    """Random weights; the last layer is then scaled so that inputs, small or large, grow by ``gain`` at most."""
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[0] if "expert_weights" in name else parameter.shape[-1]
        scale = 0.1 if "bias" in name else fan_in**-0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    motion = torch.randn(256, model.motion_dim, generator=generator)
    command = 2 * torch.rand(256, model.command_dim, generator=generator) - 1
    growth = max(float(model(r * motion, command).norm() / (r * motion).norm()) for r in (1.0, 3.0, 10.0))
    for parameter in model.layers[-1].parameters():
        parameter.mul_(gain / growth)
