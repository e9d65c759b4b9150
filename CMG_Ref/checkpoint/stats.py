"""Normalisation stats, from a checkpoint, a data file or YAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from yaml.events import AliasEvent

from CMG_Ref.files.torch_files import read_pt, read_start
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.compiled import STATS_FILES
from cmg_runtime.folder.manifest import CommandRange, Stats

SMALLEST_STD = 1e-6
"""rad or rad/s; trained checkpoints have 0.1 and more."""


def find_stats_file(checkpoint: Path) -> Path:
    """The file with stats beside a checkpoint that has none inside.

    Raises:
        ValueError: there is none.
    """
    for name in STATS_FILES:
        if checkpoint.with_name(name).is_file():
            return checkpoint.with_name(name)
    raise ValueError(
        f"{checkpoint} has no stats inside and none of {', '.join(STATS_FILES)} lies beside it; "
        "name the data file with --data"
    )


def load_data_file(path: Path) -> Any:
    """What a data file, a checkpoint or a YAML file holds.

    Raises:
        ValueError: missing or unreadable, or of another kind.
    """
    return load_yaml_file(path) if path.suffix in (".yaml", ".yml") else read_pt(path)


def stats_of(content: Any) -> Any:
    """The stats in what a data file holds, which may be these alone; not looked at yet."""
    return content["stats"] if isinstance(content, dict) and "stats" in content else content


def load_yaml_file(path: Path) -> Any:
    """The content of a YAML file; tags that name Python objects are refused.

    Raises:
        ValueError: missing or unreadable file, or not plain YAML.
    """
    read_start(path, "a YAML file")
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.load(stream, _PlainLoader)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; expected a mapping with motion_mean, ...") from None
    except Exception as error:  # values that do not fit their tags fail in many ways inside the library
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path} is not plain YAML ({reason})") from None


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            raise yaml.YAMLError("it has aliases (*name); write the values out")
        return super().compose_node(parent, index)


def read_stats(stats: Any, motion_dim: int, command_dim: int, where: Path) -> Stats:
    """Stats that fit a network of these dimensions.

    Raises:
        ValueError: naming the value that is missing or cannot be.
    """
    if not isinstance(stats, dict):
        raise ValueError(f"{where}: stats are a {type(stats).__name__}; expected a mapping with motion_mean, ...")
    for key, expected in (("num_joints", motion_dim // 2), ("motion_dim", motion_dim), ("command_dim", command_dim)):
        if key in stats and not _is_number(stats[key], expected):
            raise ValueError(
                f"{where}: stats are for {key} {typed_json.short(stats[key])}, expected {expected}; "
                "give the stats that belong to this network or data"
            )
    mean = read_vector(stats, "motion_mean", motion_dim, where)
    std = read_vector(stats, "motion_std", motion_dim, where)
    low = read_vector(stats, "command_min", command_dim, where)
    high = read_vector(stats, "command_max", command_dim, where)
    for index, value in enumerate(std):
        if value < SMALLEST_STD:
            raise ValueError(
                f"{where}: motion_std[{index}] is {value:g}; expected every deviation to be {SMALLEST_STD:g} or more"
            )
    check_range(low, high, "command_min", "command_max", where)
    return Stats(mean, std, low, high)


def _is_number(value: Any, expected: int) -> bool:
    """Lists are not looked into: shared ones can stand for more values than any memory holds."""
    return not isinstance(value, (list, tuple, dict)) and np.ndim(value) == 0 and bool(value == expected)


def read_vector(values: dict[str, Any], key: str, length: int, where: Path) -> tuple[float, ...]:
    """A float32 vector of a mapping, as Python floats (which hold every float32 exactly).

    Raises:
        ValueError: it is missing, of another length, or not of finite numbers.
    """
    if key not in values:
        raise ValueError(f"{where}: {key} is missing; expected {length} numbers")
    given = values[key]
    if isinstance(given, (list, tuple)) and any(isinstance(value, (list, tuple, dict)) for value in given):
        raise ValueError(f"{where}: {key} has lists inside; expected {length} numbers")
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            vector = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: {key} is not a list of numbers; expected {length}") from None
    if vector.shape != (length,):
        raise ValueError(f"{where}: {key} has shape {list(vector.shape)}; the network needs [{length}]")
    if not np.isfinite(vector).all():
        index = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise ValueError(f"{where}: {key}[{index}] is {vector[index]}; expected finite numbers")
    return tuple(vector.tolist())


def check_range(low: tuple[float, ...], high: tuple[float, ...], low_key: str, high_key: str, where: Path) -> None:
    """Refuse a minimum that is not below its maximum.

    Raises:
        ValueError: naming the first.
    """
    for index, (minimum, maximum) in enumerate(zip(low, high, strict=True)):
        if minimum >= maximum:
            raise ValueError(
                f"{where}: {low_key}[{index}] is {minimum:g} and {high_key}[{index}] is {maximum:g}; "
                "expected the minimum below the maximum"
            )


def card_range(card: dict[str, Any], stats: Stats, path: Path) -> CommandRange | None:
    """The command range that a card at ``path`` gives, within that of the stats; None where it gives none.

    Raises:
        ValueError: it is malformed or reaches further.
    """
    given = card.get("command_range")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: command_range is {typed_json.short(given)}; expected an object with min and max")
    low = read_vector(given, "min", len(stats.command_min), path)
    high = read_vector(given, "max", len(stats.command_max), path)
    check_range(low, high, "command_range.min", "command_range.max", path)
    for index in range(len(low)):
        slack = 1e-6 * (1 + math.fabs(stats.command_max[index] - stats.command_min[index]))
        if low[index] < stats.command_min[index] - slack or high[index] > stats.command_max[index] + slack:
            raise ValueError(
                f"{path}: command_range[{index}] is {low[index]:g}..{high[index]:g}; expected it within the range of "
                f"the stats, {stats.command_min[index]:g}..{stats.command_max[index]:g}"
            )
    return CommandRange(low, high, "card")
