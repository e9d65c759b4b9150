"""Where the frames of the reference come from: generated as they are needed, or looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from cmg_gym.mdp.start_states import SETTLE_FRAMES, Starts, StartStates
from cmg_runtime import Engine, ReferenceFrames


class ReferenceSource(Protocol):
    """One reference motion per environment."""

    @property
    def command(self) -> torch.Tensor:
        """[num_envs, 3]: the commands in force at the current frame of the last :meth:`frames`."""
        ...

    def plan(
        self, starts: Starts, root_pos: torch.Tensor, root_rot: torch.Tensor, commands: torch.Tensor | None = None
    ) -> None:
        """How the next episode of every environment begins: from ``starts`` [num_envs], on the ground at ``root_pos``
        [num_envs, 3], with the heading of ``root_rot`` [num_envs, 4].

        The command is that of the start's trajectory, or of ``commands`` [num_envs, 3] where they are given.
        """
        ...

    def start(self, starting: torch.Tensor) -> None:
        """The environments of ``starting`` [num_envs] bool begin anew as planned."""
        ...

    def set_command(self, changed: torch.Tensor, commands: torch.Tensor) -> None:
        """Those of ``changed`` [num_envs] bool get their rows of ``commands`` [num_envs, 3]."""
        ...

    def step(self) -> None:
        """Every environment one frame forward."""
        ...

    def frames(self) -> ReferenceFrames:
        """[num_envs, K, ...]: the frames at the K offsets; the next call may overwrite them."""
        ...


class RealtimeSource:
    """Frames generated as they are needed; commands change at any time and are approached in a ramp."""

    def __init__(self, engine: Engine, states: StartStates, offsets: Sequence[int]) -> None:
        self._engine = engine
        self._view = engine.future_view(offsets)
        self._planned = engine.planned_starts(states.pool)
        self._held: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def command(self) -> torch.Tensor:
        return self._view.command

    def plan(
        self, starts: Starts, root_pos: torch.Tensor, root_rot: torch.Tensor, commands: torch.Tensor | None = None
    ) -> None:
        self._planned.trajectory_ids.copy_(starts.trajectory_ids)
        self._planned.frame_ids.copy_(starts.frame_ids)
        self._planned.root_pos.copy_(root_pos)
        self._planned.root_rot.copy_(root_rot)
        motion = starts.frames.dof_pos, starts.frames.dof_vel
        self._held = None if commands is None else (torch.cat(motion, dim=1), commands)

    def start(self, starting: torch.Tensor) -> None:
        if self._held is None and starting.is_cuda:  # a graph with a mask: nobody has to know how many they are
            self._planned.start(starting)
            return
        env_ids = starting.nonzero().flatten()
        if len(env_ids) == 0:
            return
        if self._held is None:  # what follows is in the pool; nothing has to be generated
            self._planned.start(env_ids)
            return
        given = (*self._held, self._planned.root_pos, self._planned.root_rot)
        self._engine.reset(env_ids, *(rows[env_ids] for rows in given))

    def set_command(self, changed: torch.Tensor, commands: torch.Tensor) -> None:
        self._engine.set_command(commands, changed)

    def step(self) -> None:
        self._engine.step()

    def frames(self) -> ReferenceFrames:
        self._view.refresh()
        return self._view.frames


class PregeneratedSource:
    """Frames looked up in the start states' own trajectories: no network runs while stepping.

    A trajectory has one command, that of its episode: it is the nearest to the one asked for, and nothing changes it
    before the next start. Root positions are those of the trajectory's own world. After the last frame of a
    trajectory comes its first settled one.
    """

    def __init__(self, states: StartStates, num_envs: int, offsets: Sequence[int], device: torch.device) -> None:
        self._states = states
        self._offsets = torch.tensor(offsets, device=device)
        self._last = states.pool.num_frames - 1 - max(offsets)
        self._trajectory_ids = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._frame_ids = torch.full_like(self._trajectory_ids, SETTLE_FRAMES)

    @property
    def command(self) -> torch.Tensor:
        return self._states.commands[self._trajectory_ids]

    def plan(
        self, starts: Starts, root_pos: torch.Tensor, root_rot: torch.Tensor, commands: torch.Tensor | None = None
    ) -> None:
        self._starts = starts

    def start(self, starting: torch.Tensor) -> None:
        for mine, planned in ((self._trajectory_ids, "trajectory_ids"), (self._frame_ids, "frame_ids")):
            mine.copy_(torch.where(starting, getattr(self._starts, planned), mine))

    def set_command(self, changed: torch.Tensor, commands: torch.Tensor) -> None:
        """Commands hold until the next start."""

    def step(self) -> None:
        self._frame_ids.copy_(torch.where(self._frame_ids >= self._last, SETTLE_FRAMES, self._frame_ids + 1))

    def frames(self) -> ReferenceFrames:
        shape = (len(self._trajectory_ids), len(self._offsets))
        ids = self._trajectory_ids.unsqueeze(1).expand(shape).reshape(-1)
        wanted = (self._frame_ids.unsqueeze(1) + self._offsets).reshape(-1)
        return ReferenceFrames(*(field.unflatten(0, shape) for field in self._states.pool.frames(ids, wanted)))
