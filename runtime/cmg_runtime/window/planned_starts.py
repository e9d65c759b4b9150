"""Starts from a pool that were planned beforehand for every environment: see :class:`PlannedStarts`."""

from __future__ import annotations

import functools
from typing import Any, Callable

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece
from cmg_runtime.device.lifetime import NotCopied
from cmg_runtime.inputs import EnvSelection, select_envs
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.pool import TrajectoryPool
from cmg_runtime.window.readiness import Readiness, of_a_sound_engine


class PlannedStarts(NotCopied):
    """As :meth:`cmg_runtime.Engine.start`, from places that were chosen before it is known who begins.

    Made by :meth:`cmg_runtime.Engine.planned_starts`. On a CPU it is the engine's own ``start``. On CUDA one graph with
    a mask starts whoever begins, so a few environments in every step cost the host next to nothing. Write the plan into
    the attributes, in place.

    Attributes:
        trajectory_ids, frame_ids: [num_envs] int64, as of :meth:`cmg_runtime.Engine.start`.
        root_pos: [num_envs, 3] float32, world, m: the point on the ground below the root.
        root_rot: [num_envs, 4] float32, world, quaternion (w, x, y, z): its heading. Both begin as what was last given
            for each environment when this was made.

    The graph reads these very tensors, so no others can be put in their place.
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
        self._pool = pool
        self._ready = ready
        device = pool.rows.device
        with torch.inference_mode(False):  # else it could not be written outside of the caller's inference mode
            self._trajectory_ids = torch.zeros(num_envs, dtype=torch.int64, device=device)
            self._frame_ids = torch.zeros_like(self._trajectory_ids)
            self._root_pos, self._root_rot = starts.last_places()
            self._chosen = torch.zeros(num_envs, dtype=torch.bool, device=device)
            if device.type == "cuda":
                # A function, not a method of this object, which would then keep itself alive.
                plan = self.trajectory_ids, self.frame_ids, self.root_pos, self.root_rot
                program = functools.partial(_start_chosen, starts, pool, self._chosen, *plan)
                self._program = GraphRecorder(device).record([Piece(program)])

    @property
    def trajectory_ids(self) -> torch.Tensor:
        return self._trajectory_ids

    @property
    def frame_ids(self) -> torch.Tensor:
        return self._frame_ids

    @property
    def root_pos(self) -> torch.Tensor:
        return self._root_pos

    @property
    def root_rot(self) -> torch.Tensor:
        return self._root_rot

    @of_a_sound_engine
    def start(self, env_ids: Any) -> None:
        """Let the environments ``env_ids`` begin as planned; see :meth:`cmg_runtime.Engine.start`.

        Raises:
            EngineError: the engine has failed, wrong ids, or, on the host, a plan of theirs that is not finite or names
                a trajectory that the pool does not have.
        """
        chosen = self._chosen
        envs = select_envs(env_ids, len(chosen), chosen.device)
        if chosen.device.type == "cpu":
            ids = envs.columns(torch.arange(len(chosen), device="cpu"))
            plan = self.trajectory_ids, self.frame_ids, self.root_pos, self.root_rot
            trajectory_ids, frame_ids, root_pos, root_rot = (values.index_select(0, ids) for values in plan)
            self._engine_start(self._pool, trajectory_ids, frame_ids, ids, root_pos, root_rot)
            return
        with self._ready:
            # Read, then written: both fail torch's device-side assert for a negative id, which index_fill_ wraps.
            envs.write(chosen, torch.ones_like(envs.read(chosen)))
            self._program()
            self._ready.note(envs)


def _start_chosen(
    starts: PoolStarts,
    pool: TrajectoryPool,
    chosen: torch.Tensor,
    trajectory_ids: torch.Tensor,
    frame_ids: torch.Tensor,
    root_pos: torch.Tensor,
    root_rot: torch.Tensor,
) -> None:
    everyone = EnvSelection(len(chosen), mask=chosen)
    # The trajectory of an environment that does not begin may be any; it is looked up with the others'.
    starts.start(pool, everyone, torch.where(chosen, trajectory_ids, 0), frame_ids, root_pos, root_rot)
    chosen.zero_()
