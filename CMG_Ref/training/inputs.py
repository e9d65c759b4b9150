"""What a training starts from: the samples of a data file, and a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from CMG_Ref.checkpoint.parameters import read_sizes, read_weights
from CMG_Ref.checkpoint.stats import read_stats
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.module import CMG
from CMG_Ref.training import resume
from CMG_Ref.training.config import TrainConfig
from CMG_Ref.training.symmetry import MirrorSymmetry


def read_data(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A data file's content and its joint names (none in files that other tools made).

    Raises:
        ValueError: unreadable, without samples or stats, or names that do not fit the stats.
    """
    data = read_pt(path)
    if not isinstance(data, dict) or not data.get("samples") or "stats" not in data:
        raise ValueError(f"{path}: holds no samples with stats; make it with python -m CMG_Ref.dataloader.dataset")
    with one_line(f"{path}: its samples are not motion [T + 1, D] and command [T, C]; make it anew"):
        motion_dim, command_dim = (data["samples"][0][key].shape[1] for key in ("motion", "command"))
    read_stats(data["stats"], motion_dim, command_dim, path)
    stats = {**data["stats"], "num_joints": motion_dim // 2, "motion_dim": motion_dim, "command_dim": command_dim}
    joint_names = tuple(data.get("joint_names", ()))
    if joint_names and len(joint_names) != motion_dim // 2:
        raise ValueError(
            f"{path}: {len(joint_names)} joint names, expected {motion_dim // 2} as its motion has; make it anew"
        )
    return {**data, "stats": stats}, joint_names


def initial_model(config: TrainConfig, stats: dict[str, Any], joint_names: tuple[str, ...]) -> CMG:
    """The model that training starts from: fresh weights, or those of ``config.init``."""
    model = CMG(stats["motion_dim"], stats["command_dim"], config.hidden_dim, config.num_experts, config.num_layers)
    if config.init is not None:
        content = read_pt(config.init)
        weights = read_weights(content, config.init)
        differing = resume.differing_sizes(read_sizes(weights.state_dict, config.init), config, stats)
        if differing:
            raise ValueError(f"{config.init}: its weights do not fit ({differing}); give its sizes as options")
        print(f"{config.init}: {weights.note}")
        model.load_state_dict(weights.state_dict)
    elif config.symmetric_part > 0:
        MirrorSymmetry(model, joint_names).initialise_(model)
    return model


@contextlib.contextmanager
def one_line(complaint: str) -> Iterator[None]:
    """Turns what loading a saved state raises when it does not fit into a ``ValueError`` of one line."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{complaint} ({' '.join(str(error).split())[:300]})") from None
