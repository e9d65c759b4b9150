"""What an engine is made from: for the manifest, and for telling whether an engine is up to date."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cmg_export
import cmg_runtime
from cmg_export.read.robot import g1_model, model_files
from cmg_runtime.folder.sources import installed_versions, package_files, sources_sha256

if TYPE_CHECKING:
    from cmg_export.read.checkpoint import Checkpoint

_TOOLS = (
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx",
    "mujoco",
)
"""What engines are made and proved with."""


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
        "license": checkpoint.card.license,
        "attribution": checkpoint.card.attribution,
        "options": options,
        **_surroundings(robot),
    }


def fingerprint() -> str:
    """One hash over all that an engine depends on besides a checkpoint's own files, if it is built here with the
    defaults of every option: see :func:`cmg_runtime.folder.compiled.engine_folder`. It imports neither mujoco nor
    TensorRT."""
    found = _surroundings(g1_model())
    if "tensorrt" in found["tools"]:  # which builds plans only where it sees a GPU
        found["gpu"] = torch.cuda.is_available()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _surroundings(robot: Path | None) -> dict[str, Any]:
    """The list of what an engine depends on besides a checkpoint's own files and options: robot, libraries, code."""
    return {
        "robot_file": robot.name if robot else None,
        "robot_sha256": sources_sha256(model_files(robot)) if robot else None,
        "tools": installed_versions(_TOOLS),
        "code_sha256": _code_sha256(),
    }


def _code_sha256() -> str:
    """One hash over every file of the exporter, and of the runtime that it proves artifacts with, and over the modules
    of the reference that it imports."""
    files = {}
    for package in (cmg_export, cmg_runtime):
        folder = Path(str(package.__file__)).parent
        files.update({f"{package.__name__}/{name}": path for name, path in package_files(folder).items()})
    exporter = [path for name, path in files.items() if name.startswith("cmg_export/") and path.suffix == ".py"]
    return sources_sha256({**files, **_imported("CMG_Ref", exporter)})


def _imported(package: str, sources: Iterable[Path]) -> dict[str, Path]:
    """Name and file of every module of ``package`` that the sources import, and those modules in turn."""
    found: dict[str, Path] = {}
    left = [("", source) for source in sources]
    while left:
        for name in _imports(*left.pop()):
            parts = name.split(".")
            for depth in range(1, len(parts) + 1) if parts[0] == package else ():
                module = ".".join(parts[:depth])
                path = _module_file(module)
                if path is not None and path not in found.values():
                    found[module] = path
                    left.append((module if path.name == "__init__.py" else module.rpartition(".")[0], path))
    return found


def _imports(package: str, source: Path) -> set[str]:
    """Whatever the source's import statements could mean: of ``from a import b``, ``a.b`` may be a module. Relative
    ones are of ``package``."""
    names = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def _module_file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of a name within a module that is no package
        return None
    return Path(spec.origin) if spec and spec.origin else None
