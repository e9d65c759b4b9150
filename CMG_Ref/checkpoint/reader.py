"""A checkpoint's file -> its parameters, sizes and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.checkpoint.parameters import Weights, read_sizes, read_weights
from CMG_Ref.checkpoint.stats import card_range, find_stats_file, load_data_file, read_stats, stats_of
from CMG_Ref.files.torch_files import read_pt, read_start
from CMG_Ref.module import CMG
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.compiled import CARD_FILE
from cmg_runtime.folder.manifest import CommandRange, Sizes
from cmg_runtime.folder.manifest import Stats as PlainStats


@dataclass(frozen=True)
class TrainedCMG:
    """What a checkpoint holds.

    Attributes:
        path: its file.
        content: all that is in the file.
        weights: the parameters, and where they lay.
        sizes: shapes of the network, which its parameters have.
        stats: normalisation, as plain numbers.
        data_path: the file that was named for stats or that they came from; None where they lay in the checkpoint.
        data_content: all that is in that file.
        stats_inside: whether the checkpoint has stats of its own.
    """

    path: Path
    content: dict[str, Any]
    weights: Weights
    sizes: Sizes
    stats: PlainStats
    data_path: Path | None
    data_content: Any
    stats_inside: bool


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


def read_checkpoint(path: Path, data: Path | None = None) -> TrainedCMG:
    """Read a checkpoint and its stats.

    Args:
        path: a ``torch.save`` file; ``read_weights`` says where its parameters may lie.
        data: where the stats are, if not in the checkpoint: ``cmg_training_data.pt``, another checkpoint, or a
            ``.yaml`` file. None looks beside the checkpoint for the names in ``STATS_FILES``.

    Raises:
        ValueError: one line saying which file cannot be used and why.
    """
    content = read_pt(path)
    weights = read_weights(content, path)
    sizes = read_sizes(weights.state_dict, path)
    inside = content.get("stats")
    if inside is None and data is None:
        data = find_stats_file(path)
    dims = sizes.motion_dim, sizes.command_dim
    stats = read_stats(inside, *dims, path) if inside is not None else None
    data_content = None
    if data is not None:
        data_content = load_data_file(data)
        given = read_stats(stats_of(data_content), *dims, data)
        if stats is not None and stats != given:
            raise ValueError(
                f"{data} has other stats than those inside {path}; leave out --data to use the checkpoint's own"
            )
        stats = given
    assert stats is not None
    return TrainedCMG(path, content, weights, sizes, stats, data, data_content, inside is not None)


def usable_range(trained: TrainedCMG) -> CommandRange:
    """The commands that a checkpoint is good for: as ``card.json`` beside it says, else the range of its stats.

    Raises:
        ValueError: a card that cannot be read.
    """
    path = trained.path.with_name(CARD_FILE)
    if path.exists():
        read_start(path, "JSON")
        try:
            card = typed_json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as JSON ({' '.join(str(error).split())})") from None
        given = card_range(card, trained.stats, path) if isinstance(card, dict) else None
        if given is not None:
            return given
    return CommandRange(trained.stats.command_min, trained.stats.command_max, "stats")


def reference_model(state_dict: dict[str, torch.Tensor], sizes: Sizes) -> CMG:
    """The PyTorch model with these parameters, in float32."""
    model = CMG(
        sizes.motion_dim,
        sizes.command_dim,
        sizes.hidden_dim,
        sizes.num_experts,
        sizes.num_layers,
        sizes.gating_hidden_dim,
    )
    model.load_state_dict(state_dict)
    return model


def as_reference(
    trained: TrainedCMG, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CMG, Stats]:
    """The reference model and its normalisation, on this device and in this float type."""
    values = {
        name: torch.as_tensor(np.asarray(getattr(trained.stats, name)), dtype=dtype, device=device)
        for name in Stats.__annotations__
    }
    return reference_model(trained.weights.state_dict, trained.sizes).to(device, dtype).eval(), Stats(**values)
