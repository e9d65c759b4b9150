"""Command lines whose every complaint is one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from cmg_export import interrupts
from cmg_export.errors import ExportError
from cmg_runtime.errors import EngineError

T = TypeVar("T")


def parse(options: type[T], module: str, args: Sequence[str] | None) -> T:
    """Parse the command line of ``python -m <module>`` into a dataclass; tyro's framed complaints become one line.

    Raises:
        SystemExit: with status 2 after a complaint, 0 after ``--help``.
    """
    prog = f"python -m {module}"
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(options, args=args, prog=prog, config=(tyro.conf.PositionalRequiredArgs,))
    except SystemExit as end:
        if end.code:
            print(f"{module}: {unframed(complaint.getvalue())} (see {prog} --help)", file=sys.stderr)
        raise


def require_positive(options: object, *names: str) -> None:
    """Refuse numbers that are not finite and above zero.

    Raises:
        EngineError: names the option.
    """
    for name in names:
        value = getattr(options, name)
        if not 0 < value < math.inf:  # NaN is neither
            raise EngineError(f"--{name.replace('_', '-')} is {value:g}; expected a finite number above 0")


def require_not_negative(options: object, *names: str) -> None:
    """Refuse numbers below zero.

    Raises:
        EngineError: names the option.
    """
    for name in names:
        value = getattr(options, name)
        if not value >= 0:  # NaN is not
            raise EngineError(f"--{name.replace('_', '-')} is {value:g}; expected 0 or more")


def require_seed(seed: int) -> None:
    """Refuse what NumPy takes for no seed.

    Raises:
        EngineError: it is not.
    """
    if not 0 <= seed < 1 << 32:
        raise EngineError(f"--seed is {seed}; expected 0 to {(1 << 32) - 1}")


def exit_status(module: str, work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """What ``work`` returns; 2 after a failure that it foresees, 130 after an interrupt, with one line on stderr."""
    try:
        return work()
    except (KeyboardInterrupt, Exception) as error:
        if interrupts.behind(error) is not None:
            print(f"{module}: {interrupted}", file=sys.stderr)
            return 130
        if not isinstance(error, (ExportError, EngineError)):
            raise
        print(f"{module}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def unframed(text: str) -> str:
    """What tyro says in a box of lines or dashes, coloured or not, between the title and the next rule."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    lines = [line.strip("│|╭╮╰╯+ ") for line in plain.splitlines()]
    rules = re.compile(r"[─-]*")
    body = itertools.dropwhile(rules.fullmatch, lines[1:])  # in plain text there is a rule below the title
    said = list(itertools.takewhile(lambda line: not rules.fullmatch(line), body))
    return " ".join(" ".join(said or [plain]).split())
