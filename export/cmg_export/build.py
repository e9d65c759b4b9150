"""Checkpoint -> engine folder: read, compile, prove, publish."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from cmg_export.compile.artifacts import Plans, compile_artifacts
from cmg_export.compile.bank import make_bank
from cmg_export.compile.tensorrt import Flavour, PlanOptions, find_flavour
from cmg_export.compile.weights import one_product_weights
from cmg_export.errors import ExportError
from cmg_export.parity import ParityReport, Truth, format_table, read_report, reference_beside, run_parity, with_results
from cmg_export.parity.report import FILE_NAME as PARITY_FILE
from cmg_export.progress import stage
from cmg_export.provenance import source_record
from cmg_export.publish import check_out, publish, staging
from cmg_export.read.checkpoint import Checkpoint, load_checkpoint
from cmg_export.read.joints import resolve_joints
from cmg_export.read.plausible import check_plausible
from CMG_Ref.command_line import require_between
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.kept_files import naming, replace_file
from cmg_runtime.folder.manifest import (
    FILE_NAME,
    CommandRange,
    FileEntry,
    Manifest,
    file_sha256,
    read_manifest,
    read_verified,
)

FPS = 50.0
BANK_FILE = "bank.npz"
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Options:
    """Compile a trained CMG checkpoint into an engine folder, and check it against the float64 reference.

    The folder gets ONNX, TorchScript and plain weights in fp32 and fp16, a TensorRT plan where tensorrt or
    tensorrt_rtx is installed, a manifest.json that describes them (engines/README.md explains each field) and
    parity.json with every measured error. An existing engine is replaced in one step at the end, or, if nothing that
    it was made from has changed, left as it is.

    python -m cmg_export inspect FOLDER shows what an engine folder holds.

    Exit status: 0 every artifact that can run here passed parity; 1 one failed and was withheld; 2 bad input, one line
    on stderr says what to do; 130 interrupted, 143 asked to end. After these the output folder is as it was before.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """A torch.save file with weights; a card.json and a bank.npz beside it are used. No code in it is run."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Normalisation stats, if not in the checkpoint or beside it: cmg_training_data.pt, or YAML of the same keys."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The engine folder; without it, engines/<name of the checkpoint's folder>."""

    num_envs: Annotated[int, tyro.conf.arg(metavar="N")] = 4096
    """Environments that TensorRT plans are tuned for; every artifact takes any number."""

    precision: Literal["fp32", "fp16", "all"] = "all"
    """Of the matrix products; inputs and outputs are float32 in all of them."""

    robot: Annotated[Path | None, tyro.conf.arg(metavar="MJCF")] = None
    """Robot model, for root height and bodies; without it, mjlab's Unitree G1 where the joints are the G1's."""

    tensorrt: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    """How TensorRT plans are built; docs/tensorrt.md tells more."""


def build_engine(options: Options) -> tuple[Manifest, ParityReport]:
    """Build an engine folder, or find that it is up to date; print progress and the parity table.

    Returns:
        The published manifest, in which artifacts that failed parity have no file, and the parity report.

    Raises:
        ExportError: the input cannot be used, or the engine cannot be written.
    """
    require_between("num_envs", options.num_envs, 1)
    options.tensorrt.check()
    with stage("checkpoint") as note:
        checkpoint = load_checkpoint(options.checkpoint, options.data)
        sizes = checkpoint.sizes
        note(f"{sizes.num_joints} joints, hidden {sizes.hidden_dim}")
        note(f"{sizes.num_experts} experts, {sizes.num_layers} layers, stats from {checkpoint.stats_from}")
        note(checkpoint.weights.note)
    out = _out_folder(options)
    shown = _shown(out)  # now: publishing replaces the folder, and a user may be standing in it
    check_out(out, [path for path in (options.checkpoint, options.data, options.robot) if path])
    with stage("tensorrt") as note:
        flavour, reason = find_flavour(options.tensorrt)
        note(f"no plans: {reason}" if flavour is None else f"{flavour.library} {flavour.version}")
    weights = one_product_weights(checkpoint)
    about = _without_doubt(checkpoint, _describe(checkpoint, options, flavour), weights)
    if _is_current(out, about):
        report = read_report(out)
        print(
            f"\n{format_table(report)}\n\n{shown} is up to date, nothing to build: {_verdicts(report)}",
            flush=True,
        )
        return read_manifest(out), report
    with staging(out) as folder:
        plans = Plans(flavour, options.tensorrt, options.num_envs, previous=out)
        manifest, report = _build(folder, checkpoint, weights, about, options.precision, plans)
        publish(folder, out)
    print(f"\n{format_table(report)}\n\n{shown} is ready: {_verdicts(report)}", flush=True)
    return manifest, report


def _out_folder(options: Options) -> Path:
    folder = options.checkpoint.resolve().parent
    out = options.out or Path("engines") / (folder.name or options.checkpoint.stem)
    return Path(os.path.realpath(out))


