"""The window: the current frame and the next ``horizon - 1`` of every environment, in a ring on the device."""

from __future__ import annotations

import functools
from typing import List, Optional, Tuple

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.offsets import AheadCopies
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.plain.queries import MotionRows
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.rebuild import Rebuilds, WindowRebuild, batch_sizes
from cmg_runtime.window.state import EngineState, Steps, WindowBuffers
from cmg_runtime.window.twins import ahead_copy


class Window:
    """Steps, rebuilds and queries. On CUDA, steps and rebuilds are CUDA graphs.

    Args:
        state: the engine's; its current motion, ramps and next command are this window's.
        buffers: what it keeps.
        writer: root motion and kinematics.
        changes: of the environments.

    Attributes:
        buffers: as given.
        ahead: copies of frames ahead into what :meth:`new_rows` gives.
    """

    def __init__(self, state: EngineState, buffers: WindowBuffers, writer: FrameWriter, changes: Changes) -> None:
        self._state = state
        self._writer = writer
        self._changes = changes
        self.buffers = buffers
        self.ahead = AheadCopies(buffers, ahead_copy(state.device))
        # Functions, not methods of this object, which would then keep itself alive.
        infer = functools.partial(_infer, state, buffers)
        self._steps = Steps(state, infer, functools.partial(_append, state, buffers, writer))
        workspace, sizes = None, batch_sizes(state.num_envs, state.backend.batches)
        if state.device.type == "cuda":  # one for all sizes
            floats = max(WindowRebuild.workspace_size(size, buffers) for size in sizes)
            workspace = torch.empty(floats, dtype=torch.float32, device=state.device)
        self._rebuilds = Rebuilds(changes, functools.partial(_rebuild, state, buffers, writer, workspace))
        if state.device.type == "cuda":
            recorder = GraphRecorder(state.device)
            self._rebuilds.record(recorder, sizes, state.device)
            self._steps.record(recorder)
            self.future((0,))  # so that its kernel is compiled now, not in a query, or within a graph of the caller's

    @torch.no_grad()
    def clear(self) -> None:
        """As it was made: every environment at rest at the world's origin, heading along x, under command 0.

        Undoes warm-ups, and makes a window to keep for environments whose first reset is ignored.
        """
        self._state.clear()
        self.buffers.ground.zero_()
        self.buffers.placement.zero_()
        self.buffers.fresh.fill_(True)
        everyone = EnvSelection(self._state.num_envs)
        self._changes.nothing(everyone)
        self.rebuild(everyone)

    def step(self, moving: Optional[torch.Tensor] = None) -> None:
        """Every environment one frame forward, or those that ``moving`` [num_envs] bool chooses."""
        self._steps.run(moving)

    def rebuild(self, envs: EnvSelection) -> None:
        """Make the windows of ``envs``, which have just been changed, anew from their current frames; the others keep
        their bits."""
        self._rebuilds.run(envs)

    def future(self, offsets: Tuple[int, ...]) -> ReferenceFrames:
        """The frames at ``offsets`` of every environment, [num_envs, K, ...].

        Raises:
            EngineError: an offset is outside 0..horizon-1.
        """
        copy = self.ahead.of(offsets)
        rows = self.new_rows(len(offsets))
        copy(rows)
        return self.split(rows)

    def new_rows(self, num_offsets: int) -> torch.Tensor:
        """Memory for frames ahead, [num_envs, num_offsets, W], the environments of an offset side by side."""
        num_envs, width = self.buffers.num_envs, self._writer.layout.width
        size, stride = (num_envs, num_offsets, width), (width, num_envs * width, 1)
        return self.buffers.ring.new_empty_strided(size, stride)

    def split(self, rows: torch.Tensor) -> ReferenceFrames:
        """``rows`` [num_envs, K, W] as frames [num_envs, K, ...], which are views of them."""
        return self._writer.layout.split(rows)

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


def _rebuild(
    state: EngineState,
    buffers: WindowBuffers,
    writer: FrameWriter,
    workspace: Optional[torch.Tensor],
    ids: torch.Tensor,
) -> List[Piece]:
    if workspace is None:
        floats = WindowRebuild.workspace_size(len(ids), buffers)
        workspace = torch.empty(floats, dtype=torch.float32, device=ids.device)
    return WindowRebuild(buffers, state, writer, ids, workspace).pieces()


def _infer(state: EngineState, buffers: WindowBuffers, moving: Optional[torch.Tensor]) -> None:
    """The frame behind the newest one, into ``next_motion``; its bad rows replaced, where :func:`_replaces_at_once`."""
    n, guard = buffers.num_envs, state.guard
    motion, command, out = buffers.newest_motion[:n], buffers.next_command[:n], buffers.next_motion[:n]
    if _replaces_at_once(state, moving):
        state.backend.guarded_step(motion, command, out, guard, guard.columns, buffers.horizon)
    else:
        state.backend.step(motion, command, out)


def _replaces_at_once(state: EngineState, moving: Optional[torch.Tensor]) -> bool:
    """Whether the network's piece replaces bad rows: where all environments move, and where it is part of a graph, for
    otherwise the guard's kernels would be launched one by one."""
    return moving is None and state.captures_network


def _append(state: EngineState, buffers: WindowBuffers, writer: FrameWriter, moving: Optional[torch.Tensor]) -> None:
    guard = state.guard
    if not _replaces_at_once(state, moving):
        guard.apply(buffers.next_motion[: buffers.num_envs], guard.columns, buffers.horizon, moving=moving)
    writer.append(buffers, guard.frame, moving)
