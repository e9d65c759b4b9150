"""What this package's command lines have in common."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


def run(name: str, work: Callable[[], int | None]) -> int:
    """Run ``work``; the exit status is its own (None: 0), 2 after bad input, 130 after an interrupt.

    Bad input is a ``ValueError`` or an ``OSError``; it and an interrupt become one line on stderr.
    """
    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{name}: interrupted{'; ' if interrupt.args else ''}{interrupt}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C only makes the function given out return True; a second one interrupts at once."""
    count = 0

    def on_interrupt(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt("at once, without saving")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means: "cpu", "cuda", or "auto" for CUDA where there is some.

    Raises:
        ValueError: another name, or CUDA where there is none.
    """
    cuda = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not cuda):
        raise ValueError(f"device {name!r} is not here; expected auto, cpu, or cuda on a machine with a GPU")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")