def _shown(path: Path) -> Path:
    """Relative to the working directory, where it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _describe(checkpoint: Checkpoint, options: Options, flavour: Flavour | None) -> Manifest:
    """The manifest as far as it is known before anything is compiled: no artifacts, and no hash of the bank."""
    with stage("robot") as note:
        joints = resolve_joints(checkpoint, options.robot)
        note(joints.note)
    stats, card = checkpoint.stats, checkpoint.card
    return Manifest(
        name=card.name or checkpoint.path.resolve().parent.name or checkpoint.path.stem,
        source=source_record(
            checkpoint,
            joints.model,
            {
                "precision": options.precision,
                "num_envs": options.num_envs,
                "tensorrt": dataclasses.asdict(options.tensorrt),
                "plans_built_by": flavour and f"{flavour.library} for {flavour.gpu or 'any GPU of the targets'}",
            },
        ),
        sizes=checkpoint.sizes,
        fps=FPS,
        joint_names=joints.names,
        default_dof_pos=card.default_dof_pos,
        stats=stats,
        command_range=card.command_range or CommandRange(stats.command_min, stats.command_max, "stats"),
        robot=joints.chain,
        bank=FileEntry(BANK_FILE, _NO_HASH),
        artifacts=(),
    )


def _without_doubt(checkpoint: Checkpoint, about: Manifest, weights: dict[str, np.ndarray]) -> Manifest:
    """The manifest with what is implausible about the checkpoint, of which a line on stderr warns, too."""
    with stage("plausibility"):
        doubt = check_plausible(checkpoint, about, weights)
    if doubt:
        print(
            f"cmg_export: warning: {doubt}; see that stats, bank and card are in rad, rad/s and m/s and in the order "
            "of joint_names" + ("" if about.robot else " (no robot is known to check it with: --robot)"),
            file=sys.stderr,
            flush=True,
        )
    return dataclasses.replace(about, source={**about.source, "doubt": doubt or None})


def _verdicts(report: ParityReport) -> str:
    statuses = [artifact.status for artifact in report.artifacts]
    counts = {"passed": "passed parity", "failed": "failed it", "not_run": "not run here"}
    return ", ".join(f"{statuses.count(status)} {text}" for status, text in counts.items() if status in statuses)


def _is_current(out: Path, about: Manifest) -> bool:
    """Whether ``out`` holds an undamaged engine that was made from exactly this."""
    try:
        manifest = read_manifest(out)
        if dataclasses.replace(manifest, artifacts=(), bank=about.bank).to_json() != about.to_json():
            return False
        for entry in (manifest.bank, *[artifact for artifact in manifest.artifacts if artifact.file is not None]):
            read_verified(out, entry)
        report = read_report(out)
        names = [artifact.name for artifact in manifest.artifacts]
        if not names or names != [artifact.name for artifact in report.artifacts]:
            return False
    except (EngineError, ExportError):
        return False
    return True


def _build(
    folder: Path,
    checkpoint: Checkpoint,
    weights: dict[str, np.ndarray],
    about: Manifest,
    precision: str,
    plans: Plans,
) -> tuple[Manifest, ParityReport]:
    with stage("bank") as note:
        bank = checkpoint.bank
        if bank is None:
            bank = make_bank(weights, about.stats, about.command_range)
        with naming(folder / BANK_FILE):
            np.savez(folder / BANK_FILE, motion=bank)
        note(f"{len(bank)} states {'made by rollouts' if checkpoint.bank is None else 'from the checkpoint'}")
    truth = Truth.from_checkpoint(checkpoint)
    precisions = ("fp32", "fp16") if precision == "all" else (precision,)
    with reference_beside(truth, np.asarray(bank, dtype=np.float32), about.command_range) as reference:
        artifacts = compile_artifacts(folder, weights, about, precisions, plans)
        bank_entry = FileEntry(BANK_FILE, file_sha256(folder / BANK_FILE))
        manifest = dataclasses.replace(about, bank=bank_entry, artifacts=tuple(artifacts))
        with stage("parity") as note:
            report = run_parity(folder, manifest, truth, reference=reference)
            note(f"{report.num_visited} states visited in float64, {_verdicts(report)}")
    manifest = _withhold_failed(folder, with_results(manifest, report))
    replace_file(folder / FILE_NAME, manifest.to_json().encode())
    replace_file(folder / PARITY_FILE, report.to_json().encode())
    return manifest, report


def _withhold_failed(folder: Path, manifest: Manifest) -> Manifest:
    """Take the files of artifacts that failed parity out of the folder, unless a sound artifact needs them too."""
    artifacts = tuple(
        dataclasses.replace(artifact, file=None, sha256=None) if artifact.parity["status"] == "failed" else artifact
        for artifact in manifest.artifacts
    )
    kept = {artifact.file for artifact in artifacts}
    for file in {artifact.file for artifact in manifest.artifacts} - kept:
        (folder / str(file)).unlink()
    return dataclasses.replace(manifest, artifacts=artifacts)
