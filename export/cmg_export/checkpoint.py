"""Read a trained checkpoint, in every form that users have them, without running any code in it.

A checkpoint is a ``torch.save`` file: a bare state dict, or a dict with ``model_state_dict`` and often
``stats``. Where it has no stats they come from a data file (``cmg_training_data.pt``, or YAML). All sizes
are read from the tensors. Beside the checkpoint there may be a ``card.json`` and a ``bank.npz``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmg_export.data_samples import check_samples
from cmg_export.errors import CheckpointError
from cmg_export.layout import read_sizes, read_state_dict
from cmg_export.safe_load import load_torch_file, load_yaml_file
from cmg_runtime import typed_json
from cmg_runtime.engine_cache import BANK_FILE, CARD_FILE, STATS_FILES
from cmg_runtime.manifest import CommandRange, Manifest, Sizes, Stats, file_sha256
from cmg_runtime.npz import load_arrays

SMALLEST_STD = 1e-6
"""rad or rad/s; trained checkpoints have 0.1 and more."""

FARTHEST_STATE = 100.0
"""Deviations from the mean; motion data stay within about 10. Parity takes a rollout past this for a diverged one."""


@dataclass(frozen=True)
class Card:
    """What ``card.json`` says about a checkpoint; every field may be missing from it.

    Attributes:
        name: what to call the engine.
        joint_names: one per joint, in the motion state's order.
        command_range: the commands the checkpoint is good for; within the range of its stats.
        default_dof_pos: [num_joints] standing pose, rad.
        license, attribution: of the checkpoint and the data it was trained on.
    """

    name: str | None = None
    joint_names: tuple[str, ...] | None = None
    command_range: CommandRange | None = None
    default_dof_pos: tuple[float, ...] | None = None
    license: str | None = None
    attribution: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and checked.

    Attributes:
        path: the checkpoint's file.
        state_dict: parameter name -> float32 tensor on the CPU, named and shaped as ``CMG_Ref.module.CMG``'s.
        sizes: shapes of the network.
        stats: normalisation.
        stats_from: "checkpoint", or the name of the file that they came from.
        card: what the card beside it says (empty without one).
        bank: [K, motion_dim] float32 motion states in physical units from the bank beside it, or None.
        sha256: hashes of everything read: "checkpoint", and where there is one "data", "card", "bank".
    """

    path: Path
    state_dict: dict[str, torch.Tensor]
    sizes: Sizes
    stats: Stats
    stats_from: str
    card: Card
    bank: np.ndarray | None
    sha256: dict[str, str]


def load_source(folder: Path, manifest: Manifest, path: Path, data: Path | None) -> Checkpoint:
    """The checkpoint at ``path``, which the engine in ``folder`` must have been made from.

    Raises:
        CheckpointError: it cannot be used, or the engine is another one's.
    """
    checkpoint = load_checkpoint(path, data)
    if checkpoint.sha256["checkpoint"] != manifest.source.get("sha256"):
        raise CheckpointError(
            f"{folder} was not made from {path} as it is now; "
            "name the checkpoint that it was made from, or build it again"
        )
    return checkpoint


def load_checkpoint(path: str | Path, data: str | Path | None = None) -> Checkpoint:
    """Read a checkpoint and what belongs to it.

    Args:
        path: a ``torch.save`` file.
        data: where the stats are, if not in the checkpoint: ``cmg_training_data.pt`` or a ``.yaml`` file.
            None looks beside the checkpoint for the names in ``STATS_FILES``.

    Raises:
        CheckpointError: one line saying which file cannot be used and why.
    """
    path = Path(path)
    content = load_torch_file(path)
    state_dict = read_state_dict(content, path)
    sizes = read_sizes(state_dict, path)
    sha256 = {"checkpoint": file_sha256(path)}

    data_path = Path(data) if data is not None else None
    inside = content.get("stats") if "model_state_dict" in content else None
    if inside is None and data_path is None:
        data_path = _find_stats_file(path)
    stats = _read_stats(inside, sizes, path) if inside is not None else None
    stats_from = "checkpoint"
    if data_path is not None:
        content = _load_data_file(data_path)
        given = _read_stats(_stats_of(content), sizes, data_path)
        check_samples(content, given, data_path)
        if stats is not None and stats != given:
            raise CheckpointError(
                f"{data_path} has other stats than those inside {path}; leave out --data to use the checkpoint's own"
            )
        sha256["data"] = file_sha256(data_path)
        if stats is None:
            stats, stats_from = given, data_path.name
    assert stats is not None

    card, bank = Card(), None
    card_path, bank_path = path.with_name(CARD_FILE), path.with_name(BANK_FILE)
    if card_path.exists():
        card = _read_card(card_path, sizes, stats)
        sha256["card"] = file_sha256(card_path)
    if bank_path.exists():
        bank = _read_bank(bank_path, stats)
        sha256["bank"] = file_sha256(bank_path)
    return Checkpoint(path, state_dict, sizes, stats, stats_from, card, bank, sha256)


def _find_stats_file(checkpoint: Path) -> Path:
    for name in STATS_FILES:
        if checkpoint.with_name(name).is_file():
            return checkpoint.with_name(name)
    raise CheckpointError(
        f"{checkpoint} has no stats inside and none of {', '.join(STATS_FILES)} lies beside it; "
        "name the data file with --data"
    )


def _load_data_file(path: Path) -> Any:
    return load_yaml_file(path) if path.suffix in (".yaml", ".yml") else load_torch_file(path)


def _stats_of(content: Any) -> Any:
    return content["stats"] if isinstance(content, dict) and "stats" in content else content


