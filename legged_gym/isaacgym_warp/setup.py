"""Refuses to be built for a Python that has another ``isaacgym``; everything else is in pyproject.toml."""

import runpy
import site
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

# pip builds apart from what is installed, with the same interpreter: its folders still say where it will install to.
FOLDERS = {*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))}

other = runpy.run_path(str(Path(__file__).parent / "isaacgym" / "shadowing.py"))["find_other"](sorted(FOLDERS))
if other is not None and not {"sdist", "egg_info"} & set(sys.argv):
    raise SystemExit(
        f"error: isaacgym is installed here ({other}), and isaacgym-warp would take its place; "
        "pip uninstall isaacgym first, or install isaacgym-warp into another environment"
    )

setup()
