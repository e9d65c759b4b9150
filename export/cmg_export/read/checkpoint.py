"""A trained checkpoint, as ``CMG_Ref.checkpoint`` reads it, with the ``card.json`` and ``bank.npz`` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmg_export.errors import CheckpointError
from cmg_export.read.data_samples import check_samples
from CMG_Ref.checkpoint.parameters import Weights
from CMG_Ref.checkpoint.reader import TrainedCMG, read_checkpoint
from CMG_Ref.checkpoint.stats import card_range, read_vector
from CMG_Ref.files.torch_files import read_start
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.arrays import load_arrays
from cmg_runtime.folder.compiled import BANK_FILE, CARD_FILE
from cmg_runtime.folder.manifest import CommandRange, Manifest, Sizes, Stats, file_sha256

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
        weights: the parameters, and where in the file they lay.
        sizes: shapes of the network.
        stats: normalisation.
        stats_from: "checkpoint", or the name of the file that they came from.
        card: what the card beside it says (empty without one).
        bank: [K, motion_dim] float32 motion states in physical units from the bank beside it, or None.
        sha256: hashes of everything read: "checkpoint", and where there is one "data", "card", "bank".
    """

    path: Path
    weights: Weights
    sizes: Sizes
    stats: Stats
    stats_from: str
    card: Card
    bank: np.ndarray | None
    sha256: dict[str, str]

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Parameter name -> float32 tensor on the CPU, named and shaped as ``CMG_Ref.module.CMG``'s."""
        return self.weights.state_dict


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
        data: where the stats are, if neither in the checkpoint nor in a file of the usual names beside it.

    Raises:
        CheckpointError: one line saying which file cannot be used and why.
    """
    path = Path(path)
    try:
        trained = read_checkpoint(path, Path(data) if data is not None else None)
        return _with_companions(trained)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _with_companions(trained: TrainedCMG) -> Checkpoint:
    """With the card and the bank that lie beside it, and the hashes of all of it."""
    path, sizes, stats = trained.path, trained.sizes, trained.stats
    sha256 = {"checkpoint": file_sha256(path)}
    stats_from = "checkpoint"
    if trained.data_path is not None:
        check_samples(trained.data_content, stats, trained.data_path)
        sha256["data"] = file_sha256(trained.data_path)
        if not trained.stats_inside:
            stats_from = trained.data_path.name
    card, bank = Card(), None
    card_path, bank_path = path.with_name(CARD_FILE), path.with_name(BANK_FILE)
    if card_path.exists():
        read_start(card_path, "JSON")
        card = _read_card(card_path, sizes, stats)
        sha256["card"] = file_sha256(card_path)
    if bank_path.exists():
        read_start(bank_path, "what np.savez writes")
        bank = _read_bank(bank_path, stats)
        sha256["bank"] = file_sha256(bank_path)
    return Checkpoint(
        path=path,
        weights=trained.weights,
        sizes=sizes,
        stats=stats,
        stats_from=stats_from,
        card=card,
        bank=bank,
        sha256=sha256,
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
        pose = read_vector(content, "default_dof_pos", sizes.num_joints, path)
    return Card(joint_names=names, default_dof_pos=pose, command_range=card_range(content, stats, path), **texts)


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
