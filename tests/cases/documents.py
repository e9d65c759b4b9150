"""The documents: their blocks of Python, shell and text, and a folder in which what they show can be typed in."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bare_checkout import bare_checkout
from make_checkpoint import make_checkpoint
from python_process import environment

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *(path for folder in ("CMG_Ref", "engines", "legged_gym") for path in (ROOT / folder).rglob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """Lines that stand by themselves: fenced, in the language that the fence says, or indented, which are shell's."""

    page: str
    language: str
    text: str
    remark: str
    """Of the comment in the line above a fence."""

    @property
    def commands(self) -> list[str]:
        """A shell block's lines: continued ones as one, without comments."""
        lines = re.sub(r"\\\n *", "", self.text).splitlines()
        return [line for line in (re.sub(r"(^| +)#.*", "", line).strip() for line in lines) if line]


FENCED = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:\A|(?<=\n\n))((?: {4}[^\n]*\n)+)")


def page_name(path: Path) -> str:
    """``docs/frames.md``."""
    return path.relative_to(ROOT).as_posix()


def blocks(page: str) -> list[Block]:
    """A page's, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [(m.start(), Block(page, m[2] or "text", m[3], m[1] or "")) for m in FENCED.finditer(text)]
    unfenced = FENCED.sub(lambda m: re.sub(r"[^\n]", ".", m[0]), text)
    for match in INDENTED.finditer(unfenced):
        found.append((match.start(), Block(page, "sh", re.sub("^ {4}", "", match[1], flags=re.MULTILINE), "")))
    return [block for _, block in sorted(found, key=lambda each: each[0])]


def checkout(folder: Path, engine: Path) -> Path:
    """A clone as ``make`` leaves it, with this process's Python and with ``engine`` for the bundled one.

    A user's checkpoint is at path/to/cmg_final.pt: weights twice, an average of them under ``ema``.
    """
    bare_checkout(folder)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "engines").mkdir()
    for name in ("g1_all", "g1_neutral"):
        (folder / "engines" / name).symlink_to(engine)
    for name in ("CMG_Ref", "examples", "legged_gym", "tests"):
        (folder / name).symlink_to(ROOT / name)
    made = make_checkpoint(folder / "path" / "to", num_joints=5, hidden_dim=24)
    held = torch.load(made.path, weights_only=False)
    torch.save({**held, "ema": {name: 0.9 * weight for name, weight in held["model_state_dict"].items()}}, made.path)
    return folder


def other_words(text: str, words: Mapping[str, str]) -> str:
    """With these instead of some that stand there."""
    for there, here in words.items():
        text = text.replace(there, here)
    return text


def run_python_text(text: str, names: dict[str, object]) -> None:
    """In this process and folder, with and into ``names``; what it prints goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "a document", "exec"), names)


def run_shell(lines: Sequence[str], folder: Path) -> None:
    """One after the other in one shell in ``folder``, whose ``python`` is the clone's; each succeeds."""
    path = os.pathsep.join([str(folder / ".venv" / "bin"), os.environ["PATH"]])
    outer = environment(PATH=path, OMP_NUM_THREADS="1")
    inner = {name: value for name, value in outer.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder, env=inner, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
