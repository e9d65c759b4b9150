"""The runtime's own tests on other versions of Python and torch: ``make test-matrix``, or ``python tests/matrix.py``.

Each cell gets a virtual environment of its own, removed after it. Needs uv (``pip install uv``) and the Pythons, from
pyenv or the PATH. torch comes from the index that uv is set to; its CUDA builds are some 3 GB a cell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]

CELLS = (
    "3.8 torch==2.1.0 numpy==1.21.6 onnxruntime==1.18.1",
    "3.8 torch==2.4.1 numpy==1.24.4 onnxruntime==1.19.2",
    "3.9 torch==2.8.0 numpy==2.0.2 onnxruntime==1.19.2",
    "3.10 torch==2.2.2 numpy==1.26.4 onnxruntime==1.23.2",
    "3.11 torch==2.6.0 numpy==1.26.4 onnxruntime==1.23.2",
    "3.12 torch==2.11.0 numpy==2.4.6 onnxruntime==1.32.0",
    "3.13 torch==2.5.0 numpy==2.1.3 onnxruntime==1.23.2",
    "3.13 torch==2.14.1 numpy==2.4.6 onnxruntime==1.32.0",
)
"""Python, then what is installed: oldest and newest torch of the oldest and the newest Python, and some between."""


@dataclass(frozen=True)
class Options:
    """Run the runtime's tests in each cell, one after another, and print a table."""

    cells: tuple[str, ...] = CELLS
    """Each "PYTHON REQUIREMENT...", such as "3.8 torch==2.1.0 numpy==1.21.6"."""

    uv: str = "uv"
    """The uv to use."""


def find_python(version: str) -> str:
    """A Python that runs, from the PATH or among pyenv's; else the version, for uv to say what it lacks."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (f"python{version}", *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))):
        if shutil.which(candidate) and not subprocess.run([candidate, "-c", ""], stderr=subprocess.DEVNULL).returncode:
            return candidate
    return version


def run_cell(cell: str, uv: str, environment: dict[str, str], scratch: Path) -> str:
    """Install and test one cell; pytest's summary, or why there is none."""
    python, *requirements = cell.split()
    venv = scratch / "venv"
    try:
        for command in (
            [uv, "venv", "--quiet", "--seed", "--no-python-downloads", "--python", find_python(python), str(venv)],
            [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), *requirements, "pytest"],
        ):
            done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                return "cannot be installed: " + " ".join(done.stderr.split())[:300]
        tests = [str(ROOT / "tests" / "runtime_in.sh"), str(venv), sys.executable, "-q"]
        done = subprocess.run(tests, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout if done.returncode else "", end="", flush=True)
        lines = done.stdout.strip().splitlines() or ["no output"]
        return lines[-1].strip("= ") if done.returncode in (0, 1) else f"exit status {done.returncode}: {lines[-1]}"
    finally:
        shutil.rmtree(venv, ignore_errors=True)


def main(options: Options) -> int:
    """Run all cells; the exit status, 1 if a test failed or a cell could not be installed."""
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        folders = str(Path(scratch) / "engines")
        environment.update(CMG_TEST_SEED=environment.get("CMG_TEST_SEED", str(time.time_ns() % 2**31)))
        made = {**environment, "PYTHONPATH": os.pathsep.join(str(ROOT / p) for p in (".", "export", "runtime"))}
        subprocess.run(
            [sys.executable, str(ROOT / "tests" / "cases" / "made_before.py"), folders], env=made, check=True
        )
        environment.update(CMG_TEST_FOLDERS=folders)
        for cell in options.cells:
            print(f"{cell} ...", flush=True)
            results.append(run_cell(cell, options.uv, environment, Path(scratch)))
            print(f"{cell}: {results[-1]}", flush=True)
    print("\n| Python | installed | tests |\n| --- | --- | --- |")
    for cell, result in zip(options.cells, results, strict=True):
        python, _, installed = cell.partition(" ")
        print(f"| {python} | {installed} | {result} |")
    return int(any("passed" not in result or "failed" in result or "error" in result for result in results))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
