"""Pregenerated motions: trajectories that are made once and then looked up."""

from __future__ import annotations

from typing import Any, Optional

import torch

from cmg_runtime.engine import Engine
from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import EnvSelection, as_floats
from cmg_runtime.motion_lib.between_frames import frame_positions, interpolated, placed
from cmg_runtime.motion_lib.report import QueryCounts
from cmg_runtime.motion_lib.sampling import MotionSampler
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.geometry import turn_rows, yaw_from_upright


class PoolSource:
    """Motion ids are trajectories of a pool, made once; times count from a trajectory's first frame.

    Past its last frame a trajectory begins again where it ended: the root goes on from its last place and heading,
    the joints jump. Times below 0 give frame 0. Both are counted.

    Args:
        engine: what generates; not needed afterwards.
        num_motions: trajectories.
        commands: [num_motions, 3], m/s, m/s, rad/s, each held for a whole trajectory.
        num_frames: frames of a trajectory.
        seed: of the draws.

    Attributes:
        num_motions: as given.
        commands: as given, clamped to the engine's range.
    """

    def __init__(self, engine: Engine, num_motions: int, commands: Any, num_frames: int, seed: int) -> None:
        self.num_motions = num_motions
        given = as_floats(commands, [(num_motions, 3)], "commands", engine.device)
        self._pool = engine.make_pool(num_motions, num_frames, given)  # which clamps them too, and counts
        low, high = engine.command_range
        self.commands = torch.minimum(torch.maximum(given, low), high)
        self.counts = QueryCounts(engine.device)
        self._sampler = MotionSampler(self.commands, seed)
        self._fps = engine.fps
        self._last = num_frames - 1
        everyone = torch.arange(num_motions, device=engine.device)
        end = self._pool.frames(everyone, torch.full_like(everyone, self._last))
        self._way = end.root_pos[:, :2].clone()
        self._half_turn = yaw_from_upright(end.root_rot) / 2

    def draw(self, n: int, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """``n`` motion ids [n] int64 by weight, with repetition. See :class:`MotionSampler`."""
        return self._sampler.draw(n, motion_difficulty, curriculum_level)

    def draw_for(
        self, env_ids: torch.Tensor, commands: Any, motion_difficulty: Any, curriculum_level: Optional[float]
    ) -> torch.Tensor:
        """As :meth:`draw`, one for each of ``env_ids`` [n]. Raises :class:`EngineError` where ``commands`` are given."""
        if commands is not None:
            raise EngineError("pregenerated motions keep their commands; leave commands out, or use realtime mode")
        return self.draw(len(env_ids), motion_difficulty, curriculum_level)

    def draw_times(self, n: int, length: float) -> torch.Tensor:
        """Times [n] float32, s, to begin at, spread over a motion's ``length``, s."""
        return self._sampler.draw_times(n, length)

    def update_commands(self, commands: Any, chosen: EnvSelection, of_envs: bool) -> None:
        """Raises :class:`EngineError`."""
        raise EngineError("pregenerated motions keep their commands; choose another motion, or use realtime mode")

    def step(self) -> None:
        """Nothing: times alone say which frame."""

    def frames(self, ids: torch.Tensor, times: torch.Tensor) -> ReferenceFrames:
        """Frames [M, ...] of motions ``ids`` [M] int64 at ``times`` [M] float32, s; new tensors."""
        wanted, finite = frame_positions(times, self._fps)
        self.counts.add(wanted, self._last, finite)
        position = wanted.clamp(min=0)
        loops = (torch.ceil(position / self._last) - 1).clamp(min=0)
        frames = interpolated(self._pool.frames, ids, position - loops * self._last)
        return self._carried_on(frames, ids, loops)

    def _carried_on(self, frames: ReferenceFrames, ids: torch.Tensor, loops: torch.Tensor) -> ReferenceFrames:
        """``frames`` from where their trajectory has come to after ``loops`` [M] times.

        With d the way and psi the turn of one trajectory, the way after k is d + R(psi) d + ... + R((k-1) psi) d =
        sin(k psi / 2) / sin(psi / 2) R((k-1) psi / 2) d.
        """
        half = self._half_turn.index_select(0, ids)
        straight = torch.sin(half).abs() < 1e-6
        ratio = torch.sin(loops * half) / torch.sin(half).masked_fill(straight, 1.0)
        ratio = torch.where(straight, loops, ratio).unsqueeze(1)
        half_turned = loops * half
        return placed(frames, ratio * turn_rows(self._way.index_select(0, ids), half_turned - half), half_turned)
