"""Going on with a training: what has to be as it was, what may differ and is said, and what each part was made with.

A training that is started again keeps its count of steps, its weights, optimiser and random numbers. Settings may
change from one start to the next; the recipe in its checkpoints therefore is a list of parts, each with its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.checkpoint.parameters import read_sizes, read_weights
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.training.config import TrainConfig
from cmg_runtime.folder.manifest import Sizes, file_sha256

_STATS = ("num_joints", "motion_dim", "command_dim", "motion_mean", "motion_std", "command_min", "command_max")
_SIZES = ("motion_dim", "command_dim", "hidden_dim", "num_experts", "num_layers")
_NO_SETTINGS = ("out", "data", "init", "asymmetry_kept")
"""Paths, and what acts on the final weights alone: no step is made with these."""

_WITHOUT_EFFECT = ("save_every", "log_every")
"""Settings that no weight depends on."""


@dataclass(frozen=True)
class Part:
    """Steps that were made with the same settings.

    Attributes:
        from_step, to_step: the first, and the one behind the last.
        settings: name -> value of ``TrainConfig``'s, "device" as it was picked; None where nobody wrote them down.
        data_sha256: of the data file.
        init_sha256: of the checkpoint that the first part began with, if any.
    """

    from_step: int
    to_step: int
    settings: dict[str, Any] | None
    data_sha256: str | None = None
    init_sha256: str | None = None


def first_part(config: TrainConfig, device: torch.device) -> Part:
    """The part that a new training begins with."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NO_SETTINGS}
    init = None if config.init is None else file_sha256(config.init)
    return Part(0, 0, {**settings, "device": device.type}, file_sha256(config.data), init)


def recipe(parts: tuple[Part, ...], to_step: int, asymmetry_kept: float) -> dict[str, Any]:
    """What a checkpoint of ``to_step`` steps was made with: the settings that all parts share, and every part."""
    ended = (*parts[:-1], dataclasses.replace(parts[-1], to_step=to_step))
    made = [part for part in ended if part.to_step > part.from_step] or [ended[-1]]
    first = made[0].settings or {}
    shared = {
        name: value
        for name, value in first.items()
        if all(part.settings is not None and part.settings.get(name) == value for part in made)
    }
    return {**shared, "asymmetry_kept": asymmetry_kept, "parts": [dataclasses.asdict(part) for part in made]}


def saved_parts(saved: dict[str, Any]) -> tuple[Part, ...]:
    """The parts that a saved training consists of; one of unknown settings if it does not say."""
    if "recipe" not in saved:
        return (Part(0, int(saved["epoch"]), None),)
    return tuple(Part(**part) for part in saved["recipe"]["parts"])


def require_same_network(
    saved: dict[str, Any], config: TrainConfig, stats: dict[str, Any], names: tuple[str, ...]
) -> None:
    """Refuse to go on with other sizes, joints or stats: the weights would mean something else.

    Raises:
        ValueError: naming the first that differs.
    """
    before = read_sizes(read_weights(saved, config.out, "model_state_dict").state_dict, config.out)
    differing = differing_sizes(before, config, stats)
    if differing:
        raise ValueError(differing)
    saved_names = tuple(saved.get("joint_names", names))
    if saved_names != names:
        raise ValueError(
            f"joint_names were {', '.join(saved_names)}; are {', '.join(names) or 'none'} in {config.data}"
        )
    differing = differing_stats(saved["stats"], stats)
    if differing:
        raise ValueError(f"{differing} in {config.data}")


def differing_sizes(before: Sizes, config: TrainConfig, stats: dict[str, Any]) -> str:
    """The first size that is another one now, in words; empty if there is none."""
    for name in _SIZES:
        now = stats[name] if name in stats else getattr(config, name)
        if getattr(before, name) != now:
            return f"{name} was {getattr(before, name)}, is {now} now"
    if before.gating_hidden_dim != config.hidden_dim:
        return f"the gate has {before.gating_hidden_dim} hidden values, {config.hidden_dim} now"
    return ""


def differing_stats(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first value of the stats that is another one now, in words; empty if there is none."""
    for name in _STATS:
        if name not in before:
            continue
        old, new = np.atleast_1d(np.asarray(before[name])), np.atleast_1d(np.asarray(now[name]))
        if old.shape != new.shape:
            return f"{name} had {len(old)} values, has {len(new)}"
        where = np.flatnonzero(old != new)
        if len(where):
            index = int(where[0])
            return f"{name}[{index}] was {old[index]:g}, is {new[index]:g}"
    return ""


def go_on(parts: tuple[Part, ...], now: Part, step: int, config: TrainConfig) -> tuple[tuple[Part, ...], list[str]]:
    """The parts with that which begins at ``step``, and a line for each thing that differs from the part before.

    Raises:
        ValueError: another ``init`` than the training began with, or no step is left for what differs.
    """
    if step > config.num_steps:
        raise ValueError(f"{step} steps are done, phases end at {config.num_steps}")
    before = parts[-1]
    new = dataclasses.replace(now, from_step=step, to_step=step, init_sha256=None)
    if before.settings is None:
        lines = [f"nothing says what the {step} steps so far were trained with; sizes and stats are the same"]
        lines += ["init is not used: the weights saved here go on"] if now.init_sha256 else []
        return (*parts, _with_seed(new, None)), lines
    if now.init_sha256 not in (None, parts[0].init_sha256):
        raise ValueError("init is not the checkpoint that it began with, and would not be used")
    differing = _differences(before, now, step, config)
    if step == config.num_steps and differing.keys() - {"device"}:
        told = "; ".join(differing.values())
        raise ValueError(f"all {step} steps are done, longer phases would go on; nothing is left for this: {told}")
    if not differing:  # the same part goes on
        return parts, []
    return (*parts, _with_seed(new, before.settings["seed"])), list(differing.values())


def _with_seed(part: Part, seed: int | None) -> Part:
    """Random numbers go on from where they were: a part has the seed that the first was begun with."""
    return dataclasses.replace(part, settings={**(part.settings or {}), "seed": seed})


def is_written(final: Path, step: int, asymmetry_kept: float) -> bool:
    """Whether the final checkpoint after these steps is there, whole, and as this setting makes it."""
    try:
        content = read_pt(final)
        return (content["epoch"], content["recipe"]["asymmetry_kept"]) == (step, asymmetry_kept)
    except (ValueError, KeyError, TypeError):  # none, a damaged one, or somebody else's file
        return False


def _differences(before: Part, now: Part, step: int, config: TrainConfig) -> dict[str, str]:
    """Name -> what is another than in the part before, in a line."""
    lines = {}
    if before.data_sha256 != now.data_sha256:
        lines["data"] = f"data is another file than up to step {step}, with the same stats"
    old, new = before.settings or {}, now.settings or {}
    for name in new:
        if name in _WITHOUT_EFFECT or name not in old or old[name] == new[name]:
            continue
        lines[name] = f"{name} was {old[name]}, is {new[name]} from step {step} on"
        if name == "seed":
            lines[name] = f"seed was {old[name]}; {new[name]} is not used, random numbers go on from where they were"
        if name == "phases" and step < config.num_steps:
            lines[name] += (
                f": the steps done count as its first, rollouts go on with {config.rollout_frames(step)[0]} frames, "
                "learning rate and symmetric part follow its length"
            )
    return lines
