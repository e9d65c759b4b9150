"""The Makefile by itself: a folder in which make runs and nothing is installed or computed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def bare_checkout(folder: Path) -> Path:
    """The Makefile in ``folder``, whose .venv is up to date and has a Python that only prints what it is given."""
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("runtime", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    for file in ("Makefile", "pyproject.toml", "runtime/pyproject.toml"):
        shutil.copy(ROOT / file, folder / file)
    python = folder / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\necho\n')
    python.chmod(0o755)
    for stamp in (".created", ".engine", ".test", ".train"):
        (folder / ".venv" / stamp).touch()
    return folder


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run make in ``folder``."""
    # Without what an outer make passes down: its variables would override ours.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    inner = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", *args], cwd=folder, env=inner, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )
