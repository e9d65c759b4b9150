"""One line per stage of a build: what it was, how long it took, what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from CMG_Ref.interrupts import raise_if_received

Note = Callable[[str], None]


@contextlib.contextmanager
def stage(name: str) -> Iterator[Note]:
    """Time the ``with`` block and print its line at the end; call what it yields to say what came of it.

    Raises:
        Interrupted: at the end, if what ran in the block has swallowed an interrupt.
    """
    notes: list[str] = []
    start = time.perf_counter()
    yield notes.append
    raise_if_received()
    print(f"  {name:<18} {time.perf_counter() - start:6.2f} s  {', '.join(notes)}".rstrip(), flush=True)
