"""Windows that begin in the middle of a pool's trajectories: copied and put in their place, not generated."""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.geometry import quat_from_yaw, turn, wrap, yaw_from_upright
from cmg_runtime.window.plain.changes import wanted_placement
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.pool import TrajectoryPool
from cmg_runtime.window.report import Counters
from cmg_runtime.window.state import WindowBuffers


class PoolStarts:
    """Starts windows from pools, in plain torch. A faster one subclasses it;
    :mod:`cmg_runtime.window.twins` chooses.

    Args:
        writer: of the window.
    """

    def __init__(self, buffers: WindowBuffers, counters: Counters, writer: FrameWriter) -> None:
        self._buffers = buffers
        self._counters = counters
        self._layout = writer.layout
        self._key_body_names = writer.key_body_names
        self._everyone = torch.arange(buffers.num_envs, device=buffers.ring.device)

    def require_fit(self, pool: TrajectoryPool) -> None:
        """Raise :class:`EngineError` unless windows can be cut out of ``pool``."""
        buffers = self._buffers
        if pool.rows.device != buffers.ring.device:
            raise EngineError(f"the pool is on {pool.rows.device}; expected {buffers.ring.device}, the engine's")
        if pool.layout.motion_dim != self._layout.motion_dim or pool.key_body_names != self._key_body_names:
            raise EngineError("the pool has other joints or key bodies than the engine; make it with an engine like it")
        if pool.commands is None or pool.ramp_frames != buffers.ramp.num_frames:
            raise EngineError(
                "the pool's commands change from frame to frame, or have another ramp than the engine's; make it with "
                "commands [num_trajectories, 3] by an engine with the same command_ramp_s"
            )
        if pool.num_frames < buffers.horizon:
            raise EngineError(
                f"the pool's trajectories have {pool.num_frames} frames and the window {buffers.horizon}; make longer "
                "ones"
            )

    def last_places(self) -> Tuple[torch.Tensor, torch.Tensor]:
        """``root_pos`` [num_envs, 3] and ``root_rot`` [num_envs, 4] as they were last given, upright; new tensors."""
        placement = self._buffers.placement[: self._buffers.num_envs]
        return placement[:, :3].clone(), quat_from_yaw(placement[:, 3])

    def start(
        self,
        pool: TrajectoryPool,
        envs: EnvSelection,
        trajectory_ids: torch.Tensor,
        frame_ids: torch.Tensor,
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
    ) -> None:
        """Write the windows. Where the place is not finite the environment keeps its window, and is counted.

        Args:
            pool: one that :meth:`require_fit` accepts.
            trajectory_ids, frame_ids: [envs.num_rows] int64; a frame that fewer than ``horizon - 1`` others follow
                becomes the last that enough do, and is counted. Of a row that is not chosen they may be any of the
                pool's.
            root_pos, root_rot: as in :meth:`cmg_runtime.window.plain.changes.Changes.reset`.
        """
        buffers, layout, ramp = self._buffers, self._layout, self._buffers.ramp
        assert pool.commands is not None
        placement = wanted_placement(buffers, envs, root_pos, root_rot)
        envs, (trajectory_ids, frame_ids, placement) = envs.narrowed(trajectory_ids, frame_ids, placement)
        usable = torch.isfinite(placement).all(dim=1)
        self._counters.ignore_motions(envs.chosen(~usable))
        ids = self._everyone if envs.ids is None else self._everyone.index_select(0, envs.ids)
        ids = torch.where(envs.chosen(usable), ids, buffers.num_envs)  # the rest goes to the scratch column

        first = pool.clamp(frame_ids, envs.chosen(usable), buffers.horizon)
        frames = first + torch.arange(buffers.horizon, device=first.device).unsqueeze(1)
        places = (frames * pool.num_trajectories + trajectory_ids).flatten()
        rows = pool.rows.flatten(0, 1).index_select(0, places).unflatten(0, frames.shape)
        newest_root = _moved(rows, layout, placement[:, :3], placement[:, 3])

        buffers.flat_ring.index_copy_(0, buffers.places(ids, 0, buffers.horizon).flatten(), rows.flatten(0, 1))
        motions = rows[..., : layout.motion_dim]
        buffers.current.index_copy_(0, ids, motions[0])
        buffers.newest_motion.index_copy_(0, ids, motions[-1])
        buffers.newest_root.index_copy_(0, ids, newest_root)
        buffers.placement.index_copy_(0, ids, placement)
        buffers.ground.index_copy_(0, ids, placement[:, 2])
        buffers.fresh.index_fill_(0, ids, False)
        ramp.initial.index_fill_(0, ids, 0.0)
        ramp.target.index_copy_(0, ids, pool.commands.index_select(0, trajectory_ids))
        ramp.elapsed.index_copy_(0, ids, first.float())
        buffers.next_command.index_copy_(0, ids, ramp.at(buffers.horizon, ids))


def _moved(rows: torch.Tensor, layout: FrameLayout, root_pos: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Turn and move the roots of ``rows`` [T, n, W], in place, so that the first stands at ``root_pos`` [n, 3] (x, y,
    height of the ground) with ``yaw`` [n]. Returns the root state [n, 4] of the last."""
    position = rows[..., layout.root_pos : layout.root_rot]
    quat = rows[..., layout.root_rot : layout.root_vel]
    velocity = rows[..., layout.root_vel : layout.root_ang_vel]
    headings = yaw_from_upright(quat)
    angle = yaw - headings[0]
    x, y = turn(position[..., 0] - position[0, :, 0], position[..., 1] - position[0, :, 1], angle)
    vx, vy = turn(velocity[..., 0], velocity[..., 1], angle)
    headings = wrap(headings + angle)
    position.copy_(torch.stack([x, y, position[..., 2]], dim=-1) + root_pos)
    quat.copy_(quat_from_yaw(headings))
    velocity.copy_(torch.stack([vx, vy, velocity[..., 2]], dim=-1))
    return torch.cat([position[-1], headings[-1].unsqueeze(1)], dim=1)
