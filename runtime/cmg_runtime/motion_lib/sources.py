"""Where a motion library's frames come from: a pool of trajectories, or the environments' own windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from cmg_runtime.engine import Engine
from cmg_runtime.inputs import EnvSelection, as_floats
from cmg_runtime.motion_lib.between_frames import frame_positions, interpolated
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.geometry import turn_rows, turn_upright, yaw_from_upright


class QueryReport(NamedTuple):
    """How many times were asked for that a source does not have, since it was made."""

    before_start: int
    past_end: int
    not_finite: int


class QueryCounts:
    """Counts, on the device, of the times that a source was asked for and does not have."""

    def __init__(self, device: torch.device) -> None:
        self._values = torch.zeros(3, dtype=torch.int64, device=device)

    def add(self, position: torch.Tensor, last: int, finite: torch.Tensor) -> None:
        """Count ``position`` [M], frames, against 0..last."""
        self._values += torch.stack([(position < 0).sum(), (position > last).sum(), (~finite).sum()])

    def read(self) -> QueryReport:
        """The counts. The host waits."""
        return QueryReport(*self._values.tolist())


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
    """

    def __init__(self, engine: Engine, num_motions: int, commands: Any, num_frames: int) -> None:
        self.num_motions = num_motions
        given = as_floats(commands, [(num_motions, 3)], "commands", engine.device)
        self._pool = engine.make_pool(num_motions, num_frames, given)  # which clamps them too, and counts
        low, high = engine.command_range
        self.commands = torch.minimum(torch.maximum(given, low), high)
        self.names = [
            f"cmg_{index:04d}_vx{vx:+.2f}_vy{vy:+.2f}_yaw{yaw:+.2f}"
            for index, (vx, vy, yaw) in enumerate(self.commands.tolist())
        ]
        self.counts = QueryCounts(engine.device)
        self._fps = engine.fps
        self._last = num_frames - 1
        everyone = torch.arange(num_motions, device=engine.device)
        end = self._pool.frames(everyone, torch.full_like(everyone, self._last))
        self._way = end.root_pos[:, :2].clone()
        self._half_turn = yaw_from_upright(end.root_rot) / 2

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
        offset = ratio * turn_rows(self._way.index_select(0, ids), half_turned - half)
        turned_pos = turn_rows(frames.root_pos, 2 * half_turned) + torch.nn.functional.pad(offset, (0, 1))
        return frames._replace(
            root_pos=turned_pos,
            root_vel=turn_rows(frames.root_vel, 2 * half_turned),
            root_rot=turn_upright(frames.root_rot, half_turned),
        )


class WindowSource:
    """Motion ids are environments; times count from an environment's last reset.

    The engine's windows move on with :meth:`step`. Seen are the frames from the current one to the window's end;
    times before and past them give the nearest of them and are counted.
    """

    def __init__(self, engine: Engine, horizon: int) -> None:
        self.num_motions = engine.num_envs
        self.names = [f"environment_{index}" for index in range(engine.num_envs)]
        self.counts = QueryCounts(engine.device)
        self._engine = engine
        self._last = horizon - 1
        # Frames since each environment's reset. Float, because times are compared with it.
        self._steps = torch.zeros(engine.num_envs, 1, dtype=torch.float32, device=engine.device)

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

    def frames(self, ids: torch.Tensor, times: torch.Tensor) -> ReferenceFrames:
        """Frames [M, ...] of environments ``ids`` [M] int64 at ``times`` [M] float32, s; new tensors."""
        current = self._steps.index_select(0, ids).squeeze(1)
        position, finite = frame_positions(times, self._engine.fps, current)
        self.counts.add(position, self._last, finite)
        return interpolated(self._engine.frames, ids, position.clamp(0, self._last))
