"""``python -m cmg_export inspect PATH``: what an engine folder or a checkpoint holds, on one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from cmg_export.errors import FORESEEN, ParityError
from cmg_export.parity import read_report
from cmg_export.read.checkpoint import Checkpoint, load_checkpoint
from cmg_export.reporting import WIDTH, number, row, widest
from CMG_Ref.command_line import run
from CMG_Ref.files.words import some
from cmg_runtime.backends import proof
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.manifest import FILE_NAME, CommandRange, Manifest, Sizes, read_manifest, read_verified

MODULE = "cmg_export inspect"

_COMMAND = (("vx", "m/s"), ("vy", "m/s"), ("yaw rate", "rad/s"))
_INDENT = 10


@dataclass(frozen=True)
class Arguments:
    """Show what an engine folder holds: source, sizes, command range, artifacts, what ran where and how exact it was.

    Of a checkpoint: where in it the weights are, sizes, stats, card and bank. Nothing is written, and no code in the
    file is run. Exit status: 0; 1 a file of the folder is missing or is not the one that was built; 2 bad input.
    """

    path: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """An engine folder, or a checkpoint."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Arguments, _inspect, argv, MODULE, FORESEEN)


def _inspect(arguments: Arguments) -> int:
    if not arguments.path.exists():
        raise EngineError(f"{arguments.path}: no such file or folder; expected an engine folder or a checkpoint")
    if not arguments.path.is_dir():
        print("\n".join(_checkpoint_lines(load_checkpoint(arguments.path))))
        return 0
    if not (arguments.path / FILE_NAME).exists():
        raise EngineError(f"{arguments.path} {_another_folder(arguments.path)}")
    manifest = read_manifest(arguments.path)
    damage = list(_damage(arguments.path, manifest))
    print("\n".join(_engine_lines(arguments.path, manifest, damage)))
    return 1 if damage else 0


