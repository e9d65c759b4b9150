"""Starts from a pool that were planned beforehand for every environment: see :class:`PlannedStarts`."""

from __future__ import annotations

from typing import Any, Callable

import torch

from cmg_runtime.capture import GraphRecorder, Piece
from cmg_runtime.inputs import EnvSelection, select_envs
from cmg_runtime.pool import TrajectoryPool
from cmg_runtime.pool_starts import PoolStarts
from cmg_runtime.readiness import Readiness


class PlannedStarts:
    """As :meth:`cmg_runtime.Engine.start`, from places that were chosen before it is known who begins.

    Made by :meth:`cmg_runtime.Engine.planned_starts`. On a CPU it is the engine's own ``start``. On CUDA one graph with
    a mask starts whoever begins, so a few environments in every step cost the host next to nothing. Write the plan into
    the attributes, in place.

    Attributes:
        trajectory_ids, frame_ids: [num_envs] int64, as of :meth:`cmg_runtime.Engine.start`.
        root_pos: [num_envs, 3] float32, world, m: the point on the ground below the root.
        root_rot: [num_envs, 4] float32, world, quaternion (w, x, y, z): its heading.
    """

    def __init__(
        self,
        engine_start: Callable[..., None],
        starts: PoolStarts,
        pool: TrajectoryPool,
        num_envs: int,
        ready: Readiness,
    ) -> None:
        self._engine_start = engine_start
        self._starts = starts
        self._pool = pool
        self._ready = ready
        device = pool.rows.device
        with torch.inference_mode(False):  # else it could not be written outside of the caller's inference mode
            self.trajectory_ids = torch.zeros(num_envs, dtype=torch.int64, device=device)
            self.frame_ids = torch.zeros_like(self.trajectory_ids)
            self.root_pos = torch.zeros(num_envs, 3, dtype=torch.float32, device=device)
            self.root_rot = torch.zeros(num_envs, 4, dtype=torch.float32, device=device)
            self.root_rot[:, 0] = 1.0
            self._chosen = torch.zeros(num_envs, dtype=torch.bool, device=device)
            if device.type == "cuda":
                self._program = GraphRecorder(device).record([Piece(self._start_chosen)])

    @torch.no_grad()
    def start(self, env_ids: Any) -> None:
        """Let the environments ``env_ids`` begin as planned; see :meth:`cmg_runtime.Engine.start`.

        Raises:
            EngineError: the engine has failed, wrong ids, or, on the host, a plan of theirs that is not finite or names
                a trajectory that the pool does not have.
        """
        self._ready.require_sound()
        envs = select_envs(env_ids, len(self._chosen), self._chosen.device)
        if self._chosen.device.type == "cpu":
            trajectories, frames = envs.read(self.trajectory_ids), envs.read(self.frame_ids)
            places = envs.read(self.root_pos), envs.read(self.root_rot)
            self._engine_start(self._pool, trajectories, frames, env_ids, *places)
            return
        with self._ready:
            if envs.ids is None:
                envs.write(self._chosen, torch.ones_like(self._chosen))
            else:
                self._chosen.index_fill_(0, envs.ids, True)
            self._program()
            self._ready.note(envs)

    def _start_chosen(self) -> None:
        everyone = EnvSelection(len(self._chosen), mask=self._chosen)
        plan = self.trajectory_ids, self.frame_ids, self.root_pos, self.root_rot
        self._starts.start(self._pool, everyone, *plan)
        self._chosen.zero_()
