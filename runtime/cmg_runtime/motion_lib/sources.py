"""Where a motion library's frames come from: a pool of trajectories, or the environments' own windows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from cmg_runtime.engine import Engine
from cmg_runtime.inputs import EnvSelection, as_floats
from cmg_runtime.window.plain.queries import MotionRows


class QueryReport(NamedTuple):
    """How many times were asked for that a source does not have, since it was made."""

    before_start: int
    past_end: int
    not_finite: int


class PoolSource:
    """Motion ids are trajectories of a pool, made once; times count from a trajectory's first frame.

    Past its last frame a trajectory begins again where it ended: the root goes on from its last place and heading,
    the joints jump. Times below 0 give frame 0. Both are counted.

    Args:
        engine: what generates; not needed afterwards.
        num_motions: trajectories.
        commands: [num_motions, 3], m/s, m/s, rad/s, each held for a whole trajectory.
        num_frames: frames of a trajectory.

    Attributes:
        commands: as given, clamped to the engine's range.
        names: one a motion.
        rows: the motions' frames.
    """

    def __init__(self, engine: Engine, num_motions: int, commands: Any, num_frames: int) -> None:
        self.num_motions = num_motions
        given = as_floats(commands, [(num_motions, 3)], "commands", engine.device)
        pool = engine.make_pool(num_motions, num_frames, given)  # which clamps them too, and counts
        low, high = engine.command_range
        self.commands = torch.minimum(torch.maximum(given, low), high)
        self.names = [
            f"cmg_{index:04d}_vx{vx:+.2f}_vy{vy:+.2f}_yaw{yaw:+.2f}"
            for index, (vx, vy, yaw) in enumerate(self.commands.tolist())
        ]
        head = torch.arange(num_motions, device=engine.device)
        self.rows = MotionRows(pool.rows, pool.layout, head, repeats=True)


class WindowSource:
    """Motion ids are environments; times count from an environment's last reset.

    The engine's windows move on with :meth:`step`. Seen are the frames from the current one to the window's end;
    times before and past them give the nearest of them and are counted.
    """

    def __init__(self, engine: Engine) -> None:
        self.num_motions = engine.num_envs
        self.names = [f"environment_{index}" for index in range(engine.num_envs)]
        self._engine = engine
        # Frames since each environment's reset. Float, because times are compared with it.
        self._steps = torch.zeros(engine.num_envs, dtype=torch.float32, device=engine.device)
        self.rows = dataclasses.replace(engine.motion_rows(), clock=self._steps)

    @property
    def commands(self) -> torch.Tensor:
        """[num_envs, 3] the commands that were set last, after clamping, m/s, m/s, rad/s."""
        return self._engine.command

    def step(self) -> None:
        """One frame forward, all environments."""
        self._engine.step()
        self._steps += 1

    def restarted(self, envs: EnvSelection) -> None:
        """The current frame of ``envs`` is at time 0 from now on."""
        envs.write(self._steps, torch.zeros_like(envs.read(self._steps)))
