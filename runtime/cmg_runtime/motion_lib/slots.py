"""Realtime motions: windows that follow the times that are asked for, and which of them are free."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch

from cmg_runtime.engine import Engine
from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import EnvSelection, as_rows
from cmg_runtime.motion_lib.sampling import MotionSampler
from cmg_runtime.window.twins import make_motion_clocks, make_motion_draws

SLOTS_PER_ENV = 2
"""Motions for each environment: what an environment lets go of in a step is not needed before the next."""

MOST_CONTROL_DT = 1.0
"""Seconds. A query makes a step of the engine for each frame of it."""


class SlotSource:
    """Motions that are generated as they are asked for. Each has a command of its own, and a window in the engine.

    A draw gives slots that nobody asks for any more, makes their windows anew and leaves their time open: the first
    time asked for is where the motion begins. From there on they follow the times of the queries: see
    :class:`cmg_runtime.window.plain.clocks.MotionClocks`. A slot that nobody names stays as it is.

    Args:
        engine: of ``SLOTS_PER_ENV * num_envs`` environments, without a ramp for commands that are in force at once.
        num_envs: environments that ask.
        commands: [S, 3], m/s, m/s, rad/s, the slots' own.
        most_steps: frames that motions can be followed by in one query. Every query makes so many steps of the
            engine, in which each slot moves or does not: the host does not know which.
        seed: of the draws.

    Attributes:
        num_motions: S.
        rows: the frames in the slots' windows.
        jumped: [] int64, how often a slot's time jumped.
    """

    def __init__(self, engine: Engine, num_envs: int, commands: torch.Tensor, most_steps: int, seed: int) -> None:
        self.num_motions = engine.num_envs
        self._engine = engine
        engine.reset(command=commands)  # so that every id means something at once
        own_commands = engine.command.clone()
        self._sampler = MotionSampler(own_commands, seed)
        self._clocks = make_motion_clocks(engine.motion_rows(), engine.fps, most_steps, num_envs)
        self.rows, self.jumped = self._clocks.motions, self._clocks.jumped
        self._draws = make_motion_draws(self._clocks, own_commands, self._sampler.rank, num_envs)
        self._slot_of_env = self._draws.motion_of_asker

    @property
    def commands(self) -> torch.Tensor:
        """[S, 3] the commands that were set last, after clamping, m/s, m/s, rad/s."""
        return self._engine.command

    def draw(self, n: int, motion_difficulty: Any = None, curriculum_level: Optional[float] = None) -> torch.Tensor:
        """``n`` distinct free slots [n] int64 by weight, whose motions begin anew. See :class:`MotionSampler`."""
        return self._begin(n, motion_difficulty, curriculum_level)

    def draw_for(
        self, env_ids: torch.Tensor, commands: Any, motion_difficulty: Any, curriculum_level: Optional[float]
    ) -> torch.Tensor:
        """As :meth:`draw`, for environments [n] int64, and remember which has which; as long as those that were given
        slots ask for them, no two have the same. None for the slots' own ``commands``."""
        given = None
        if commands is not None:
            given = as_rows(commands, EnvSelection(len(env_ids)), 3, "commands", self._engine.device)
        return self._begin(len(env_ids), motion_difficulty, curriculum_level, env_ids, given)

    def draw_times(self, n: int, length: float) -> torch.Tensor:
        """Times [n] float32, s, to begin at: 0, for one beginning is as good as another."""
        return torch.zeros(n, dtype=torch.float32, device=self._engine.device)

    def update_commands(self, commands: Any, chosen: EnvSelection, of_envs: bool) -> None:
        """New commands [n, 3] or [3] for slots, or for those that environments have by :meth:`draw_for`."""
        rows = as_rows(commands, chosen, 3, "commands", self._engine.device)
        if not of_envs:
            self._engine.set_command(rows, chosen.ids if chosen.mask is None else chosen.mask)
        elif chosen.mask is None:
            self._engine.set_command(rows, chosen.read(self._slot_of_env))
        else:
            # What is not chosen goes to one slot more: another environment may have had its slot before.
            slots = torch.where(chosen.mask, self._slot_of_env, self.num_motions)
            of_slots = rows.new_zeros(self.num_motions + 1, 3).index_copy_(0, slots, rows)
            mask = torch.zeros_like(of_slots[:, 0], dtype=torch.bool).index_fill_(0, slots, True)
            self._engine.set_command(of_slots[:-1], mask[:-1])

    def step(self) -> None:
        """One frame forward, all slots."""
        self._engine.step()
        self._clocks.advance()

    def follow(self, ids: torch.Tensor, times: torch.Tensor) -> None:
        """Let the windows of slots ``ids`` [M] int64 follow to ``times`` [M] float32, s, before they are queried."""
        for moving in self._clocks.follow(ids, times):
            self._engine.step(moving)

    def _begin(
        self,
        n: int,
        motion_difficulty: Any,
        curriculum_level: Optional[float],
        env_ids: Optional[torch.Tensor] = None,
        commands: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        if n > self.num_motions:
            raise EngineError(f"n is {n}; expected at most {self.num_motions}, the motions of this realtime library")
        weights = self._sampler.weights(motion_difficulty, curriculum_level)
        slots, own_commands = self._draws.draw(n, self._sampler.waiting(), weights, env_ids)
        self._engine.reset(slots, command=own_commands if commands is None else commands)
        return slots


def frames_in(control_dt: Optional[float], fps: float) -> int:
    """Frames that pass in ``control_dt``, s, those begun too; 1 for None. Raises :class:`EngineError` above 1 s."""
    if control_dt is None:
        return 1
    if not 0 < control_dt <= MOST_CONTROL_DT:
        raise EngineError(f"control_dt is {control_dt!r}; expected the seconds of an environment step, above 0, to 1")
    return max(1, math.ceil(control_dt * fps - 1e-3))
