"""Pregenerated motions: trajectories that are made once and then looked up."""

from __future__ import annotations

from typing import Any, Optional

import torch

from cmg_runtime.engine import Engine
from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import EnvSelection, as_floats
from cmg_runtime.motion_lib.sampling import MotionSampler
from cmg_runtime.window.plain.queries import MotionRows


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
        rows: the motions' frames.
        jumped: 0, for times may come in any order.
    """

    jumped = 0

    def __init__(self, engine: Engine, num_motions: int, commands: Any, num_frames: int, seed: int) -> None:
        self.num_motions = num_motions
        given = as_floats(commands, [(num_motions, 3)], "commands", engine.device)
        pool = engine.make_pool(num_motions, num_frames, given)  # which clamps them too, and counts
        low, high = engine.command_range
        self.commands = torch.minimum(torch.maximum(given, low), high)
        self.rows = MotionRows(pool.rows, pool.layout, torch.arange(num_motions, device=engine.device), repeats=True)
        self._sampler = MotionSampler(self.commands, seed)

    def draw(self, n: int, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """``n`` motion ids [n] int64 by weight, with repetition. See :class:`MotionSampler`."""
        return self._sampler.draw(n, motion_difficulty, curriculum_level)

    def draw_for(
        self, env_ids: torch.Tensor, commands: Any, motion_difficulty: Any, curriculum_level: Optional[float]
    ) -> torch.Tensor:
        """As :meth:`draw`, one for each of ``env_ids`` [n]. Raises :class:`EngineError` for ``commands``."""
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

    def follow(self, ids: torch.Tensor, times: torch.Tensor) -> None:
        """Nothing, as :meth:`step`."""
