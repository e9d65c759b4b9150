"""The window: the current frame and the next ``horizon - 1`` of every environment, in a ring on the device."""

from __future__ import annotations

import functools
from typing import Dict, List, Optional, Tuple

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece, Program, run_eagerly
from cmg_runtime.errors import EngineError
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.plain.queries import MotionRows
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.rebuild import WindowRebuild, batch_sizes
from cmg_runtime.window.state import EngineState, Steps, WindowBuffers

MAX_KNOWN_OFFSETS = 64
"""Lists of offsets that are kept on the device for :meth:`Window.future`: a new one is a copy from the host, and they
may be the caller's whim."""


class Window:
    """Steps, rebuilds and queries. On CUDA, steps and rebuilds are CUDA graphs.

    Args:
        state: the engine's; its current motion, ramps and next command are this window's.
        horizon: frames, at least 2, the current one included.
        writer: root motion and kinematics.
    """

    def __init__(self, state: EngineState, horizon: int, writer: FrameWriter) -> None:
        self._state = state
        self._writer = writer
        columns, device = state.num_envs + 1, state.device
        ring = torch.zeros(horizon, columns, writer.layout.width, dtype=torch.float32, device=device)
        self.buffers = WindowBuffers(
            state.num_envs, horizon, ring, state.current, state.next_motion, state.next_command, state.ramp
        )
        self._all_ids = torch.arange(state.num_envs, device=device)
        self._offsets: Dict[Tuple[int, ...], torch.Tensor] = {}
        # Functions, not methods of this object, which would then keep itself alive.
        infer = Piece(functools.partial(_infer, state, self.buffers), state.captures_network)
        self._steps = Steps(state, infer, functools.partial(_append, state, self.buffers, writer))
        self._programs: Dict[int, Tuple[torch.Tensor, Program]] = {}
        if device.type == "cuda":
            self._record()

    @torch.no_grad()
    def clear(self) -> None:
        """As it was made: every environment at rest at the world's origin, heading along x, under command 0.

        Undoes warm-ups, and makes a window to keep for environments whose first reset is ignored.
        """
        self._state.clear()
        self.buffers.ground.zero_()
        self.buffers.placement.zero_()
        self.buffers.fresh.fill_(True)
        self.rebuild(self._all_ids)

    def step(self, moving: Optional[torch.Tensor] = None) -> None:
        """Every environment one frame forward, or those that ``moving`` [num_envs] bool chooses."""
        self._steps.run(moving)

    def rebuild(self, ids: torch.Tensor) -> None:
        """Make the windows of ``ids`` [n] int64 anew from their current frames; the others keep their bits."""
        n = len(ids)
        if n == 0:
            return
        if not self._programs:
            floats = WindowRebuild.workspace_size(n, self.buffers)
            workspace = torch.empty(floats, dtype=torch.float32, device=ids.device)
            run_eagerly(WindowRebuild(self.buffers, self._state, self._writer, ids, workspace).pieces())
            return
        static_ids, program = self._programs[next(size for size in self._programs if size >= n)]
        static_ids[n:].fill_(self._state.num_envs)
        static_ids[:n].copy_(ids)
        program()

    def future(self, offsets: Tuple[int, ...]) -> ReferenceFrames:
        """The frames at ``offsets`` of every environment, [num_envs, K, ...].

        Raises:
            EngineError: an offset is outside 0..horizon-1.
        """
        known = self._offsets.get(offsets)
        if known is None:
            known = self.offsets_on_device(offsets)
            if len(self._offsets) == MAX_KNOWN_OFFSETS:
                del self._offsets[next(iter(self._offsets))]
            self._offsets[offsets] = known
        return self.split(self.buffers.flat_ring.index_select(0, self.rows_ahead(known)))

    def offsets_on_device(self, offsets: Tuple[int, ...]) -> torch.Tensor:
        """``offsets`` for :meth:`rows_ahead`, a new tensor, which the caller keeps. Raises as :meth:`future` does."""
        last = self.buffers.horizon - 1
        outside = [offset for offset in offsets if not 0 <= offset <= last]
        if outside:
            raise EngineError(
                f"offset {outside[0]} is outside the window of frames 0..{last}; load the engine with a longer horizon"
            )
        on_host = torch.tensor(offsets, dtype=torch.int64, device="cpu")  # whatever the caller's default device is
        ahead = (on_host * self.buffers.ring.shape[1]).unsqueeze(1)
        return ahead.to(self._state.device, non_blocking=True)

    def rows_ahead(self, ahead: torch.Tensor) -> torch.Tensor:
        """[K * num_envs] int64: the rows of the flat ring with the frames at K offsets of every environment.

        Args:
            ahead: [K, 1] int64, the offsets in rows of the ring.
        """
        head = self.buffers.head[: self.buffers.num_envs]
        return (head + ahead).remainder_(len(self.buffers.flat_ring)).flatten()

    def split(self, rows: torch.Tensor) -> ReferenceFrames:
        """``rows`` [K * num_envs, W] as frames [num_envs, K, ...], which are views of them."""
        return self._writer.layout.split(rows.unflatten(0, (-1, self.buffers.num_envs)).transpose(0, 1))

    def lookup(self, env_ids: torch.Tensor, offsets: torch.Tensor) -> ReferenceFrames:
        """The frame at ``offsets[i]`` of environment ``env_ids[i]``, [M, ...]. An environment that is out of range
        ``index_select`` refuses, on a GPU by PyTorch's device-side assert."""
        buffers = self.buffers
        head = buffers.head[: buffers.num_envs].index_select(0, env_ids)
        places = torch.add(head, offsets, alpha=buffers.ring.shape[1]).remainder_(len(buffers.flat_ring))
        return self._writer.layout.split(buffers.flat_ring.index_select(0, places))

    def motion_rows(self) -> MotionRows:
        """Every environment's frames, from the current one on, as those of a motion: live, not to be written."""
        return MotionRows(self.buffers.ring, self._writer.layout, self.buffers.head[: self.buffers.num_envs])

    def _record(self) -> None:
        """Capture the rebuild of every size, the largest first, and the steps."""
        device, sizes = self._state.device, batch_sizes(self._state.num_envs)
        floats = max(WindowRebuild.workspace_size(size, self.buffers) for size in sizes)
        workspace = torch.empty(floats, dtype=torch.float32, device=device)
        recorder = GraphRecorder(device)
        recorded: List[Tuple[int, torch.Tensor, Program]] = []
        for size in reversed(sizes):
            ids = torch.arange(size, device=device)
            rebuild = WindowRebuild(self.buffers, self._state, self._writer, ids, workspace)
            recorded.append((size, ids, recorder.record(rebuild.pieces())))
        self._programs = {size: (ids, program) for size, ids, program in reversed(recorded)}
        self._steps.record(recorder)


def _infer(state: EngineState, buffers: WindowBuffers) -> None:
    n = buffers.num_envs
    state.backend.step(buffers.newest_motion[:n], buffers.next_command[:n], buffers.next_motion[:n])


def _append(state: EngineState, buffers: WindowBuffers, writer: FrameWriter, moving: Optional[torch.Tensor]) -> None:
    guard, next_motion = state.guard, buffers.next_motion[: buffers.num_envs]
    guard.apply(next_motion, guard.columns, buffers.horizon, advance=True, moving=moving)
    writer.append(buffers, moving)
