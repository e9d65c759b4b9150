"""What the documents say of the repository is there: files, tests, the version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import cmg_export
import cmg_gym
import CMG_Ref
import cmg_runtime
from documents import DOCUMENTS, ROOT

TESTS = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?://)([^)#]+)", prose)
    assert [link for link in links if not (document.parent / link).exists()] == []
    parts = re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", prose)
    assert [
        (file, part) for file, part in parts if part not in headings(document.parent / file if file else document)
    ] == []
    paths = re.findall(
        r"`((?:tests|docs|requirements|CMG_Ref|export|legged_gym|runtime)/[a-z0-9_/.-]+\.(?:py|md|sh|txt|cu))`", text
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = re.findall(r"`((?:cmg_\w+|backends|window)/[a-z0-9_/]+\.(?:py|cu|cuh))`", text)
    packages = [ROOT / folder for folder in ("runtime", "export", "legged_gym", "runtime/cmg_runtime")]
    assert [module for module in modules if not any((package / module).exists() for package in packages)] == []
    assert [name for name in re.findall(r"`(test_\w+|interpreted_\w+)`", text) if name not in TESTS] == []
    assert missing_tests(text) == []


def headings(document: Path) -> set[str]:
    """What GitHub calls a document's headings in links."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall("^#+ (.*)", text, re.MULTILINE)
    }


def missing_tests(text: str) -> list[str]:
    """Of `file::test`, and `::test` for the file named last before, those that are in no such file."""
    missing, file = [], ""
    for name, test in re.findall(r"`(\w*)::(\w+)", text):
        file = name or file
        if (file, test) != ("file", "test") and f"def {test}(" not in TESTS.get(file, ""):
            missing.append(f"{file}::{test}")
    return missing


def test_the_check_finds_a_test_that_is_not_there() -> None:
    assert missing_tests("`test_docs::missing_tests`, `::test_nothing`, `no_file::x`") == [
        "test_docs::test_nothing",
        "no_file::x",
    ]


def test_the_version_is_said_in_one_place() -> None:
    version = (ROOT / "runtime" / "cmg_runtime" / "VERSION").read_text().strip()
    for file in (ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml"):
        assert read_configuration(str(file))["project"]["version"].strip() == version
    first = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text() + " ", re.MULTILINE)
    assert first is not None and first[1] == version
    packages = (cmg_runtime, CMG_Ref, cmg_export, cmg_gym)
    assert {package.__version__ for package in packages} == {version}
