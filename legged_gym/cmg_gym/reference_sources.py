"""Where the frames of the reference come from: generated as they are needed, or looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cmg_gym.start_states import SETTLE_FRAMES, Starts, StartStates
from cmg_runtime import Engine, ReferenceFrames
from cmg_runtime.capture import GraphRecorder, Piece


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

    def start(self, env_ids: torch.Tensor) -> None:
        """Begin anew as planned."""
        ...

    def set_command(self, env_ids: torch.Tensor, commands: torch.Tensor) -> None:
        """Change the commands of some environments to ``commands`` [n, 3]."""
        ...

    def step(self) -> None:
        """Every environment one frame forward."""
        ...

    def frames(self) -> ReferenceFrames:
        """[num_envs, K, ...]: the frames at the K offsets; the next call may overwrite them."""
        ...


class RealtimeSource:
    """Frames generated as they are needed; commands change at any time and are approached in a ramp.

    On a GPU a start from the pool is one CUDA graph for all environments with a mask of those that begin, so that the
    few that begin in a step cost the host next to nothing.
    """

    def __init__(self, engine: Engine, states: StartStates, offsets: Sequence[int]) -> None:
        self._engine = engine
        self._pool = states.pool
        self._view = engine.future_view(offsets)
        n, device = engine.num_envs, engine.device
        self._chosen = torch.zeros(n, dtype=torch.bool, device=device)
        self._trajectory_ids, self._frame_ids = (torch.zeros(n, dtype=torch.int64, device=device) for _ in range(2))
        self._root_pos, self._root_rot = (torch.zeros(n, width, device=device) for width in (3, 4))
        self._motion: torch.Tensor | None = None
        self._commands: torch.Tensor | None = None
        self._start_chosen: Callable[[], None] | None = None

    @property
    def command(self) -> torch.Tensor:
        return self._view.command

    def plan(
        self, starts: Starts, root_pos: torch.Tensor, root_rot: torch.Tensor, commands: torch.Tensor | None = None
    ) -> None:
        self._trajectory_ids.copy_(starts.trajectory_ids)
        self._frame_ids.copy_(starts.frame_ids)
        self._root_pos.copy_(root_pos)
        self._root_rot.copy_(root_rot)
        self._commands = commands
        self._motion = None if commands is None else torch.cat([starts.frames.dof_pos, starts.frames.dof_vel], dim=1)

    def start(self, env_ids: torch.Tensor) -> None:
        if self._start_chosen is not None and self._commands is None:
            self._chosen[env_ids] = True
            self._start_chosen()
            return
        places = self._root_pos[env_ids], self._root_rot[env_ids]
        if self._commands is not None and self._motion is not None:
            motion, commands = self._motion[env_ids], self._commands[env_ids]
            self._engine.reset(env_ids, motion, commands, *places, command_at_once=True)
        else:  # what follows is in the pool; nothing has to be generated
            frames = self._trajectory_ids[env_ids], self._frame_ids[env_ids]
            self._engine.start(self._pool, *frames, env_ids, *places)
        if self._start_chosen is None and self._chosen.is_cuda:  # the first start is everyone's; it can wait
            self._start_chosen = GraphRecorder(self._chosen.device).record([Piece(self._from_pool)])

    def _from_pool(self) -> None:
        planned = self._trajectory_ids, self._frame_ids, self._chosen, self._root_pos, self._root_rot
        self._engine.start(self._pool, *planned)
        self._chosen.zero_()

    def set_command(self, env_ids: torch.Tensor, commands: torch.Tensor) -> None:
        self._engine.set_command(commands, env_ids)

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

    def start(self, env_ids: torch.Tensor) -> None:
        self._trajectory_ids[env_ids] = self._starts.trajectory_ids[env_ids]
        self._frame_ids[env_ids] = self._starts.frame_ids[env_ids]

    def set_command(self, env_ids: torch.Tensor, commands: torch.Tensor) -> None:
        """Commands hold until the next start."""

    def step(self) -> None:
        self._frame_ids = torch.where(self._frame_ids >= self._last, SETTLE_FRAMES, self._frame_ids + 1)

    def frames(self) -> ReferenceFrames:
        shape = (len(self._trajectory_ids), len(self._offsets))
        ids = self._trajectory_ids.unsqueeze(1).expand(shape).reshape(-1)
        wanted = (self._frame_ids.unsqueeze(1) + self._offsets).reshape(-1)
        return ReferenceFrames(*(field.unflatten(0, shape) for field in self._states.pool.frames(ids, wanted)))
