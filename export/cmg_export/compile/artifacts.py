"""Compile every artifact of an engine into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmg_export.compile.onnx import export_onnx, trace
from cmg_export.compile.tensorrt import TIMING_CACHE, Flavour, PlanError, PlanOptions, build_plan
from cmg_export.compile.torchscript import export_torchscript
from cmg_export.progress import stage
from cmg_runtime.backends import BACKENDS, ONNX_FILE, PLAN_FILE, TORCHSCRIPT_FILE, WEIGHTS_FILE, BackendRow
from cmg_runtime.folder.kept_files import naming
from cmg_runtime.folder.manifest import Artifact, Manifest, file_sha256
from cmg_runtime.folder.sources import installed_versions


@dataclass(frozen=True)
class Plans:
    """What TensorRT plans are built with.

    Attributes:
        flavour: the library; None builds none.
        options: of the build.
        num_envs: the batch that plans are tuned for.
        previous: the engine folder that is built again, whose timing cache is used; it need not exist.
    """

    flavour: Flavour | None
    options: PlanOptions
    num_envs: int
    previous: Path


def compile_artifacts(
    folder: Path,
    weights: dict[str, np.ndarray],
    about: Manifest,
    precisions: Sequence[str],
    plans: Plans,
) -> list[Artifact]:
    """Write the files of all artifacts; what their parity is, is not known yet.

    Args:
        folder: where to write.
        weights: see ``OneProductNetwork``.
        about: the manifest so far, for the metadata that goes into files.
        precisions: which of "fp32" and "fp16".
        plans: what TensorRT plans are built with.
    """
    with stage("weights"), naming(folder / WEIGHTS_FILE):
        np.savez(folder / WEIGHTS_FILE, **weights)  # type: ignore[arg-type]  # numpy's stubs take them for options
    for precision in precisions:
        name = TORCHSCRIPT_FILE.format(precision=precision)
        with stage(f"torchscript {precision}") as note:
            export_torchscript(weights, precision, folder / name)
            note(_size(folder / name))
    with stage("graph"):
        traced = trace(weights)
    for precision in precisions:
        name = ONNX_FILE.format(precision=precision)
        with stage(f"onnx {precision}") as note:
            export_onnx(weights, precision, about, folder / name, traced)
            note(_size(folder / name))
    made_with = {WEIGHTS_FILE: ("numpy",), TORCHSCRIPT_FILE: ("torch",), ONNX_FILE: ("torch", "onnx", "onnxscript")}
    artifacts = [
        _artifact(folder, file.format(precision=precision), row, precision, tools)
        for file, tools in made_with.items()
        for row in BACKENDS.values()
        if row.file == file
        for precision in precisions
    ]
    return artifacts + _plans(folder, precisions, plans)


def _plans(folder: Path, precisions: Sequence[str], plans: Plans) -> list[Artifact]:
    flavour = plans.flavour
    if flavour is None:
        return []
    kept = plans.previous / TIMING_CACHE
    if kept.is_file():
        shutil.copyfile(kept, folder / TIMING_CACHE)
    artifacts = []
    for precision in precisions:
        name = PLAN_FILE.format(precision=precision, suffix=flavour.suffix)
        with stage(f"tensorrt {precision}") as note:
            try:
                onnx_path = folder / ONNX_FILE.format(precision=precision)
                target = build_plan(flavour, onnx_path, plans.num_envs, folder / name, plans.options)
            except PlanError as error:
                note(f"skipped: {error}")
                continue
            note(_size(folder / name))
        artifacts.append(_artifact(folder, name, BACKENDS["trt"], precision, (flavour.library,), target))
    return artifacts


def _artifact(
    folder: Path,
    file: str,
    backend: BackendRow,
    precision: str,
    tools: tuple[str, ...],
    target: dict[str, object] | None = None,
) -> Artifact:
    return Artifact(
        name=f"{backend.name}_{precision}",
        backend=backend.name,
        precision=precision,
        file=file,
        sha256=file_sha256(folder / file),
        target=target or {"device": "any" if "cpu" in backend.order else "cuda"},
        tools=installed_versions(tools),
        parity={"status": "not_run", "reason": ""},
    )


def _size(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size / 1e6:.1f} MB"
