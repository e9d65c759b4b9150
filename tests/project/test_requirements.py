"""The pinned lists name what is imported, exactly, with hashes and licences, and nothing of it is missing."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.imports import imported_names

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("engine", "test", "train")
LICENSED = (*LISTS, "kernels", "tensorrt-rtx", "tensorrt-lean", "fuzz", "hashed/cuda")
"""In the order of docs/licences.md."""
OPTIONAL = {"tensorrt_lean", "tensorrt_rtx", "triton", "isaacgym", "atheris"}
"""Modules that are imported only where they happen to be installed, or for types only."""


def requirements(name: str) -> list[Requirement]:
    """Every line of a list, for whatever Python and machine, without its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [Requirement(line.strip()) for line in re.findall(r"^[a-zA-Z][^\n\\]*", text, flags=re.MULTILINE)]


def pinned(name: str) -> dict[str, Requirement]:
    """The lines that count on this Python, by canonical name."""
    counting = [r for r in requirements(name) if r.marker is None or r.marker.evaluate()]
    found: dict[str, Requirement] = {canonicalize_name(r.name): r for r in counting}
    assert len(found) == len(counting)
    return found


def versions(name: str) -> dict[str, set[str]]:
    """Package -> versions for some Python and machine; each is an exact one."""
    found: dict[str, set[str]] = {}
    for requirement in requirements(name):
        (only,) = requirement.specifier
        assert only.operator == "==" and "*" not in only.version, requirement
        found.setdefault(canonicalize_name(requirement.name), set()).add(only.version)
    return found


