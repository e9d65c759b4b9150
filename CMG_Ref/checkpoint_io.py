"""Reading and writing this package's own ``.pt`` files, without ever unpickling code."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.module import CMG


@dataclass(frozen=True)
class Stats:
    """Normalisation: motion ``(m - mean) / std``, command min-max to [-1, 1]. rad, rad/s; m/s, m/s, rad/s."""

    motion_mean: torch.Tensor
    motion_std: torch.Tensor
    command_min: torch.Tensor
    command_max: torch.Tensor

    def normalise_motion(self, motion: torch.Tensor) -> torch.Tensor:
        """Physical units to the network's."""
        return (motion - self.motion_mean) / self.motion_std

    def physical_motion(self, motion: torch.Tensor) -> torch.Tensor:
        """The network's units to rad and rad/s."""
        return motion * self.motion_std + self.motion_mean

    def normalise_command(self, command: torch.Tensor) -> torch.Tensor:
        """m/s, m/s, rad/s to [-1, 1] over the stats' range."""
        return (command - self.command_min) / (self.command_max - self.command_min) * 2 - 1


def numpy_types() -> list[Any]:
    """What pickled numpy arrays consist of: the only things besides tensors that these files may hold."""
    return [
        np.ndarray,
        np.dtype,
        np._core.multiarray._reconstruct,
        np._core.multiarray.scalar,
        *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")),
    ]


def read_pt(path: Path) -> Any:
    """Load a ``.pt`` file that holds tensors, numpy arrays and plain containers.

    Raises:
        ValueError: missing, damaged, or asking for any other type (nothing of it is run).
    """
    try:
        with torch.serialization.safe_globals(numpy_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); expected a .pt file of tensors and arrays") from None


def write_pt(path: Path, data: Any) -> None:
    """Write a ``.pt`` file beside its name, then rename, so that a reader never sees half of one."""
    partial = Path(f"{path}.partial")
    torch.save(data, partial)
    os.replace(partial, path)


def save_checkpoint(path: Path, model_state_dict: dict[str, Any], stats: dict[str, Any], **extra: Any) -> None:
    """Write a checkpoint as users have them: ``model_state_dict``, ``stats`` and whatever else is given."""
    cpu = {name: value.detach().cpu() for name, value in model_state_dict.items()}
    write_pt(path, {"model_state_dict": cpu, "stats": stats, **extra})


def load_reference(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, data_file: Path | None = None
) -> tuple[CMG, Stats]:
    """The reference model and its normalisation; sizes come from the tensors.

    Args:
        path: a checkpoint, or a bare ``state_dict``.
        device, dtype: where and in which float type both are returned.
        data_file: a ``cmg_training_data.pt`` whose stats are used instead of the checkpoint's.

    Raises:
        ValueError: unreadable, without stats, or not a CMG.
    """
    data = read_pt(path)
    try:
        state = data.get("model_state_dict", data)
        stats = (read_pt(data_file) if data_file else data)["stats"]
        experts = sum(name.startswith("layers.0.expert_biases.") for name in state)
        layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
        motion_dim = state[f"layers.{layers - 1}.expert_biases.0"].shape[0]
        input_dim, hidden_dim = state["layers.0.expert_weights.0"].shape
        gate_dim = state["gating.gating_network.0.bias"].shape[0]
        model = CMG(motion_dim, input_dim - motion_dim, hidden_dim, experts, layers, gate_dim)
        model.load_state_dict(state)
        values = {
            name: torch.as_tensor(np.asarray(stats[name]), dtype=dtype, device=device) for name in Stats.__annotations__
        }
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: not a CMG checkpoint with stats ({reason}); expected train.py's, or name the data file"
        ) from None
    return model.to(device, dtype).eval(), Stats(**values)
