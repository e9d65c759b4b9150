"""What the documents show can be typed in: their Python runs, and their commands are there with these options.

A block that is not run has a line `<!-- not run: why -->` above it; one that is another file's text,
`<!-- from path -->`; one that a test here runs by itself, `<!-- run by name -->`. Commands build, train and measure for
minutes or days, and have tests of their own; here they are held to the Makefile and to what `--help` says.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bare_checkout import bare_checkout, make, needs_make
from gym_case import deployable_engine
from python_process import run_python

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *(path for folder in ("CMG_Ref", "engines", "legged_gym") for path in (ROOT / folder).rglob("*.md")),
]

HERE = () if torch.cuda.is_available() else (
    ('"cuda"', '"cpu"'), ("4096", "64"), ("num_frames=500", "num_frames=20"),
    ("CommandSampler(64)", 'CommandSampler(64, "cpu")'), ('mode="realtime"', 'mode="realtime", device="cpu"'),
)  # fmt: skip
"""What is written otherwise where there is no GPU."""

OTHERS = ("pytest", "tensorboard")
"""Modules whose options are not ours; nor are lines that begin with sudo, pip, ncu or nsys, or TWIST's."""


@dataclass(frozen=True)
class Block:
    """Lines of Python in a document, and what the comment above them says."""

    document: Path
    text: str
    remark: str


class StandIn:
    """What docs/deploy.md calls a robot: one that stands still for five steps, whatever it is sent."""

    def __init__(self) -> None:
        self.steps = iter([True] * 5)
        self.gyroscope, self.gravity = (lambda: np.zeros(3)), (lambda: np.array([0.0, 0.0, -1.0]))
        self.positions = self.velocities = lambda names: np.zeros(len(names))
        self.sent: list[tuple[object, ...]] = []

    @property
    def on(self) -> bool:
        return next(self.steps, False)

    def send(self, *what: object) -> None:
        self.sent.append(what)


def blocks() -> list[Block]:
    found = []
    for path in DOCUMENTS:
        for remark, text in re.findall(r"(?:<!-- ([^\n]*) -->\n)?```python\n(.*?)```", path.read_text(), re.DOTALL):
            found.append(Block(path, text, remark))
    return found


RUN_BY = {"formats.md": "test_formats_page"}
"""Pages whose Python and commands a test file of their own runs."""

PAGES = sorted({block.document for block in blocks() if not block.remark and block.document.name not in RUN_BY})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks one after the other, in a folder with the bundled engine and policy; smaller without a GPU."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "g1_neutral").symlink_to(deployable_engine())
    (tmp_path / "legged_gym").symlink_to(ROOT / "legged_gym")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__", "robot": StandIn(), "joystick": lambda: (0.5, 0.0, 0.0)}
    for block in blocks():
        if block.document == page and not block.remark:
            text = block.text
            for given, here in HERE:
                text = text.replace(given, here)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, str(page), "exec"), names)


def test_what_is_not_run_is_another_files_or_says_why() -> None:
    for block in blocks():
        if block.document.name in RUN_BY:
            test = ROOT / "tests" / "project" / f"{RUN_BY[block.document.name]}.py"
            assert f'"{block.document.name}"' in test.read_text()
        elif block.remark:
            kind, _, what = block.remark.partition(" ")
            assert kind in ("from", "run") or (block.remark.startswith("not run: ") and len(what) > 15), block.remark
            if kind == "from":
                assert block.text in (ROOT / what).read_text(), (block.document, what)
            if kind == "run":
                assert what.removeprefix("by ") in globals()


@pytest.mark.slow
def test_another_robots_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From clips by formula to frames of a Go1, as docs/another_robot.md says, with a training of some steps."""
    from mjlab.asset_zoo.robots.unitree_go1.go1_constants import GO1_XML

    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "another_robot.md"
    samples, frames = (b.text for b in blocks() if b.document == page and not b.remark.startswith("from"))
    exec(compile(samples, "trot.py", "exec"), {"__name__": "__main__"})
    given = [words for where, words in commands() if where.startswith(page.name)]
    for module, longer, shorter in (
        ("CMG_Ref.train", "--phases 1500 1 1000 4 500 16", "--phases 20 1 5 4"),
        ("cmg_export", "$ROBOT", f"{GO1_XML} --precision fp32"),
    ):
        (words,) = ([*words[3:]] for words in given if words[2:3] == [module])
        arguments = " ".join(words).replace(longer, shorter)
        assert shorter in arguments
        done = run_python("-m", module, *arguments.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    exec(frames, {})


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of ours in the documents' blocks: where it stands, and its words."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text().replace("\\\n", " ")
        fenced = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        indented = "\n".join(re.findall(r"^ {4}(.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE))
        for line in (fenced + indented).splitlines():
            if re.match(r"(?:[A-Z_]+=\S+ )*(?:make|\S*python) ", line):
                words = shlex.split(line, comments=True)
                found.append((f"{path.name}: {line}", [word for word in words if not word.startswith("PYTHONPATH=")]))
    return found


@needs_make
def test_what_is_made_is_a_target_that_takes_these_variables(tmp_path: Path) -> None:
    checkout = bare_checkout(tmp_path)
    for folder in ("CMG_Ref/runs/g1_neutral", "path/to"):
        (checkout / folder).mkdir(parents=True)
    given = {" ".join(words[1:]): words[1:] for _, words in commands() if words[0] == "make"}
    given |= {found: shlex.split(found) for found in _made_in_text()}
    assert len(given) > 20
    for arguments in given.values():
        done = make(checkout, "--dry-run", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


def _made_in_text() -> set[str]:
    """What stands after make in code within a sentence, where it is whole: `make bench ARGS=--quick`.

    docs/reliability.md has misspelt ones, to say what happens then.
    """
    pages = [path for path in DOCUMENTS if path.name != "reliability.md"]
    found = {each for path in pages for each in re.findall(r"`make ([a-z][^`\n]*)`", path.read_text())}
    return {each for each in found if not re.search(r"=(?: |$)|\.\.\.|\$", each)}


@pytest.mark.slow
def test_what_is_run_as_a_module_has_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    helps: dict[str, str] = {}
    for where, words in commands():
        if words[0].endswith("python") and words[1] == "-m" and words[2] not in OTHERS:
            module = words[2]
            helps[module] = helps.get(module) or _help(module, monkeypatch)
            for word in words[3:]:
                option = re.match(r"\[?(--[a-z][\w.-]*)", word)
                assert not option or option[1] == "--help" or option[1] in helps[module], where
    assert len(helps) > 10


def _help(module: str, monkeypatch: pytest.MonkeyPatch) -> str:
    found = importlib.import_module(module)
    main = importlib.import_module(f"{module}.__main__").main if hasattr(found, "__path__") else found.main
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main()
    return said.getvalue()
