"""Importing MuJoCo, which then loads the drawing library that ``MUJOCO_GL`` names, whether anything is drawn or not."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import os
from collections.abc import Sequence
from typing import Any

VARIABLE = "MUJOCO_GL"
LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""Values of the variable with which it draws without a display, and what it loads then."""
OFF = ("disable", "disabled", "off", "false", "0")
"""Values with which it loads nothing."""


def for_models() -> Any:
    """The ``mujoco`` module, to read robot models with: imported without a drawing library, if not imported yet.

    The variable is exported by people who simulate. Without the library that it names mujoco cannot be imported, and
    with OSMesa a later import of Triton, which torch imports when it compiles or exports, ends the process.

    Raises:
        ImportError: mujoco is not installed.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = OFF[0]
    try:
        return importlib.import_module("mujoco")
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def choose_renderer(preferred: Sequence[str]) -> bool:
    """Set the variable to what can draw here without a display; whether anything can.

    It stays as it is, unless the library that it names is missing. To be called before mujoco is imported.

    Args:
        preferred: some of :data:`LIBRARIES`, the best first, for where it is not set.
    """
    # PyOpenGL makes OSMesa's symbols global, and so those of the system's LLVM behind it. The LLVM inside a Triton that
    # is loaded later is bound to them and crashes; one that is loaded before keeps its own.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    chosen = os.environ.get(VARIABLE, "").lower().strip()
    if not chosen or not _is_here(chosen):
        chosen = next(filter(_is_here, preferred), OFF[0])
        os.environ[VARIABLE] = chosen
    return chosen not in OFF


def _is_here(name: str) -> bool:
    return name not in LIBRARIES or ctypes.util.find_library(LIBRARIES[name]) is not None