def _another_folder(folder: Path) -> str:
    """What a folder without a manifest is, and what to name instead of it."""
    if (folder / "policy.json").exists():
        return "is a policy's folder; expected an engine folder or a checkpoint: read its policy.json, which is text"
    engines = sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    checkpoints = sorted(path.name for suffix in ("pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
    inside = some([*engines, *checkpoints])
    mend = f"name one of those in it ({inside})" if inside else "build one with `make engine`"
    return f"has no {FILE_NAME}; expected an engine folder or a checkpoint: {mend}"


def _checkpoint_lines(checkpoint: Checkpoint) -> Iterator[str]:
    card, stats = checkpoint.card, checkpoint.stats
    found = CommandRange(stats.command_min, stats.command_max, "stats")
    yield f"{checkpoint.path}: checkpoint, sha256 {checkpoint.sha256['checkpoint'][:12]}"
    yield from _entry("weights", checkpoint.weights.note.removeprefix("weights "))
    yield from _entry("stats", f"from {checkpoint.stats_from}")
    yield from _entry("network", _network(checkpoint.sizes))
    yield from _entry("joints", _joints(card.joint_names) if card.joint_names else "not named: no card.json with them")
    yield from _entry("commands", _range(card.command_range or found))
    yield from _entry("bank", "none" if checkpoint.bank is None else f"{len(checkpoint.bank)} motion states")
    yield from _entry("licence", _licence(card.license, card.attribution))


def _engine_lines(folder: Path, manifest: Manifest, damage: list[str]) -> Iterator[str]:
    source = manifest.source
    files = {entry.file for entry in (manifest.bank, *manifest.artifacts) if entry.file is not None}
    size = sum((folder / name).stat().st_size for name in files if (folder / name).is_file())
    state = "; ".join(damage) or "each as it was built"
    beside = [name for name in ("card", "bank") if source.get(f"{name}_sha256")]
    yield f"{folder}: engine {manifest.name!r}"
    yield from _entry("files", f"{len(files)}, {size / 1e6:.1f} MB; {state}")
    yield from _entry(
        "source",
        f"{source.get('file')}, sha256 {str(source.get('sha256'))[:12]}; weights from {source.get('weights_from')}, "
        f"stats from {source.get('stats_from')}; beside it {' and '.join(beside) or 'nothing'}",
    )
    if source.get("doubt"):
        yield from _entry("doubt", str(source["doubt"]))
    yield from _entry("licence", _licence(source.get("license"), source.get("attribution")))
    yield from _entry("network", f"{_network(manifest.sizes)}; {manifest.fps:g} frames a second")
    yield from _entry("joints", _joints(manifest.joint_names))
    yield from _entry("commands", f"{_range(manifest.command_range)}; others are clamped")
    robot = manifest.robot
    yield from _entry(
        "robot",
        "none: root heights and bodies are refused"
        if robot is None
        else f"{robot.name} ({source.get('robot_file')}), {len(robot.body_names)} bodies, {len(robot.sole_points)} "
        "sole points",
    )
    yield from _entry("bank", _bank(folder, manifest))
    yield from _entry("parity", _where_it_ran(folder, manifest))
    yield ""
    yield from _table(folder, manifest)
    for name, record in proof.read_records(folder).items():
        error = record.get("one_step_relative")
        figure = f"{error:.1e}" if isinstance(error, float) else "-"
        yield from _entry(name, f"{record.get('status')} one step on {record.get('gpu')}: {figure} relative", hanging=2)
    reasons = {artifact.parity.get("reason", "") for artifact in manifest.artifacts} - {""}
    for reason in sorted(reasons):
        told = [artifact.name for artifact in manifest.artifacts if artifact.parity.get("reason") == reason]
        yield from _entry(", ".join(told), reason, hanging=2)


def _table(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One row for each artifact; errors against float64."""
    artifacts = manifest.artifacts
    first = widest([artifact.name for artifact in artifacts], "artifact")
    second = widest([artifact.file or "withheld" for artifact in artifacts], "file")
    third = widest([_target(artifact.target) for artifact in artifacts], "for")
    head = row(["MB", "one step", "allowed", "100 rad", "500 rad"])
    yield f"{'artifact'.ljust(first)}  {'file'.ljust(second)}  {'for'.ljust(third)}{head}  parity"
    for artifact in artifacts:
        path, parity = folder / str(artifact.file), artifact.parity
        size = path.stat().st_size / 1e6 if artifact.file and path.is_file() else None
        cells = [
            number(size, ".1f"),
            number(parity.get("one_step_relative"), ".1e"),
            number(parity.get("one_step_relative_allowed"), ".1e"),
            number(parity.get("rollout_100_max_rad"), ".1e"),
            number(parity.get("rollout_500_max_rad"), ".1e"),
        ]
        names = (artifact.name.ljust(first), (artifact.file or "withheld").ljust(second))
        status = artifact.parity_status.replace("_", " ")
        yield f"{'  '.join(names)}  {_target(artifact.target).ljust(third)}{row(cells)}  {status}"
    yield "one step: relative, in normalised units; 100 and 500 rad: worst joint of any environment in so many frames"


def _entry(title: str, text: str, hanging: int = _INDENT) -> list[str]:
    """``title  text``, wrapped."""
    head = title.ljust(_INDENT) if hanging == _INDENT else f"{title}: "
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * hanging, break_on_hyphens=False)


def _network(sizes: Sizes) -> str:
    return (
        f"{sizes.num_joints} joints, command of {sizes.command_dim}; layers {sizes.num_layers}, experts "
        f"{sizes.num_experts}, hidden {sizes.hidden_dim}, gate {sizes.gating_hidden_dim}"
    )


def _joints(names: Sequence[str]) -> str:
    return ", ".join(name.removesuffix("_joint") for name in names)


def _range(commands: CommandRange) -> str:
    named = _COMMAND if len(commands.min) == len(_COMMAND) else [(f"[{i}]", "") for i in range(len(commands.min))]
    entries = zip(named, commands.min, commands.max, strict=True)
    said = [f"{name} {low:.4g} to {high:.4g} {unit}".rstrip() for (name, unit), low, high in entries]
    return f"{', '.join(said)} (from the {commands.source})"


def _licence(licence: Any, attribution: Any) -> str:
    return ": ".join(str(text) for text in (licence, attribution) if text) or "not said"


def _bank(folder: Path, manifest: Manifest) -> str:
    try:
        return f"{len(load_bank(folder, manifest, torch.device('cpu')))} motion states"
    except EngineError:
        return "cannot be read"


def _where_it_ran(folder: Path, manifest: Manifest) -> str:
    try:
        report = read_report(folder)
    except ParityError as error:
        return str(error)
    if report.source_sha256 != manifest.source.get("sha256"):
        return "parity.json is of another checkpoint; run parity with `make parity`"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f"on {report.device}: {report.num_visited + report.num_random} states, seed {report.seed}; {versions}"


def _target(target: dict[str, Any]) -> str:
    """Where an artifact runs, in a word or two."""
    if target.get("device") != "cuda":
        return "any device"
    capabilities = target.get("compute_capability")
    return f"GPU {', '.join(capabilities)}" if isinstance(capabilities, list) else "NVIDIA GPU"


def _damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One line for every file that is missing, or is not the one that was built."""
    entries = {entry.file: entry for entry in (manifest.bank, *manifest.artifacts) if entry.file is not None}
    for entry in entries.values():
        try:
            read_verified(folder, entry)
        except EngineError as error:
            yield str(error)
