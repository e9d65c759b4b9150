"""Interrupts that no command line can lose.

While a command line still imports what it needs, an interrupt ends the process. After that, what it raises comes up
wherever Python happens to be, and other libraries' code does not always pass it on: an import of ``torch._dynamo`` that
is left half way ends as an AttributeError, TensorRT's log prints it and goes on. So it is written down that one has
come, or it waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_starting = ""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come.

    A class of its own: Python ends itself by SIGINT, whatever its exit status was to be, once a plain KeyboardInterrupt
    has passed through ``exec`` of a string, which ``dataclasses`` and others use.
    """


def end_at_once(package: str) -> None:
    """Until :func:`begin`, SIGINT ends a command line of ``package`` with status 130 and one line.

    For the top of the package's ``__init__``: ``python -m package.module`` imports that first, and torch and simulators
    then take seconds. There is nothing yet to clean up, and their imports are not made to be left half way.
    """
    global _starting
    looking = sys.argv[:1] == ["-m"]  # so it says while Python has not found the module yet
    module = _module_asked_for() if looking else ""
    ours = module == package or module.startswith(package + ".")
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _starting = module
        signal.signal(signal.SIGINT, _end)


def begin() -> None:
    """All is imported: where :func:`end_at_once` held, SIGINT now raises :class:`Interrupted` and is noted."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _note)


def note_interrupts() -> None:
    """From now on SIGINT and SIGTERM raise :class:`Interrupted` and are noted, unless the process was started to ignore
    them. For a process of one's own."""
    for number in _heeded():
        signal.signal(number, _note)


def received() -> int | None:
    """The number of the first signal that was noted."""
    return _received[0] if _received else None


def behind(error: BaseException) -> int | None:
    """The number of the signal that ended up as ``error``, whatever libraries made of it on the way; None: none did."""
    return signal.SIGINT if received() is None and isinstance(error, KeyboardInterrupt) else received()


def raise_if_received() -> None:
    """Raise what a library may have swallowed.

    Raises:
        Interrupted: a signal has been noted.
    """
    if _received:
        raise Interrupted


def forget() -> None:
    """What was noted has been seen to; from now on the next one counts."""
    _received.clear()


@contextlib.contextmanager
def as_request() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C only asks: the function given out returns True from then on. A second one interrupts at once."""
    count = 0

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt("at once, without saving")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Let signals wait until the end of the ``with`` block, for code that no exception may leave.

    What is yielded says whether one is waiting.

    Raises:
        KeyboardInterrupt: at the end, whatever else happened, or what else the process does at that signal.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        yield lambda: False
        return
    before = {number: signal.signal(number, lambda came, _: waiting.append(came)) for number in _heeded()}
    try:
        yield lambda: bool(waiting)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _heeded() -> list[signal.Signals]:
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _module_asked_for() -> str:
    """Of ``python [options] -m module ...``."""
    words = iter(getattr(sys, "orig_argv", []))  # since Python 3.10
    word = next((word for word in words if word.startswith("-m")), "")
    return word[2:] or next(words, "")


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{_starting}: interrupted\n".encode())
    os._exit(128 + number)


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise Interrupted
