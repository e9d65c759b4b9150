"""Imports go one way, in every package, and the check of it finds what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.imports import PACKAGES, RUNTIME, Package, packages_upwards


@pytest.mark.parametrize("package", PACKAGES, ids=[package.name for package in PACKAGES])
def test_imports_go_one_way(package: Package) -> None:
    assert package.problems() == []


def test_no_package_imports_one_above_it() -> None:
    assert packages_upwards() == []


def test_the_runtime_has_few_rooms() -> None:
    """As `ls` shows it to whoever looks for a file for the first time."""
    assert len([path for path in RUNTIME.folder.iterdir() if path.name != "__pycache__"]) <= 16


PLANTED = {
    "house/__init__.py": "from house.roof import tiles",
    "house/cellar.py": "depth = 1",
    "house/floor/__init__.py": "from house.floor.boards import plank",
    "house/floor/boards.py": "from house import cellar\nplank = cellar",
    "house/floor/nails.py": "length = 1",
    "house/roof.py": "from house.floor import plank\ntiles = plank",
}


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("house/cellar.py", "depth = 2", []),
        (
            "house/cellar.py",
            "def late():\n    import house.floor.boards",
            ["cellar imports house.floor.boards"],
        ),
        ("house/cellar.py", "from .roof import tiles\nx = tiles", ["cellar imports house.roof", "import each other"]),
        ("house/floor/boards.py", "import house.roof\nplank = 1", ["boards imports house.roof", "import each other"]),
        ("house/floor/nails.py", "from . import boards\nx = 1", []),
        ("house/floor/boards.py", "from house.floor import nails\nplank = 1", []),
        ("house/floor/nails.py", "from house.floor.boards import plank\n__all__ = ['plank']", ["nails only forwards"]),
        ("house/attic.py", "x = 1", ["attic has no place"]),
        ("house/roof.py", None, ["roof is in the order, and there is none"]),
        ("house/roof.py", "from house.floor import plank as tiles", ["roof only forwards"]),
    ],
)
def test_what_is_against_the_order_is_found(tmp_path: Path, file: str, text: str | None, found: list[str]) -> None:
    files = {**PLANTED, file: text}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
    problems = Package("house", tmp_path / "house", (("cellar",), ("floor",), ("roof",))).problems()
    assert all(any(part in problem for problem in problems) for part in found), problems
    assert bool(problems) == bool(found), problems
