"""Sequences of device work as CUDA graphs; on a CPU, and for work that cannot be captured, as plain calls.

What is captured is a plain function on buffers whose addresses never change; a CPU runs the same function.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence

import torch

from cmg_runtime.errors import first_line

logger = logging.getLogger(__name__)

WARM_UPS = 3
"""Just-in-time compilers profile the first call and compile in the next; libraries set up their handles meanwhile."""


class Piece(NamedTuple):
    """A part of a sequence: ``run`` enqueues work on the current stream and allocates nothing that outlives it."""

    run: Callable[[], None]
    capturable: bool = True


class Program:
    """Pieces that run one after the other, each run of capturable ones as one graph.

    Runs on the caller's current stream, and the host does not wait. Where that stream is being captured by the
    caller, the pieces are enqueued one by one, so that they become part of the caller's graph.
    """

    def __init__(self, pieces: Sequence[Piece], steps: Sequence[Callable[[], None]], device: torch.device) -> None:
        self._pieces = pieces
        self._steps = steps
        self._device = device

    def __call__(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            with torch.cuda.device(self._device), torch.no_grad():
                run_eagerly(self._pieces)
            return
        for step in self._steps:
            step()


def run_eagerly(pieces: Sequence[Piece]) -> None:
    """Run all pieces as they are."""
    for piece in pieces:
        piece.run()


class GraphRecorder:
    """Records programs for one CUDA device, from one private memory pool.

    The graphs share the pool, which is sound because none of their own memory carries anything from one replay to
    the next, and they are replayed in order on one stream at a time. Record the largest first: the others then fit
    into its memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Two streams. cuBLAS keeps a workspace per stream, allocated at the stream's first product. On a stream that
        # only captures, that happens within the capture, so the workspace belongs to the pool and lives as long as
        # the graphs do, whatever other libraries do to cuBLAS's workspaces.
        self._warm_up_stream = torch.cuda.Stream(device)
        self._capture_stream = torch.cuda.Stream(device)

    @torch.no_grad()
    def record(self, pieces: Sequence[Piece]) -> Program:
        """Run the pieces :data:`WARM_UPS` times, then capture them. What the runs did to the buffers stays done."""
        # The stream too: torch leaves the thread on the stream of a capture that fails.
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            torch.cuda.synchronize(self._device)
            with torch.cuda.stream(self._warm_up_stream):
                for _ in range(WARM_UPS):
                    run_eagerly(pieces)
            torch.cuda.synchronize(self._device)
            steps: List[Callable[[], None]] = []
            for group in _groups(pieces):
                if group[0].capturable:
                    steps.append(self._capture(group).replay)
                else:
                    steps.extend(piece.run for piece in group)
        return Program(pieces, steps, self._device)

    def _capture(self, pieces: Sequence[Piece]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads (a data loader, another library's own capture) may go on allocating.
            with no_garbage_collection(), torch.cuda.graph(
                graph, pool=self._pool, stream=self._capture_stream, capture_error_mode="thread_local"
            ):
                run_eagerly(pieces)
        except BaseException:
            _end_capture_in_allocator(self._device, self._pool)
            raise
        return graph


def can_be_captured(step: Callable[[], None], device: torch.device) -> bool:
    """Whether ``step`` can be recorded on ``device``, found out by doing it.

    Some libraries know only in a capture that they cannot be captured.
    """
    try:
        GraphRecorder(device).record([Piece(step)])
    except torch.cuda.OutOfMemoryError:
        raise  # it says nothing of the library; outside of graphs it would only be slower for good
    except RuntimeError as error:  # CUDA's errors, and EngineError
        logger.info("the network runs outside of the engine's CUDA graphs: %s", first_line(error))
        return False
    return True


def _end_capture_in_allocator(device: torch.device, pool: Any) -> None:
    """After a capture that CUDA broke off, torch's allocator (before torch 2.12) takes it to be going on for ever, and
    every later capture fails. There is no public way to tell it."""
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # new and old torch
        end = getattr(torch._C, name, None)
        if end is not None:
            with contextlib.suppress(RuntimeError, TypeError):  # it knows already; a torch of before 2.2
                end(device.index, pool)
            return


def _groups(pieces: Sequence[Piece]) -> List[List[Piece]]:
    """The pieces in order, neighbours that are alike together."""
    groups: List[List[Piece]] = []
    for piece in pieces:
        if groups and groups[-1][0].capturable == piece.capturable:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection within a capture could free another graph or an event, which the capture would not survive."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
