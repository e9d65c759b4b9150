"""What an engine is made from: for the manifest, and for telling whether an engine is up to date."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import cmg_export
import CMG_Ref.checkpoint
import CMG_Ref.module
import cmg_runtime
from cmg_export.checkpoint import Checkpoint
from cmg_runtime.manifest import file_sha256

_TOOLS = (
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx",
    "mujoco",
)


def source_record(checkpoint: Checkpoint, robot: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The manifest's ``source``: no times and no paths, so the same inputs give the same record."""
    return {
        "file": checkpoint.path.name,
        "sha256": checkpoint.sha256["checkpoint"],
        "weights_from": checkpoint.weights.found,
        "stats_from": checkpoint.stats_from,
        "data_sha256": checkpoint.sha256.get("data"),
        "card_sha256": checkpoint.sha256.get("card"),
        "bank_sha256": checkpoint.sha256.get("bank"),
        "robot_file": robot.name if robot else None,
        "robot_sha256": file_sha256(robot) if robot else None,
        "license": checkpoint.card.license,
        "attribution": checkpoint.card.attribution,
        "options": options,
        "tools": tool_versions(_TOOLS),
        "code_sha256": _code_sha256(),
    }


def tool_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of the named packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _code_sha256() -> str:
    """One hash over the source of the exporter, the runtime that it proves with, the reader and the reference."""
    digest = hashlib.sha256()
    for package in (cmg_export, cmg_runtime, CMG_Ref.checkpoint, CMG_Ref.module):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
