"""What TensorRT is doing, on one line of a terminal; a build can take a minute on a card of the larger kind."""

from __future__ import annotations

import sys
from typing import Any


def make_monitor(trt: Any) -> Any:
    """A progress monitor for a builder's configuration. Call ``finish()`` after the build.

    Outside a terminal it shows nothing. An interrupt ends the build at its next step: TensorRT's own code is not left
    by an exception, so it is kept and raised by ``finish()``.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._shown = sys.stderr.isatty()
            self._interrupt: KeyboardInterrupt | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guarded(self._steps.__setitem__, phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guarded(self._show, f"{phase_name}: {step + 1} of {self._steps.get(phase_name, '?')}")
            return self._interrupt is None

        def phase_finish(self, phase_name: str) -> None:
            self._guarded(self._steps.pop, phase_name, None)

        def finish(self) -> None:
            self._show("")
            if self._interrupt is not None:
                raise self._interrupt

        def _guarded(self, function: Any, *arguments: Any) -> None:
            try:
                function(*arguments)
            except KeyboardInterrupt as interrupt:
                self._interrupt = interrupt

        def _show(self, text: str) -> None:
            if self._shown:
                print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    return Monitor()
