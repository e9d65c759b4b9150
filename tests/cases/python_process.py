"""Another Python that finds the same modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python words`` with these environment variables beside this process's own."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=300
    )


def environment(**variables: str) -> dict[str, str]:
    """This process's variables with the path that modules are found on, and these."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
