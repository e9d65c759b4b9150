"""docs/licences.md names every package that make installs, in its version, with a licence, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| ([A-Za-z0-9._-]+) \| ([^|]+) \| ([^|]+) \|")
LISTS = ("engine", "test", "train", "kernels", "tensorrt-rtx", "fuzz", "hashed/cuda")
"""In the order of the file."""


def listed(name: str) -> dict[str, set[str]]:
    """Package -> versions for some Python and machine."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^[a-zA-Z][^\n\\]*", text, flags=re.MULTILINE):
        requirement = Requirement(line.strip())
        (only,) = requirement.specifier
        assert only.operator == "==", line
        found.setdefault(canonicalize_name(requirement.name), set()).add(only.version)
    return found


def tables() -> list[dict[str, tuple[set[str], str]]]:
    """Of each list in turn: package -> its versions and its licence."""
    text = (ROOT / "docs" / "licences.md").read_text()
    made = []
    for section in text.split("\n### ")[1:]:
        rows = [match.groups() for match in map(ROW.fullmatch, section.splitlines()) if match]
        assert rows[:2] == [("package", "version", "licence"), ("---",) * 3]
        made.append({canonicalize_name(name): ({*versions.split(", ")}, text) for name, versions, text in rows[2:]})
        assert len(made[-1]) == len(rows) - 2
    return made


@pytest.mark.parametrize("number", range(len(LISTS)), ids=LISTS)
def test_the_table_is_the_list(number: int) -> None:
    """requirements/licences.py has to be run again after a change."""
    table = tables()[number]
    assert {name: versions for name, (versions, _) in table.items()} == listed(LISTS[number])
    for name, (_, licence) in table.items():
        assert re.search("[A-Za-z]{3}", licence) and not re.search("unknown|none", licence, re.IGNORECASE), name


def test_no_list_is_left_out() -> None:
    assert len(tables()) == len(LISTS)
    files = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert files - {"py38"} == {name for name in LISTS if "/" not in name}  # the file says what py38 is not covered by
    everything = set().union(*(listed(name) for name in LISTS))
    for path in (ROOT / "requirements" / "hashed").glob("*.txt"):
        assert listed(f"hashed/{path.stem}").keys() <= everything, path


def test_every_bundled_checkpoint_is_attributed() -> None:
    text, notice = ((ROOT / name).read_text() for name in ("docs/licences.md", "NOTICE"))
    bundled = ROOT.glob("CMG_Ref/runs/g1_neutral/*.pt")
    for path in bundled:
        assert f"`{path.parent.relative_to(ROOT)}`" in text and f"{path.parent.relative_to(ROOT)}/" in notice
        assert path.name in notice and "100STYLE" in text and "CC BY 4.0" in notice
