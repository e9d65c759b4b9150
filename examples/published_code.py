"""Makes a process ready for published Isaac Gym code: TWIST and legged_gym, on today's Python, torch and numpy.

Nothing of theirs is edited, but for a patch that is asked for. Packages that they import and that a training without a
screen never calls need not be installed: placeholders stand in for those that are missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from cmg_runtime import EngineError

FORESEEN = (EngineError, FileNotFoundError, ModuleNotFoundError)
"""What the examples raise for bad input."""


def _print(text: Any, *_: Any, **__: Any) -> None:
    print(text)


def _nothing(*_: Any, **__: Any) -> None: ...


PLACEHOLDERS: dict[str, dict[str, Any]] = {
    "cv2": {},
    "pydelatin": {"Delatin": None},
    "termcolor": {"cprint": _print, "colored": lambda text, *_, **__: text},
    "torchvision": {},
    "wandb": {"init": _nothing, "log": _nothing, "save": _nothing},
}
"""Packages of the published code, and what it takes from each; None: it is imported, and not used without a screen."""


def require_folders(folders: Iterable[Path]) -> list[Path]:
    """``folders``. Raises :class:`EngineError` where one is missing."""
    given = list(folders)
    for folder in given:
        if not folder.is_dir():
            raise EngineError(f"{folder} is missing; expected a checkout of the published code")
    return given


def prepare(folders: Iterable[Path]) -> None:
    """Make the published code in ``folders`` importable, and what it imports. Call it before it is imported.

    Raises:
        EngineError: a folder is missing.
    """
    for folder in require_folders(folders):
        sys.path.insert(0, str(folder.resolve()))
    for name in (name for name in PLACEHOLDERS if importlib.util.find_spec(name) is None):
        module = ModuleType(name, "a placeholder: the package is not installed")
        module.__spec__ = ModuleSpec(name, None)  # torch looks for it
        vars(module).update(PLACEHOLDERS[name])
        sys.modules[name] = module
    os.environ["WANDB_MODE"] = "disabled"


def apply_patch(patch: Path, folder: Path) -> None:
    """Apply a unified diff (``patch -p1``) to the files in ``folder``: all of it, or nothing.

    Raises:
        EngineError: a file is missing, or has no place, or not one place only, for a change.
    """
    changed: dict[Path, str] = {}
    for part in re.split(r"^--- .*\n", patch.read_text(), flags=re.MULTILINE)[1:]:
        header, *hunks = re.split(r"^@@ .*\n", part, flags=re.MULTILINE)
        path = folder / header.split()[1].split("/", 1)[1]
        if not path.is_file():
            raise EngineError(f"{path} is missing; expected the published code that {patch.name} is for")
        text = path.read_text()
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            if text.count(before) != 1:
                raise EngineError(f"{path} is not as published, or patched already; apply {patch} by hand")
            text = text.replace(before, after)
        changed[path] = text
    for path, text in changed.items():
        path.write_text(text)
