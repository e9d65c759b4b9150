"""Making the windows of some environments anew, from their current frames."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence, Tuple

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece, Program, run_eagerly
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.state import EngineState, WindowBuffers

BATCHES = (16, 64, 256, 1024)
"""On CUDA a rebuild runs at the next of these sizes, of its backend's own, or at ``num_envs``; each is a graph."""

FRAMES_AT_ONCE = 32768
"""Generated frames, over all environments, that wait in memory for their kinematics (8 MB for a G1)."""

ALIGNMENT = 64
"""Floats. The network's inputs and outputs begin at multiples of 256 bytes, as TensorRT asks."""


def batch_sizes(num_envs: int, batches: Sequence[int]) -> Tuple[int, ...]:
    """Sizes at which windows are rebuilt, ascending; ``batches``: the backend's own."""
    return tuple(sorted(size for size in {*BATCHES, *batches} if size < num_envs)) + (num_envs,)


class Rebuilds:
    """What follows a change of some environments. On CUDA it is a graph for each of a few sizes.

    Args:
        changes: of the environments; what is left of one to do runs first.
        pieces: what to run for columns [size] int64. They are read when it runs, and written before.
    """

    def __init__(self, changes: Changes, pieces: Callable[[torch.Tensor], List[Piece]]) -> None:
        self._changes = changes
        self._pieces = pieces
        self._programs: Dict[int, Tuple[torch.Tensor, Program]] = {}

    def record(self, recorder: GraphRecorder, sizes: Sequence[int], device: torch.device) -> None:
        """As CUDA graphs of these ``sizes``, ascending; the largest is recorded first."""
        recorded: List[Tuple[int, torch.Tensor, Program]] = []
        for size in reversed(sizes):
            ids = torch.arange(size, device=device)
            recorded.append((size, ids, recorder.record(self._changes.pieces(ids) + self._pieces(ids))))
        self._programs = {size: (ids, program) for size, ids, program in reversed(recorded)}

    def run(self, envs: EnvSelection) -> None:
        """After a change of ``envs``."""
        n = envs.num_rows
        if n == 0:
            return
        if not self._programs:
            ids = self._changes.columns(envs)
            if len(ids):  # of a mask on a host perhaps none
                run_eagerly(self._changes.pieces(ids) + self._pieces(ids))
            return
        ids, program = self._programs[next(size for size in self._programs if size >= n)]
        self._changes.write_columns(envs, ids)
        program()


class WindowRebuild:
    """The rebuild of the windows of as many environments as ``ids`` has entries.

    ``horizon - 1`` network steps for these environments only, in chunks whose frames then go through the
    kinematics together and are scattered into the ring. No other column is written.

    Args:
        ids: [n] int64 columns; read whenever a piece runs. The scratch column may occur many times. On a CPU
            each column of an environment occurs once; on CUDA one that occurs twice is written twice, alike.
        workspace: at least :meth:`workspace_size` float32, whose contents mean nothing between rebuilds.
    """

    def __init__(
        self,
        buffers: WindowBuffers,
        state: EngineState,
        writer: FrameWriter,
        ids: torch.Tensor,
        workspace: torch.Tensor,
    ) -> None:
        self._buffers = buffers
        self._state = state
        self._writer = writer
        self._ids = ids
        n = len(ids)
        motion_dim, command_dim = buffers.current.shape[1], buffers.next_command.shape[1]
        self._chunk = frames_at_once(n, buffers.horizon)
        shapes = _shapes(n, self._chunk, motion_dim, command_dim)
        self._motions, self._commands, (self._root,) = _carve(workspace, shapes)

    @staticmethod
    def workspace_size(n: int, buffers: WindowBuffers) -> int:
        """Floats that a rebuild of ``n`` windows needs."""
        motion_dim, command_dim = buffers.current.shape[1], buffers.next_command.shape[1]
        return workspace_floats(n, buffers.horizon, motion_dim, command_dim)

    def pieces(self) -> List[Piece]:
        """What to run, in order."""
        pieces = [Piece(self._begin)]
        last = self._buffers.horizon - 1
        for first in range(1, last + 1, self._chunk):
            count = min(self._chunk, last + 1 - first)
            pieces.append(Piece(lambda first=first, count=count: self._ramp(first, count)))
            network = Piece(lambda first=first, count=count: self._infer(first, count), self._state.captures_network)
            pieces.append(network)
            pieces.append(Piece(lambda first=first, count=count: self._write(first, count)))
        pieces.append(Piece(self._end))
        return pieces

    def _begin(self) -> None:
        self._writer.place(self._buffers, self._ids, self._root)
        torch.index_select(self._buffers.current, 0, self._ids, out=self._motions[0])

    def _ramp(self, first: int, count: int) -> None:
        self._writer.commands(self._buffers, self._ids, first, self._commands[:count])

    def _infer(self, first: int, count: int) -> None:
        state, motions = self._state, self._motions
        state.backend.rollout(motions[0], self._commands[:count], motions[1 : count + 1], state.guard, self._ids, first)

    def _write(self, first: int, count: int) -> None:
        motions, commands = self._motions[1 : count + 1], self._commands[:count]
        self._writer.extend(self._buffers, self._ids, motions, commands, self._root, first)
        self._motions[0].copy_(self._motions[count])

    def _end(self) -> None:
        self._writer.finish(self._buffers, self._ids, self._motions[0], self._root)


def workspace_floats(n: int, horizon: int, motion_dim: int, command_dim: int) -> int:
    """Floats that a rebuild of ``n`` windows needs."""
    shapes = _shapes(n, frames_at_once(n, horizon), motion_dim, command_dim)
    return sum(count * _padded(rows * width) for count, rows, width in shapes)


def frames_at_once(n: int, horizon: int) -> int:
    """Frames of each of ``n`` environments that go through the kinematics together."""
    return min(horizon - 1, max(FRAMES_AT_ONCE // max(n, 1), 1))


def _shapes(n: int, chunk: int, motion_dim: int, command_dim: int) -> List[Tuple[int, int, int]]:
    """(count, rows, width) of the motions, the commands and the root states."""
    return [(chunk + 1, n, motion_dim), (chunk, n, command_dim), (1, n, 4)]


def _padded(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT


def _carve(workspace: torch.Tensor, shapes: Sequence[Tuple[int, int, int]]) -> List[torch.Tensor]:
    """Views [count, rows, width] of the workspace, one after the other; each [rows, width] contiguous and aligned."""
    views, first = [], 0
    for count, rows, width in shapes:
        pitch = _padded(rows * width)
        block = workspace[first : first + count * pitch].view(count, pitch)
        views.append(block[:, : rows * width].unflatten(1, (rows, width)))
        first += count * pitch
    return views
