"""The Makefile passes on what it is told, the pinned lists are complete, and the runtime package stands alone."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("engine.txt", "test.txt", "train.txt")
OPTIONAL = {"tensorrt", "tensorrt_rtx", "triton", "isaacgym", "atheris"}
"""Modules that are imported only where they happen to be installed, or for types only."""

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pinned(name: str) -> dict[str, Requirement]:
    """The lines of a requirements file that count on this Python, by canonical name."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    counting = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    assert len({canonicalize_name(r.name) for r in counting}) == len(counting)
    return {canonicalize_name(r.name): r for r in counting}


def locked() -> dict[str, Requirement]:
    """All lists together."""
    return {name: requirement for file in LISTS for name, requirement in pinned(file).items()}


@pytest.mark.parametrize("file", [*LISTS, "tensorrt-rtx.txt"])
def test_every_version_is_exact(file: str) -> None:
    for requirement in pinned(file).values():
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert "*" not in str(requirement.specifier)


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
    lock = locked()
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
    """The top-level name of every absolute import below a folder, inside functions too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            yield from ((path, name.split(".")[0]) for name in names)


@pytest.mark.parametrize(
    ("folders", "left_out", "lists"),
    [
        (("CMG_Ref", "export", "legged_gym", "runtime", "tests"), (), LISTS),
        (("CMG_Ref/module", "export", "runtime"), ("demo", "plots"), ("engine.txt",)),
    ],
    ids=["everything", "what-make-engine-runs"],
)
def test_every_import_is_in_a_list(folders: tuple[str, ...], left_out: tuple[str, ...], lists: tuple[str, ...]) -> None:
    providers = installed_modules()
    lock = {name for file in lists for name in pinned(file)}
    own = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"CMG_Ref", "cmg_export", "cmg_gym", "cmg_runtime"}
    checked = set()
    for path, module in (found for folder in folders for found in imported_modules(ROOT / folder)):
        if module in own or module in OPTIONAL or module in sys.stdlib_module_names:
            continue
        if path.stem.startswith(left_out):
            continue
        assert providers.get(module, set()) & lock, f"{path.relative_to(ROOT)}: {module} is not in {' or '.join(lists)}"
        checked.add(module)
    assert {"torch", "numpy", "onnx"} <= checked


def test_runtime_needs_only_torch_numpy_and_its_backends() -> None:
    allowed = {"cmg_runtime", "torch", "numpy", "onnxruntime"} | OPTIONAL
    found = {
        module
        for _, module in imported_modules(ROOT / "runtime" / "cmg_runtime")
        if module not in sys.stdlib_module_names
    }
    assert found <= allowed and {"torch", "numpy"} <= found


@pytest.mark.parametrize("folder", ["runtime", "CMG_Ref/module", "CMG_Ref/utils"])
def test_syntax_is_python_38(folder: str) -> None:
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 8))


def test_runtime_installs_and_imports_alone(tmp_path: Path) -> None:
    source = tmp_path / "source" / "runtime"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "runtime", source, ignore=ignored)
    shutil.copytree(ROOT / "CMG_Ref" / "utils", source.parent / "CMG_Ref" / "utils", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(source)], check=True, timeout=300)

    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*.py")}

    utils = {Path("CMG_Ref") / "utils" / path for path in files(ROOT / "CMG_Ref" / "utils")}
    assert files(tmp_path / "site") == files(ROOT / "runtime") - {Path("setup.py")} | utils
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", "import cmg_runtime; print(cmg_runtime.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == tmp_path / "site" / "cmg_runtime"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile in a folder whose .venv is up to date and has a Python that only prints what it is given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "runtime").mkdir()
    shutil.copy(ROOT / "runtime" / "pyproject.toml", tmp_path / "runtime")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\necho\n')
    python.chmod(0o755)
    for stamp in (".created", ".engine", ".test", ".train"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # Without what an outer make passes down: its variables would override ours.
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    }
    return subprocess.run(
        ["make", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@needs_make
def test_engine_passes_its_variables_on(checkout: Path) -> None:
    bare = make(checkout, "engine")
    assert bare.stdout == "[-m][cmg_export][CMG_Ref/runs/g1_neutral/cmg_final.pt]\n"
    full = make(
        checkout, "engine", "CKPT=my runs/walk/x.pt", "DATA=a b.yaml", "OUT=engines/x", "NUM_ENVS=7",
        "PRECISION=fp16", "ROBOT=r.xml",
    )  # fmt: skip
    assert full.stdout == (
        "[-m][cmg_export][my runs/walk/x.pt][--out][engines/x][--data][a b.yaml][--num-envs][7]"
        "[--precision][fp16][--robot][r.xml]\n"
    )
    assert make(checkout, "engine", "CKPT=my runs/x.pt").stdout == "[-m][cmg_export][my runs/x.pt]\n"
    again = make(checkout, "parity", "CKPT=/data/walk/x.pt", "DATA=s.yaml")
    assert again.stdout == "[-m][cmg_export.parity][engines/walk][/data/walk/x.pt][--data][s.yaml]\n"


@needs_make
def test_training_passes_its_variables_on(checkout: Path) -> None:
    (checkout / "engines" / "x").mkdir(parents=True)
    (checkout / "engines" / "x" / "manifest.json").touch()
    full = make(
        checkout, "train", "OUT=engines/x", "NUM_ENVS=7", "BACKEND=torch", "ITERATIONS=3", "GPUS=2", "RESUME=1",
        "ARGS=--seed 5",
    )  # fmt: skip
    assert full.stdout == (
        "[-m][cmg_gym.train][--engine][engines/x][--num-envs][7][--backend][torch][--iterations][3][--gpus][2][--resume]"
        "[--seed][5]\n"
    )
    for target in ("play", "evaluate"):
        done = make(checkout, target, "OUT=engines/x", "POLICY=a b", "BACKEND=onnx")
        assert done.stdout == f"[-m][cmg_gym.{target}][--engine][engines/x][--policy][a b][--backend][onnx]\n"
    missing = make(checkout, "evaluate", "OUT=engines/y", "ARGS=--seconds 2", "NUM_ENVS=3")
    assert missing.stdout.splitlines()[0] == "[-m][cmg_export][CMG_Ref/runs/g1_neutral/cmg_final.pt][--out][engines/y]"


@needs_make
@pytest.mark.parametrize(
    ("arguments", "wrong", "right"),
    [
        ("engine ckpt=foo.pt", "ckpt", "CKPT"),
        ("engine CKPT=foo.pt NUM_ENV=7", "NUM_ENV", "NUM_ENVS"),
        ("engine BACKEND=torch", "BACKEND", "PRECISION"),  # another target's
        ("train gpus=2 NUM_ENVS=7", "gpus", "GPUS"),
        ("fuzz seconds=20", "seconds", "SECONDS"),
        ("test job=1", "job", "JOBS"),
        ("clean out=engines", "out", "PYTHON"),
    ],
)
def test_a_misspelt_variable_is_refused_in_one_line(checkout: Path, arguments: str, wrong: str, right: str) -> None:
    done = make(checkout, *arguments.split())
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    refused, taken = done.stderr.split("; it takes ")
    assert refused.endswith(f" takes no {wrong}") and right in taken.split()


@needs_make
def test_every_variable_that_a_target_uses_is_taken(checkout: Path) -> None:
    """What a recipe mentions, or what help and README show, is no misspelling."""
    text = (checkout / "Makefile").read_text()
    recipes = re.findall(r"^([a-z0-9-]+):[^\n]*##[^\n]*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert len(recipes) > 12
    for target, recipe in recipes:
        for name in re.findall(r"\$\((?:if |or |origin |filter-out \w+,\$\()?([A-Z_]+)[),]", recipe):
            if name not in ("PY", "PIP", "INSTALL", "VENV", "CHECKED", "MAKE", "MAKEFILE_LIST"):
                assert "takes no" not in make(checkout, "--dry-run", target, f"{name}=1").stderr, (target, name)


@needs_make
def test_paths_with_spaces(checkout: Path, tmp_path: Path) -> None:
    """Of the clone, and of the checkpoint."""
    checkout = checkout.rename(tmp_path.with_name(f"{tmp_path.name} my clone"))
    (checkout / "my runs" / "a walk").mkdir(parents=True)
    (checkout / "CMG_Ref" / "runs" / "g1_neutral").mkdir(parents=True)
    assert make(checkout, "parity").stdout == (
        "[-m][cmg_export.parity][engines/g1_neutral][CMG_Ref/runs/g1_neutral/cmg_final.pt]\n"
    )
    again = make(checkout, "parity", "CKPT=my runs/a walk/x.pt")
    assert again.stdout == "[-m][cmg_export.parity][engines/a walk][my runs/a walk/x.pt]\n"


@needs_make
def test_help_is_the_default_and_names_every_target(checkout: Path) -> None:
    done = make(checkout)
    assert done.returncode == 0
    targets = (
        "engine",
        "test",
        "test-py38",
        "parity",
        "demo",
        "bench",
        "train",
        "play",
        "evaluate",
        "lint",
        "fuzz",
        "clean",
    )
    for target in targets:
        assert f"make {target}" in done.stdout


@needs_make
def test_changed_list_installs_again(checkout: Path) -> None:
    assert "pip" not in make(checkout, "test").stdout
    later = (checkout / ".venv" / ".engine").stat().st_mtime + 10
    os.utime(checkout / "requirements" / "test.txt", (later, later))
    done = make(checkout, "test")
    assert "[--require-hashes]" in done.stdout and "[requirements/hashed/test.txt]" in done.stdout
    assert "[requirements/hashed/engine.txt]" not in done.stdout


@needs_make
def test_hashes_can_be_left_out(checkout: Path) -> None:
    (checkout / ".venv" / ".engine").unlink()
    done = make(checkout, "engine", "HASHES=0").stdout
    assert "[--constraint][requirements/engine.txt][torch]" in done and "[-r][requirements/engine.txt]" in done
    assert "hashes" not in done
    (checkout / ".venv" / ".engine").unlink()
    done = make(checkout, "engine").stdout
    for name in ("cuda", "engine"):
        assert f"[--no-deps][--require-hashes][-r][requirements/hashed/{name}.txt]" in done


@pytest.mark.parametrize("file", [*LISTS, "tensorrt-rtx.txt", "kernels.txt", "fuzz.txt"])
def test_hashed_lists_are_the_lists(file: str) -> None:
    """requirements/hash.sh has to be run again after a change."""
    hashed = (ROOT / "requirements" / "hashed" / file).read_text()
    if file == "engine.txt":
        hashed += (ROOT / "requirements" / "hashed" / "torch.txt").read_text()
    found = {}
    for entry in re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", hashed, flags=re.MULTILINE).strip()):
        first, *hashes = entry.split(" \\\n")
        assert hashes and all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", line) for line in hashes), first
        requirement = Requirement(first)
        found[canonicalize_name(requirement.name), str(requirement.specifier)] = requirement
    lines = [line for line in (ROOT / "requirements" / file).read_text().splitlines() if re.match("[a-z]", line)]
    listed = {(canonicalize_name(r.name), str(r.specifier)): r for r in map(Requirement, lines)}
    assert found.keys() == listed.keys()
    for python in ("3.10", "3.11", "3.13"):
        for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")):
            here = {"python_version": python, "python_full_version": python + ".1"}
            here |= {"sys_platform": system, "platform_machine": machine}
            for key, requirement in listed.items():
                counts = [r.marker is None or r.marker.evaluate(here) for r in (requirement, found[key])]
                assert counts[0] == counts[1], (key, here)


@needs_make
def test_no_python_is_one_line(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, "engine", "PYTHON=/no/such/python3.9")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and "/no/such/python3.9" in lines[0] and "3.10" in lines[0]
    assert not (checkout / ".venv").exists()


@needs_make
def test_clean_keeps_the_environment_and_the_documentation(checkout: Path) -> None:
    (checkout / "engines" / "g1_neutral").mkdir(parents=True)
    for file in ("engines/README.md", "engines/g1_neutral/manifest.json", "engines/.partial"):
        (checkout / file).touch()
    for folder in ("CMG_Ref", "export", "legged_gym", "tests"):
        (checkout / folder / "__pycache__").mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    assert [path.name for path in (checkout / "engines").iterdir()] == ["README.md"]
    assert not list(checkout.rglob("__pycache__"))
    assert (checkout / ".venv" / ".engine").exists()
