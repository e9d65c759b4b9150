"""Finds another ``isaacgym`` beside this one: two of one name cannot be used together.

Python's own library is all it needs: ``setup.py`` runs it too, where nothing is installed yet.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

OURS = "MuJoCo Warp"
"""In the first line of this package's ``__init__``; NVIDIA's has other ones."""


def find_other(folders: Iterable[str]) -> str | None:
    """Where another ``isaacgym`` is, as a package or as a distribution, among folders that Python imports from."""
    searched = [Path(folder).resolve() for folder in folders]
    for folder in searched:
        package = folder / "isaacgym" / "__init__.py"
        if package.is_file() and OURS not in package.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
            return str(package.parent)
        link = folder / "isaacgym.egg-link"  # an editable install by an older pip
        if link.is_file():
            return str(link)
    for found in importlib.metadata.distributions(name="isaacgym", path=[str(folder) for folder in searched]):
        return f"{found.locate_file('')}, as the distribution isaacgym {found.version}"
    return None


def refuse_to_shadow() -> None:
    """Stop the import where both this package and another ``isaacgym`` can be imported.

    Raises:
        ImportError: says where the other one is.
    """
    other = find_other(sys.path)
    if other is not None:
        raise ImportError(
            f"there are two isaacgym: MuJoCo Warp's in {Path(__file__).parent} and another in {other}; "
            "keep one of them: pip uninstall isaacgym-warp, or take the other one off sys.path"
        )
