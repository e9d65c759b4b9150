"""Work on fixed buffers, recorded once and run again and again: as CUDA graphs, and on a CPU as plain calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece


class Recorder:
    """Records for one device; what it records is called in the order of one stream.

    Buffers that are made in ``torch.inference_mode`` cannot be changed outside of it, and gradients need that: so
    everything here is outside.
    """

    def __init__(self, device: torch.device) -> None:
        self._recorder = GraphRecorder(device) if device.type == "cuda" else None

    def record(self, run: Callable[[], None], changes: Sequence[torch.Tensor] = ()) -> Callable[[], None]:
        """What does the work of ``run``, without gradients unless ``run`` asks for them.

        Args:
            run: enqueues work on buffers that stay where they are; it waits for nothing and keeps nothing else.
            changes: buffers that ``run`` changes and that have to be as before, though a GPU runs it to record it.
        """
        if self._recorder is None:
            return torch.inference_mode(False)(torch.no_grad()(run))
        with torch.inference_mode(False), torch.no_grad():
            before = [buffer.clone() for buffer in changes]
            program = self._recorder.record([Piece(run)])
            for buffer, value in zip(changes, before, strict=True):
                buffer.copy_(value)
        return program
