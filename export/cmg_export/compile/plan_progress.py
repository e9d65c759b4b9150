"""What TensorRT is doing, on one line of a terminal; a build can take a minute on a card of the larger kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def make_monitor(trt: Any, interrupted: Callable[[], bool]) -> Any:
    """A progress monitor for a builder's configuration. Call ``finish()`` after the build.

    Outside a terminal it shows nothing. TensorRT ends the build at the next step after ``interrupted()`` is true.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._shown = sys.stderr.isatty()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._show(f"{phase_name}: {step + 1} of {self._steps.get(phase_name, '?')}")
            return not interrupted()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def finish(self) -> None:
            self._show("")

        def _show(self, text: str) -> None:
            if self._shown:
                print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    return Monitor()