def _read_stats(stats: Any, sizes: Sizes, where: Path) -> Stats:
    if not isinstance(stats, dict):
        raise CheckpointError(f"{where}: stats are a {type(stats).__name__}; expected a mapping with motion_mean, ...")
    for key in ("num_joints", "motion_dim", "command_dim"):
        if key in stats and not _is_number(stats[key], getattr(sizes, key)):
            raise CheckpointError(
                f"{where}: stats are for {key} {typed_json.short(stats[key])}, the network has {getattr(sizes, key)}; "
                "expected the stats that the checkpoint was trained with"
            )
    mean = _vector(stats, "motion_mean", sizes.motion_dim, where)
    std = _vector(stats, "motion_std", sizes.motion_dim, where)
    low = _vector(stats, "command_min", sizes.command_dim, where)
    high = _vector(stats, "command_max", sizes.command_dim, where)
    for index, value in enumerate(std):
        if value < SMALLEST_STD:
            raise CheckpointError(
                f"{where}: motion_std[{index}] is {value:g}; expected every deviation to be {SMALLEST_STD:g} or more"
            )
    _check_range(low, high, "command_min", "command_max", where)
    return Stats(mean, std, low, high)


def _is_number(value: Any, expected: int) -> bool:
    """Lists are not looked into: shared ones can stand for more values than any memory holds."""
    return not isinstance(value, (list, tuple, dict)) and np.ndim(value) == 0 and bool(value == expected)


def _vector(values: dict[str, Any], key: str, length: int, where: Path) -> tuple[float, ...]:
    """A float32 vector of a mapping, as Python floats (which hold every float32 exactly)."""
    if key not in values:
        raise CheckpointError(f"{where}: {key} is missing; expected {length} numbers")
    given = values[key]
    if isinstance(given, (list, tuple)) and any(isinstance(value, (list, tuple, dict)) for value in given):
        raise CheckpointError(f"{where}: {key} has lists inside; expected {length} numbers")
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            vector = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{where}: {key} is not a list of numbers; expected {length}") from None
    if vector.shape != (length,):
        raise CheckpointError(f"{where}: {key} has shape {list(vector.shape)}; the network needs [{length}]")
    if not np.isfinite(vector).all():
        index = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise CheckpointError(f"{where}: {key}[{index}] is {vector[index]}; expected finite numbers")
    return tuple(vector.tolist())


def _check_range(low: tuple[float, ...], high: tuple[float, ...], low_key: str, high_key: str, where: Path) -> None:
    for index, (minimum, maximum) in enumerate(zip(low, high, strict=True)):
        if minimum >= maximum:
            raise CheckpointError(
                f"{where}: {low_key}[{index}] is {minimum:g} and {high_key}[{index}] is {maximum:g}; "
                "expected the minimum below the maximum"
            )


def _read_card(path: Path, sizes: Sizes, stats: Stats) -> Card:
    try:
        content = typed_json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected an object")
    texts = {key: content.get(key) for key in ("name", "license", "attribution")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{path}: {key} is {typed_json.short(text)}; expected a text")
    names = content.get("joint_names")
    if names is not None:
        if not isinstance(names, list) or len(names) != sizes.num_joints or len(set(map(str, names))) != len(names):
            raise CheckpointError(f"{path}: joint_names is not a list of {sizes.num_joints} different names")
        names = tuple(map(str, names))
    try:
        "".join(text for text in (*texts.values(), *(names or ())) if text).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path} has a text that is not valid Unicode; expected plain names") from None
    pose = None
    if content.get("default_dof_pos") is not None:
        pose = _vector(content, "default_dof_pos", sizes.num_joints, path)
    return Card(joint_names=names, default_dof_pos=pose, command_range=_card_range(content, stats, path), **texts)


def _card_range(content: dict[str, Any], stats: Stats, path: Path) -> CommandRange | None:
    given = content.get("command_range")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise CheckpointError(
            f"{path}: command_range is {typed_json.short(given)}; expected an object with min and max"
        )
    low = _vector(given, "min", len(stats.command_min), path)
    high = _vector(given, "max", len(stats.command_max), path)
    _check_range(low, high, "command_range.min", "command_range.max", path)
    for index in range(len(low)):
        slack = 1e-6 * (1 + math.fabs(stats.command_max[index] - stats.command_min[index]))
        if low[index] < stats.command_min[index] - slack or high[index] > stats.command_max[index] + slack:
            raise CheckpointError(
                f"{path}: command_range[{index}] is {low[index]:g}..{high[index]:g}; expected it within the range of "
                f"the stats, {stats.command_min[index]:g}..{stats.command_max[index]:g}"
            )
    return CommandRange(low, high, "card")


def _read_bank(path: Path, stats: Stats) -> np.ndarray:
    width = len(stats.motion_mean)
    try:
        with open(path, "rb") as stream:
            motion = load_arrays(stream)["motion"]
    except KeyError:
        raise CheckpointError(f"{path} has no array called motion; expected [K, {width}] float32") from None
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is damaged or holds no plain arrays; expected what np.savez writes") from None
    if motion.ndim != 2 or motion.shape[1] != width or len(motion) == 0 or motion.dtype.kind != "f":
        raise CheckpointError(
            f"{path}: motion is {motion.dtype} {list(motion.shape)}; expected float32 [K, {width}], K > 0"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        motion = motion.astype(np.float32)
    if not np.isfinite(motion).all():
        raise CheckpointError(f"{path}: motion holds NaN or infinite values")
    deviation = np.abs(motion - np.asarray(stats.motion_mean)) / np.asarray(stats.motion_std)
    if deviation.max() > FARTHEST_STATE:
        raise CheckpointError(
            f"{path}: a state is {deviation.max():.0f} deviations from the mean; expected motion states in rad and "
            "rad/s that the checkpoint itself visits"
        )
    return motion
