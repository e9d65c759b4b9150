"""Which twin writes the window and answers queries: on CUDA devices that run them, the kernels in ``triton``."""

from __future__ import annotations

from typing import Optional, Sequence, Type

import torch

from cmg_runtime.device.triton_support import why_not
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.guard import ReplaceBadRows, replace_bad_rows
from cmg_runtime.window.plain.ahead import AheadCopy
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.plain.clocks import MotionClocks
from cmg_runtime.window.plain.draws import MotionDraws
from cmg_runtime.window.plain.queries import FrameQueries, MotionRows
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.report import Counters
from cmg_runtime.window.state import EngineState, WindowBuffers


def bad_row_replacement(device: torch.device) -> ReplaceBadRows:
    """What a :class:`cmg_runtime.guard.Guard` replaces bad rows with."""
    if not _runs_kernels(device):
        return replace_bad_rows
    from cmg_runtime.window.triton import guard

    return guard.replace_bad_rows


def make_frame_writer(manifest: Manifest, key_bodies: Sequence[int], device: torch.device) -> Optional[FrameWriter]:
    """The writer of rows; None where commands are not three numbers, which leaves root motion open."""
    if manifest.sizes.command_dim != 3:
        return None
    if manifest.robot is None or not _runs_kernels(device):
        return FrameWriter(manifest, key_bodies, device)
    from cmg_runtime.window.triton.rows import TritonFrameWriter

    return TritonFrameWriter(manifest, key_bodies, device)


def make_changes(state: EngineState, counters: Counters, buffers: Optional[WindowBuffers]) -> Changes:
    """What writes callers' changes; ``buffers`` is None without a window."""
    if not _runs_kernels(state.device):
        return Changes(state, counters, buffers)
    from cmg_runtime.window.triton.changes import TritonChanges

    return TritonChanges(state, counters, buffers)


def ahead_copy(device: torch.device) -> Type[AheadCopy]:
    """What copies frames ahead out of a window."""
    if not _runs_kernels(device):
        return AheadCopy
    from cmg_runtime.window.triton.ahead import TritonAheadCopy

    return TritonAheadCopy


def make_pool_starts(buffers: WindowBuffers, counters: Counters, writer: FrameWriter) -> PoolStarts:
    """What starts windows from pools."""
    if not _runs_kernels(buffers.ring.device):
        return PoolStarts(buffers, counters, writer)
    from cmg_runtime.window.triton.starts import TritonPoolStarts

    return TritonPoolStarts(buffers, counters, writer)


def make_frame_queries(motions: MotionRows, joints: Sequence[int], bodies: Sequence[int], fps: float) -> FrameQueries:
    """What answers queries at times between frames."""
    if not _runs_kernels(motions.rows.device):
        return FrameQueries(motions, joints, bodies, fps)
    from cmg_runtime.window.triton.queries import TritonFrameQueries

    return TritonFrameQueries(motions, joints, bodies, fps)


def make_motion_clocks(motions: MotionRows, fps: float, most_steps: int, num_askers: int) -> MotionClocks:
    """What lets a window's motions follow the times that are asked for."""
    if not _runs_kernels(motions.rows.device):
        return MotionClocks(motions, fps, most_steps, num_askers)
    from cmg_runtime.window.triton.clocks import TritonMotionClocks

    return TritonMotionClocks(motions, fps, most_steps, num_askers)


def make_motion_draws(clocks: MotionClocks, commands: torch.Tensor, rank: torch.Tensor, num_askers: int) -> MotionDraws:
    """What draws motions that nobody asks for any more."""
    if not _runs_kernels(rank.device):
        return MotionDraws(clocks, commands, rank, num_askers)
    from cmg_runtime.window.triton.draws import TritonMotionDraws

    return TritonMotionDraws(clocks, commands, rank, num_askers)


def _runs_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and not why_not(device)
