"""What all command lines have in common, this package's and those built on it: every complaint is one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import tyro

from CMG_Ref import interrupts
from cmg_runtime.device.memory import short_of_memory
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.kept_files import naming

T = TypeVar("T")

FORESEEN: tuple[type[Exception], ...] = (ValueError, EngineError)
"""What this package raises for bad input."""

LARGEST_COUNT = (1 << 31) - 1
LARGEST_SEED = (1 << 32) - 1  # of NumPy's and mjlab's


def run(
    options: Callable[..., T],
    action: Callable[[T], int | None],
    arguments: Sequence[str] | None,
    module: str,
    foreseen: tuple[type[Exception], ...] = FORESEEN,
    interrupted: str = "interrupted",
    description: str | None = None,
) -> int:
    """Run the command line of ``python -m <module>``: parse ``options``, act.

    Args:
        options: what :func:`parse` takes.
        foreseen: what ``action`` raises for bad input, beside ``OSError`` and whatever says that memory is short.
        interrupted: what to say of an interrupt that does not say more itself.
        description: for ``--help``; None: the docstring of ``options``.

    Returns:
        The exit status: the action's own (None: 0); with one line on stderr 2 after what the user can put right, and
        130 after an interrupt; 143, without one, where SIGTERM has been noted (:func:`interrupts.note_interrupts`).

    Raises:
        SystemExit: see :func:`parse`.
    """
    try:
        parsed = parse(options, module, arguments, description)
        interrupts.begin()
        # Our own writers name their files; what then fails without a name is printing.
        with naming("standard output"), _threads_say_it_here():
            status = action(parsed) or 0
            _print_the_rest()
        return status
    except (KeyboardInterrupt, Exception) as error:
        number = interrupts.behind(error)
        if number == signal.SIGINT:
            more = f"interrupted; {error}" if isinstance(error, KeyboardInterrupt) and error.args else interrupted
            print(f"{module}: {more}", file=sys.stderr)
        if number is not None:
            return 128 + number
        line = complaint(error, foreseen)
        if not line:
            raise
        print(f"{module}: {line}", file=sys.stderr)
        return 2


def parse(options: Callable[..., T], module: str, arguments: Sequence[str] | None, description: str | None = None) -> T:
    """Parse the command line of ``python -m <module>``; tyro's framed complaints become one line.

    Args:
        options: a dataclass, or a function, whose arguments are the options; it must do no work.

    Raises:
        SystemExit: with status 2 after a complaint, 0 after ``--help``.
    """
    prog = f"python -m {module}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = (tyro.conf.PositionalRequiredArgs,)
            return tyro.cli(options, args=arguments, prog=prog, description=description, config=config)
    except SystemExit as end:
        if end.code:
            print(f"{module}: {unframed(said.getvalue())} (see {prog} --help)", file=sys.stderr)
        raise


def complaint(error: BaseException, foreseen: tuple[type[Exception], ...]) -> str:
    """One line on what the user can put right; empty where it is something else that went wrong."""
    if isinstance(error, (*foreseen, OSError)):
        return " ".join(str(error).split()) or type(error).__name__
    short = short_of_memory(error)
    return short and f"memory is short ({short}); ask for less at once, such as fewer environments, or free memory"


def require_positive(options: object, *names: str) -> None:
    """Refuse numbers that are not finite and above zero, and integers that no array has so many entries of.

    Raises:
        EngineError: names the option.
    """
    for name in names:
        _require_finite(name, getattr(options, name), above_zero=True)


def require_not_negative(options: object, *names: str) -> None:
    """Refuse numbers that are negative or not finite, and integers that no array has so many entries of.

    Raises:
        EngineError: names the option.
    """
    for name in names:
        _require_finite(name, getattr(options, name), above_zero=False)


def require_between(name: str, value: int, least: int, most: int = LARGEST_COUNT) -> None:
    """Refuse an integer outside ``least`` to ``most``.

    Raises:
        EngineError: names the option.
    """
    if value < least:
        raise EngineError(f"{_option(name)} is {value}; expected at least {least}")
    if value > most:
        raise EngineError(f"{_option(name)} is {value}; expected {least} to {most}")


def require_seed(seed: int, processes: int = 1) -> None:
    """Refuse what NumPy takes for no seed.

    Args:
        processes: how many take a seed each: this one and those that follow it.

    Raises:
        EngineError: it is not.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise EngineError(f"--seed is {seed}; expected 0 to {LARGEST_SEED}")
    if seed + processes - 1 > LARGEST_SEED:
        most = LARGEST_SEED - (processes - 1)
        raise EngineError(f"--seed is {seed}, and each of {processes} GPUs takes the next; expected 0 to {most}")


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means: "cpu", "cuda", or "auto" for CUDA where there is some.

    Raises:
        ValueError: another name, or CUDA where there is none.
    """
    cuda = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not cuda):
        raise ValueError(f"device {name!r} is not here; expected auto, cpu, or cuda on a machine with a GPU")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")


def unframed(text: str) -> str:
    """What tyro says in a box of lines or dashes, coloured or not, between the title and the next rule."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    lines = [line.strip("│|╭╮╰╯+ ") for line in plain.splitlines()]
    rules = re.compile(r"[─-]*")
    body = itertools.dropwhile(rules.fullmatch, lines[1:])  # in plain text there is a rule below the title
    said = list(itertools.takewhile(lambda line: not rules.fullmatch(line), body))
    return re.sub(r"^Error parsing [\w.]+: ", "", " ".join(" ".join(said or [plain]).split()))


def _require_finite(name: str, value: float, above_zero: bool) -> None:
    if isinstance(value, int):
        require_between(name, value, int(above_zero))
    elif not 0 <= value < math.inf or (above_zero and value == 0):  # NaN is in no range
        expected = "a finite number above 0" if above_zero else "a finite number, 0 or more"
        raise EngineError(f"{_option(name)} is {value:g}; expected {expected}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextlib.contextmanager
def _threads_say_it_here() -> Iterator[None]:
    """An ``OSError`` that ends another thread is raised at the end, unless one is here already: no traceback beside it.

    TensorBoard writes its files in a thread, and whoever uses the writer after it has failed gets the same error.
    """
    errors: list[BaseException] = []

    def note(ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, OSError):
            errors.append(ended.exc_value)
        else:
            before(ended)

    before, threading.excepthook = threading.excepthook, note
    try:
        yield
    finally:
        threading.excepthook = before
    if errors:
        raise errors[0]


def _print_the_rest() -> None:
    """See that what was printed arrives; Python would say that it did not in several lines, on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest of it can go
        raise
