"""Processes killed, and disks looked at, before each operation on a file."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.scandir", "ctypes.dlsym")
"""Raised by Python's runtime before each operation; the last stands for ``renameat2``, which it does not know."""


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by relative path; empty if there is none."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def concerns(event: str, args: tuple[Any, ...], under: Path) -> bool:
    """Whether an audit event is an operation on a file below a folder."""
    if event not in FILE_EVENTS:
        return False
    target, *rest = args  # a path, or the number of a file that was opened before
    relative = isinstance(target, str) and not os.path.isabs(target)
    opened_before = isinstance(target, int) or (relative and bool(rest) and rest[0] != -1)
    return event == "ctypes.dlsym" or opened_before or str(target).startswith(str(under))


def in_child(task: Callable[[], Any]) -> int:
    """Run it in a forked process; the process's number."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    """0, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_command(main: Callable[[], int], arguments: list[str]) -> None:
    """A command line of the project, in a process that is there for it."""
    sys.argv[1:] = arguments
    sys.exit(main())


def killed_at(operation: int, under: Path, task: Callable[[], Any]) -> bool:
    """Run the task in a process killed before its n-th file operation under a folder; whether it came to that."""

    def run() -> None:
        left = operation

        def count(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            if concerns(event, args, under):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        task()

    status = ended(in_child(run))
    assert status in (0, -signal.SIGKILL)
    return status != 0


class Snapshots:
    """Copies of a folder as a process killed before each of its file operations would leave it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watching = False
        self.states: list[dict[str, bytes]] = []
        self.operations = 0
        sys.addaudithook(self._look)  # for the life of the process: there is no way to remove one

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching or not concerns(event, args, self._folder):
            return
        self._watching = False  # looking is made of file operations, too
        self.operations += 1
        state = contents(self._folder)
        if not self.states or state != self.states[-1]:
            self.states.append(state)
        self._watching = True