def needed_by(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What an installed package needs here, with these of its extras and, in turn, with those that they name."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ["", *extras]):
            yield requirement
            if requirement.extras:
                own = canonicalize_name(requirement.name) == name and requirement.extras <= extras
                yield from () if own else needed_by(requirement.name, requirement.extras)


def test_lists_are_complete() -> None:
    """They are installed with --no-deps, so whatever a package needs must be in them, at a version that it accepts."""
    lock = {name: requirement for file in LISTS for name, requirement in pinned(file).items()}
    for name, requirement in lock.items():
        if name == "torch":  # it is installed with its dependencies
            continue
        version = importlib.metadata.version(name)
        if version not in requirement.specifier:
            pytest.skip(f"not the pinned environment: {name} is {version}, {requirement} is pinned")
        for needed in needed_by(name, requirement.extras):
            if (name, needed.name) == ("rsl-rl-lib", "torchvision"):  # for image encoders; never imported here
                continue
            found = lock.get(canonicalize_name(needed.name))
            assert found is not None, f"{name} needs {needed}, which is in no list"
            exact = next(iter(found.specifier)).version
            assert needed.specifier.contains(exact, prereleases=True), f"{name} needs {needed}, the list has {found}"


def installed_modules() -> dict[str, set[str]]:
    """The packages that installed each top-level module."""
    found: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for line in (distribution.read_text("RECORD") or "").splitlines():
            found.setdefault(re.split(r"[/.,]", line, maxsplit=1)[0], set()).add(name)
    return found


def imported_modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """The top-level name of every import below a folder, inside functions too; Python's own are left out."""
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tops = {name.split(".")[0] for name in imported_names(path, module)}
        yield from ((path.relative_to(ROOT), name) for name in tops - sys.stdlib_module_names)


IMPORTING = (
    (("CMG_Ref", "export", "legged_gym", "runtime", "tests"), set(), LISTS),
    (("CMG_Ref/module", "export", "runtime"), {"demo", "plots"}, ("engine",)),  # what `make engine` runs
)


@pytest.mark.slow
@pytest.mark.parametrize(("folders", "left_out", "lists"), IMPORTING)
def test_every_import_is_in_a_list(folders: tuple[str, ...], left_out: set[str], lists: tuple[str, ...]) -> None:
    providers = installed_modules()
    lock = {name for file in lists for name in pinned(file)}
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | OPTIONAL
    own |= {"CMG_Ref", "cmg_export", "cmg_gym", "cmg_runtime", "examples", "tests"}
    found = (found for folder in folders for found in imported_modules(ROOT / folder))
    checked = {(path, name) for path, name in found if name not in own and not left_out & {*path.with_suffix("").parts}}
    assert [(path, name) for path, name in checked if not providers.get(name, set()) & lock] == []
    assert {"torch", "numpy", "onnx"} <= {name for _, name in checked}


def test_runtime_needs_only_torch_numpy_and_its_backends() -> None:
    found = {module for _, module in imported_modules(ROOT / "runtime" / "cmg_runtime")}
    assert {"torch", "numpy"} <= found <= {"cmg_runtime", "torch", "numpy", "onnxruntime"} | OPTIONAL


@pytest.mark.parametrize("name", LICENSED[:-1])
def test_hashed_lists_are_the_lists(name: str) -> None:
    """requirements/hash.sh has to be run again after a change."""
    files = [f"hashed/{name}", *(["hashed/torch"] if name == "engine" else [])]
    for file in files:
        text = re.sub(r"^#.*\n", "", (ROOT / "requirements" / f"{file}.txt").read_text(), flags=re.MULTILINE)
        for entry in re.split(r"\n(?=[a-z])", text.strip()):
            assert re.fullmatch(r"[^\n]+( \\\n +--hash=sha256:[0-9a-f]{64})+", entry), entry
    found, listed = (
        {(canonicalize_name(r.name), str(r.specifier)): r.marker for file in lists for r in requirements(file)}
        for lists in (files, [name])
    )
    assert found.keys() == listed.keys()
    systems = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
    for python, (system, machine) in itertools.product(("3.10", "3.11", "3.13"), systems):
        here = {"python_version": python, "python_full_version": python + ".1"}
        here |= {"sys_platform": system, "platform_machine": machine}
        counting = [{key for key, m in each.items() if m is None or m.evaluate(here)} for each in (found, listed)]
        assert counting[0] == counting[1], here


def licence_tables() -> list[dict[str, tuple[set[str], str]]]:
    """Of each list in turn: package -> its versions and its licence."""
    row = re.compile(r"\| ([A-Za-z0-9._-]+) \| ([^|]+) \| ([^|]+) \|")
    made = []
    for section in (ROOT / "docs" / "licences.md").read_text().split("\n### ")[1:]:
        rows = [match.groups() for match in map(row.fullmatch, section.splitlines()) if match]
        assert rows[:2] == [("package", "version", "licence"), ("---",) * 3]
        made.append({canonicalize_name(name): ({*found.split(", ")}, licence) for name, found, licence in rows[2:]})
        assert len(made[-1]) == len(rows) - 2
    return made


def test_the_table_of_licences_is_the_list() -> None:
    """requirements/licences.py has to be run again after a change."""
    for name, table in zip(LICENSED, licence_tables(), strict=True):
        pinned(name)  # each package counts once here
        assert {package: found for package, (found, _) in table.items()} == versions(name)
        for _, licence in table.values():
            assert re.search("[A-Za-z]{3}", licence) and not re.search("unknown|none", licence, re.IGNORECASE), name
    files = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert files - {"py38"} == {*LICENSED[:-1]}  # the file says what py38 is not covered by
    everything = set().union(*(versions(name) for name in LICENSED))
    for path in (ROOT / "requirements" / "hashed").glob("*.txt"):
        assert versions(f"hashed/{path.stem}").keys() <= everything, path


def test_every_bundled_checkpoint_is_attributed() -> None:
    text, notice = ((ROOT / name).read_text() for name in ("docs/licences.md", "NOTICE"))
    checkpoints = sorted(ROOT.glob("CMG_Ref/runs/g1_*/*.pt"))
    assert [path.parent.name for path in checkpoints] == ["g1_all", "g1_neutral"]
    for path in checkpoints:
        folder = path.parent.relative_to(ROOT)
        assert f"`{folder}`" in text and f"{folder}/" in notice
        assert path.name in notice and "100STYLE" in text and "CC BY 4.0" in notice
    assert "mocap.cs.cmu.edu" in " ".join(notice.split()) and "NSF EIA-0196217" in " ".join(notice.split())
