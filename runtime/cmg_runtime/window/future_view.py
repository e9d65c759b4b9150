"""The frames at fixed offsets and the command in force, in memory that stays the same: for what is read every step."""

from __future__ import annotations

import functools
from typing import Any, Tuple

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece, run_eagerly
from cmg_runtime.device.lifetime import NotCopied
from cmg_runtime.window.plain.ahead import AheadCopy
from cmg_runtime.window.readiness import Readiness, of_a_sound_engine
from cmg_runtime.window.ring import Window
from cmg_runtime.window.state import WindowBuffers


class FutureView(NotCopied):
    """Made by :meth:`cmg_runtime.Engine.future_view`. On CUDA a refresh is one graph, and nothing is allocated.

    Attributes:
        frames: [num_envs, K, ...] as of :meth:`cmg_runtime.Engine.future`, at the last refresh. Not contiguous.
        command: [num_envs, 3] float32, the command in force at the current frame, at the last refresh.

    What the graph reads and writes belongs to the view, for as long as there is one: nobody else may let go of it.
    """

    def __init__(self, window: Window, offsets: Tuple[int, ...], ready: Readiness) -> None:
        buffers = window.buffers
        self._ready = ready
        with torch.inference_mode(False):  # else it could not be refreshed outside of the caller's inference mode
            copy = window.ahead.new(offsets)
            self._rows = window.new_rows(len(offsets)).zero_()
            self._command = torch.zeros_like(buffers.ramp.target[: buffers.num_envs])
            self.frames = window.split(self._rows)
            # A function, not a method of this object, which would then keep itself alive.
            pieces = [Piece(functools.partial(_read, copy, window.buffers, self._rows, self._command))]
            self._program: Any = functools.partial(run_eagerly, pieces)
            if self._rows.device.type == "cuda":
                self._program = GraphRecorder(self._rows.device).record(pieces)

    @property
    def command(self) -> torch.Tensor:
        return self._command

    @of_a_sound_engine
    def refresh(self) -> None:
        """Bring both up to date, in place. The host does not wait.

        Raises:
            EngineError: some environment was never reset, or the engine has failed.
        """
        self._ready.require_reset("refresh()")
        self._program()


def _read(copy: AheadCopy, buffers: WindowBuffers, rows: torch.Tensor, command: torch.Tensor) -> None:
    copy(rows)
    command.copy_(buffers.ramp.now()[: buffers.num_envs])
