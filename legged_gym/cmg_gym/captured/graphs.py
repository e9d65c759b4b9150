"""A sequence of pieces of code, run with as many of them as possible in CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cmg_runtime import EngineError
from cmg_runtime.device.graphs import no_garbage_collection
from cmg_runtime.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cmg_gym.captured.constants import HostConstants
    from cmg_gym.captured.state import State


@dataclass
class Piece:
    """A part of the step.

    Attributes:
        name: for messages.
        run: does it. Python code of a captured piece runs only while it is captured.
        captured: whether it goes into a graph. Not: launches that are graphs themselves, and what cannot be captured.
        pure: it only reads the simulation, so that what it computes from it twice may be computed once.
        reason: why it is not captured, where that is for the user to know.
        binds: it may bind attributes to new tensors. Launches of Warp's graphs do not.
    """

    name: str
    run: Callable[[], None]
    captured: bool = True
    pure: bool = False
    reason: str = ""
    binds: bool = True


class Graph(Protocol):
    """Records a function's work on the device once and repeats it on the same memory."""

    def capture(self, run: Callable[[], None]) -> None:
        """Record what ``run`` does, without doing it."""
        ...

    def replay(self) -> None:
        """Do it."""
        ...


class Graphs(Protocol):
    """Makes graphs."""

    def begin(self) -> None:
        """Those that are made from here on replace the others."""
        ...

    def new(self, generators: list[torch.Generator]) -> Graph:
        """An empty graph, whose code draws from ``generators``, besides torch's own for the device."""
        ...

    def refusing(self) -> AbstractContextManager[Any]:
        """A context in which what a graph does not allow raises a RuntimeError."""
        ...


class CudaGraphs:
    """CUDA graphs on one stream, with memory in common: replayed in the order of their capture, one at a time.

    Args:
        stream: Warp's. mjlab writes simulation data on that one, wherever torch is.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def begin(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def new(self, generators: list[torch.Generator]) -> Graph:
        return _CudaGraph(self._stream, self._pool, generators)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _CudaGraph:
    def __init__(self, stream: torch.cuda.Stream, pool: Any, generators: list[torch.Generator]) -> None:
        self._stream = stream
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)

    def capture(self, run: Callable[[], None]) -> None:
        with torch.cuda.graph(self._graph, self._pool, self._stream, capture_error_mode="thread_local"):
            run()

    def replay(self) -> None:
        self._graph.replay()


class Sequence:
    """Runs pieces in their order; neighbours that are captured share a graph.

    Args:
        pieces: what to run.
        state: what they keep: see :meth:`State.settle`.
        graphs: None: every piece runs as it is, at every step.
        constants: constants of the host, which are on the device while pieces are captured.
        sharing: a context in which what is read of the simulation is computed once; around pure pieces while they are
            captured.
    """

    def __init__(
        self,
        pieces: list[Piece],
        state: State,
        graphs: Graphs | None,
        constants: HostConstants,
        sharing: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._pieces = pieces
        self._state = state
        self._graphs = graphs
        self._constants = constants
        self._sharing = sharing
        self._program: list[Callable[[], None]] = [piece.run for piece in pieces]
        self.num_graphs = 0

    def capture(self) -> None:
        """Capture the pieces that are to be, as they are now.

        Raises:
            EngineError: something in them cannot be captured, which nobody had found out before.
        """
        if self._graphs is None:
            return
        self._capture_all(self._graphs)
        if self._constants.bring_missing():  # of settings that have changed
            self._capture_all(self._graphs)
        if self._constants.bring_missing():
            raise EngineError("a term gives the device other numbers at every call; run it with --no-captured")

    def _capture_all(self, graphs: Graphs) -> None:
        self._state.keep()
        graphs.begin()
        self._program.clear()
        self.num_graphs = 0
        gc.collect()  # of what would otherwise keep memory of the graphs that are replaced
        with no_garbage_collection():
            for captured, group in grouped(self._pieces):
                if captured:
                    graph = graphs.new(self._state.generators())
                    self._capture_group(graph, group)
                    self._program.append(graph.replay)
                    self.num_graphs += 1
                else:
                    self._program.extend(piece.run for piece in group)

    def _capture_group(self, graph: Graph, group: list[Piece]) -> None:
        try:
            graph.capture(lambda: self._run_group(group))
        except RuntimeError as error:
            names = ", ".join(dict.fromkeys(piece.name for piece in group))
            reason = first_line(error)
            raise EngineError(f"the step cannot be captured ({names}: {reason}); run it with --no-captured") from error

    def run(self) -> None:
        """A step."""
        for run in self._program:
            run()

    def _run_group(self, group: list[Piece]) -> None:
        with self._constants.while_captured():
            self._run_pieces(group)
            self._state.settle()

    def _run_pieces(self, group: list[Piece]) -> None:
        for pure, pieces in _by(group, lambda piece: piece.pure):
            if not pure:
                for piece in pieces:
                    piece.run()
                continue
            with self._sharing():
                for piece in pieces:
                    piece.run()


def grouped(pieces: list[Piece]) -> list[tuple[bool, list[Piece]]]:
    """Neighbours that are captured, and that are not, together."""
    return _by(pieces, lambda piece: piece.captured)


def _by(pieces: list[Piece], trait: Callable[[Piece], bool]) -> list[tuple[bool, list[Piece]]]:
    return [(value, list(group)) for value, group in groupby(pieces, trait)]
