"""Trajectories made once, then only looked up."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.guard import Guard
from cmg_runtime.inputs import as_integers
from cmg_runtime.window.frames import FrameLayout, ReferenceFrames, flat_places
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.state import CommandRamp

TRAJECTORIES_AT_ONCE = 4096
"""Trajectories that are generated together."""

FRAMES_AT_ONCE = 32768
"""Generated frames that wait in memory for their kinematics."""


class TrajectoryPool:
    """Trajectories from frame 0 on. Made by :meth:`cmg_runtime.Engine.make_pool`.

    Every trajectory's root begins at the world's origin, heading along x, on ground of height 0.

    Attributes:
        num_trajectories, num_frames: how many; frame 0 is the initial state.
        key_body_names: one per key body of the frames.
        fps: frames a second.
        commands: [num_trajectories, 3] held from the start on, or None where they change from frame to frame.
        ramp_frames: the commands that are held are approached from 0 in so many frames.
        rows, layout: [num_frames, num_trajectories, W] the frames, and what their floats are.
        clamped: [] int64, what :meth:`lookups_clamped` tells.
    """

    def __init__(
        self,
        rows: torch.Tensor,
        layout: FrameLayout,
        key_body_names: Tuple[str, ...],
        fps: float,
        commands: Optional[torch.Tensor],
        ramp_frames: float,
    ) -> None:
        self.num_frames, self.num_trajectories = rows.shape[:2]
        self.key_body_names = key_body_names
        self.fps = fps
        self.commands = commands
        self.ramp_frames = ramp_frames
        self.rows = rows
        self.layout = layout
        with torch.inference_mode(False):  # so that it can be counted up outside of the caller's inference mode
            self.clamped = torch.zeros((), dtype=torch.int64, device=rows.device)

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "clamped": self.clamped.clone()}  # a copy counts its own lookups

    @torch.no_grad()
    def frames(self, trajectory_ids: Any, frame_ids: Any) -> ReferenceFrames:
        """Frame ``frame_ids[i]`` of trajectory ``trajectory_ids[i]``, for every i.

        On CUDA the host does not wait for the GPU.

        Args:
            trajectory_ids: [M] integers. One on the GPU that is out of range fails PyTorch's device-side assert.
            frame_ids: [M] integers. Those outside 0..num_frames-1 give the first or last frame, and are counted in
                :meth:`lookups_clamped`.

        Returns:
            [M, ...], new tensors.

        Raises:
            EngineError: not integers, of unequal length, or on another device; on the host also a trajectory out of
                range.
        """
        ids, wanted = self.checked(trajectory_ids, frame_ids, None)
        everything = torch.ones_like(wanted, dtype=torch.bool)
        places = flat_places(self.clamp(wanted, everything, 1), ids, self.rows.shape, self.num_trajectories)
        return self.layout.split(self.rows.flatten(0, 1).index_select(0, places))

    def checked(
        self, trajectory_ids: Any, frame_ids: Any, length: Optional[int], mask: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Both as int64 tensors [length] on the pool's device; see :func:`cmg_runtime.inputs.as_integers`."""
        device = self.rows.device
        ids = as_integers(trajectory_ids, length, "trajectory_ids", device, self.num_trajectories, mask)
        return ids, as_integers(frame_ids, len(ids), "frame_ids", device, mask=mask)

    def clamp(self, frame_ids: torch.Tensor, counted: torch.Tensor, count: int) -> torch.Tensor:
        """``frame_ids`` [M] so that ``count`` frames from each on exist; those changed and ``counted`` are counted."""
        clamped = frame_ids.clamp(0, self.num_frames - count)
        self.clamped += ((clamped != frame_ids) & counted).sum()
        return clamped

    def lookups_clamped(self) -> int:
        """Frame ids so far that were outside the trajectories. The host waits."""
        return int(self.clamped)


def generate_pool(
    backend: Backend,
    writer: FrameWriter,
    guard: Guard,
    fps: float,
    motion: torch.Tensor,
    commands: torch.Tensor,
    num_frames: int,
    ramp_frames: float,
) -> TrajectoryPool:
    """A pool. Memory beyond it stays bounded, whatever the numbers.

    Args:
        guard: of the engine.
        motion: [P, motion_dim] float32, rad and rad/s: frame 0.
        commands, ramp_frames: as of :func:`_commands_in_force`.
    """
    in_force = _commands_in_force(commands, num_frames, ramp_frames)
    rows = _generate(backend, writer, guard, motion.contiguous(), in_force)
    held = commands.clone() if commands.dim() == 2 else None
    return TrajectoryPool(rows, writer.layout, writer.key_body_names, fps, held, ramp_frames)


def _commands_in_force(commands: torch.Tensor, num_frames: int, ramp_frames: float) -> torch.Tensor:
    """What :func:`_generate` takes: commands [F, P, 3], the one that led to each frame.

    Args:
        commands: [P, F - 1, 3], one per generated frame (frame 0 is then under the first of them); or [P, 3],
            approached from 0 in a ramp and held.
        ramp_frames: length of the ramp.
    """
    if commands.dim() == 3:
        following = commands.transpose(0, 1)
        first = following[:1] if num_frames > 1 else commands.new_zeros(1, len(commands), commands.shape[2])
        return torch.cat([first, following])
    ramp = CommandRamp(len(commands), commands.shape[1], ramp_frames, commands.device)
    ramp.target.copy_(commands)
    return ramp.at(torch.arange(num_frames, dtype=torch.float32, device=commands.device).unsqueeze(1))


def _generate(
    backend: Backend, writer: FrameWriter, guard: Guard, motion: torch.Tensor, commands: torch.Tensor
) -> torch.Tensor:
    """The rows [F, P, W] of a pool, under ``commands`` [F, P, 3] float32: the command in force at each frame, which is
    the one that led to it."""
    num_frames, num_trajectories = commands.shape[:2]
    rows = torch.empty(num_frames, num_trajectories, writer.layout.width, dtype=torch.float32, device=motion.device)
    apart = guard.apart(num_trajectories)
    for first in range(0, num_trajectories, TRAJECTORIES_AT_ONCE):
        part = slice(first, first + TRAJECTORIES_AT_ONCE)
        _generate_part(backend, writer, apart, apart.columns[part], motion[part], commands[:, part], rows[:, part])
    return rows


def _generate_part(
    backend: Backend,
    writer: FrameWriter,
    guard: Guard,
    columns: torch.Tensor,
    motion: torch.Tensor,
    commands: torch.Tensor,
    rows: torch.Tensor,
) -> None:
    n = len(motion)
    chunk = min(max(FRAMES_AT_ONCE // n, 1), len(rows))
    motions = motion.new_empty(chunk + 1, n, motion.shape[1])
    motions[0].copy_(motion)
    root, ground = motion.new_zeros(n, 4), motion.new_zeros(n)
    rows[0] = writer.first_rows(motion, commands[0], root, ground)
    for first in range(1, len(rows), chunk):
        count = min(chunk, len(rows) - first)
        in_force = commands[first : first + count].contiguous()
        following = motions[1 : count + 1]
        backend.rollout(motions[0], in_force, following, guard, columns, first)
        rows[first : first + count] = writer.rows(following, in_force, root, ground)
        motions[0].copy_(motions[count])
