"""From a checkpoint, where code is used to name one, to an engine folder: compiled once, then kept."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.kept_files import user_cache
from cmg_runtime.folder.manifest import FILE_NAME, SCHEMA_VERSION, file_sha256

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "CMG_ENGINE_CACHE"
"""Environment variable with the folder that compiled engines are kept in; else ``cmg_engine`` in the user's cache."""

CARD_FILE, BANK_FILE = "card.json", "bank.npz"
STATS_FILES = ("cmg_training_data.pt", "stats.yaml", "stats.yml")
"""Files beside a checkpoint that go into its engine; those with stats, in this order, where it has none and none are
named."""


def engine_folder(model_path: str | Path, data_path: str | Path | None = None) -> Path:
    """The engine folder that ``model_path`` is, or that a checkpoint is compiled into.

    A checkpoint is compiled by ``python -m cmg_export`` in a process of its own (about a minute), into the cache. Its
    place there follows from the contents of the checkpoint, of ``data_path`` and of the files beside it, and from the
    exporter's fingerprint: its code, its libraries, and the robot that it finds. So the next call finds it, and what
    has changed is compiled anew. Where the exporter cannot run, the newest engine of the same files is taken, whatever
    it was compiled with. Delete folders in the cache as you like.

    Args:
        model_path: an engine folder, or a checkpoint file.
        data_path: where the checkpoint's normalisation stats are, if not inside it; not needed for an engine folder.

    Raises:
        EngineError: no such file, the checkpoint cannot be compiled, or the exporter cannot run here (it needs Python
            3.10); the message has the command that fills the same place from elsewhere.
    """
    model = Path(model_path)
    if model.is_dir():
        return model
    if not model.is_file():
        raise EngineError(f"{model} is neither an engine folder nor a checkpoint file; build one with `make engine`")
    if data_path is not None and not Path(data_path).is_file():
        raise EngineError(f"{data_path} is not there; expected the data file with the stats, or None")
    folder = _place(model, data_path)
    if not (folder / FILE_NAME).is_file():
        _compile(model, data_path, folder)
    return folder


def _place(model: Path, data_path: str | Path | None) -> Path:
    digest = hashlib.sha256(str(SCHEMA_VERSION).encode())
    stats = [Path(data_path)] if data_path is not None else [model.with_name(name) for name in STATS_FILES]
    for path in (model, model.with_name(CARD_FILE), model.with_name(BANK_FILE), *stats):
        digest.update((file_sha256(path) if path.is_file() else "none").encode())
    place = _cache().resolve() / f"{model.stem}-{digest.hexdigest()[:16]}"
    exporter = _fingerprint()
    if exporter is not None:
        return place.with_name(f"{place.name}-{exporter[:16]}")
    kept = [path for path in place.parent.glob("*") if path == place or path.name.startswith(f"{place.name}-")]
    kept = [path for path in kept if (path / FILE_NAME).is_file()]
    return max(kept, key=lambda path: (path / FILE_NAME).stat().st_mtime, default=place)


def _cache() -> Path:
    chosen, of_user = os.environ.get(CACHE_VARIABLE), user_cache()
    if chosen:
        return Path(os.path.expanduser(chosen))
    if of_user is None:
        raise EngineError(
            f"there is no home folder to keep compiled engines in; set {CACHE_VARIABLE} to a folder, or give an engine "
            "folder instead of a checkpoint"
        )
    return of_user / "cmg_engine"


def _fingerprint() -> str | None:
    """Of the exporter; None where it is not installed, or is for another Python."""
    if sys.version_info < (3, 10):
        return None
    try:
        provenance = importlib.import_module("cmg_export.provenance")
    except ImportError:
        return None
    return provenance.fingerprint()


def _compile(model: Path, data_path: str | Path | None, folder: Path) -> None:
    arguments = ["-m", "cmg_export", str(model), "--out", str(folder)]
    if data_path is not None:
        arguments += ["--data", str(data_path)]
    if sys.version_info < (3, 10) or importlib.util.find_spec("cmg_export") is None:
        raise EngineError(
            f"{model} is a checkpoint, and compiling it needs this project's exporter on Python 3.10 or newer; run "
            f"`python {' '.join(arguments)}` there, or give an engine folder from another machine instead"
        )
    logger.warning("compiling %s into %s, once; this takes a minute or so", model, folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    # 1: an artifact failed parity and was withheld, and the others are there. A crash is 1 too, but leaves no folder.
    if done.returncode not in (0, 1) or not (folder / FILE_NAME).is_file():
        raise EngineError(f"{model} was not compiled: {lines[-1] if lines else f'exit status {done.returncode}'}")
    for line in lines:
        logger.warning("%s", line)
