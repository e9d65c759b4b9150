"""What every engine keeps on its device, with a window or without, and the step of those without."""

from __future__ import annotations

import functools
from typing import Any

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.device.graphs import GraphRecorder, Piece, can_be_captured, run_eagerly
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.guard import Guard
from cmg_runtime.window.ramp import CommandRamp


class EngineState:
    """The current frame and the command of every environment, at addresses that never change.

    Attributes:
        num_envs, device: of the engine.
        current: [num_envs + 1, motion_dim] float32, rad and rad/s, the motion state of the current frame. The last
            row here and below belongs to no environment: see :class:`cmg_runtime.window.window_buffers.WindowBuffers`.
        next_motion: [num_envs + 1, motion_dim], what the network makes.
        next_command: [num_envs + 1, command_dim], the command in force that the network's next step is given.
        ramp: the ramps of the commands.
        backend: the network.
        guard: to be applied to every frame that the network makes, before anything reads it.
        captures_network: whether the network is part of CUDA graphs. If not, it is called beside them. True on
            a CPU.
    """

    def __init__(
        self,
        manifest: Manifest,
        num_envs: int,
        device: torch.device,
        ramp_frames: float,
        backend: Backend,
        guard: Guard,
    ) -> None:
        self.num_envs = num_envs
        self.device = device
        self.backend = backend
        self.guard = guard
        self._rest = torch.tensor(manifest.stats.motion_mean, dtype=torch.float32, device=device)
        self.current = self._rest.repeat(num_envs + 1, 1)
        self.next_motion = torch.empty_like(self.current)
        self.ramp = CommandRamp(num_envs + 1, manifest.sizes.command_dim, ramp_frames, device)
        self.next_command = torch.zeros_like(self.ramp.target)
        self.captures_network = device.type == "cpu" or (
            backend.capturable and can_be_captured(self.infer_from_current, device)
        )

    def clear(self) -> None:
        """As it was made: undoes the steps of warm-ups. A window is not valid then until its rebuild."""
        self.current.copy_(self._rest.expand_as(self.current))
        self.next_command.zero_()
        self.guard.clear()
        for tensor in (self.ramp.start, self.ramp.target, self.ramp.elapsed):
            tensor.zero_()

    def infer_from_current(self) -> None:
        """The frame after the current one, into ``next_motion``: a backend may not write where it still reads."""
        n = self.num_envs
        self.backend.step(self.current[:n], self.next_command[:n], self.next_motion[:n])


class SingleFrame:
    """The step of an engine without a window: the current frame is the newest one. On CUDA it is a CUDA graph."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        # Functions of the state, not methods of this object, which would then keep itself alive.
        advance = functools.partial(_advance, state)
        pieces = [Piece(state.infer_from_current, state.captures_network), Piece(advance)]
        self._step: Any = functools.partial(run_eagerly, pieces)
        if state.device.type == "cuda":
            self._step = GraphRecorder(state.device).record(pieces)

    def clear(self) -> None:
        """As it was made."""
        self._state.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Every environment one frame forward."""
        self._step()

    def rebuild(self, ids: torch.Tensor) -> None:
        """Take notice of the new commands of ``ids`` [n] int64."""
        self._state.next_command.index_copy_(0, ids, self._state.ramp.at(1, ids))


def _advance(state: EngineState) -> None:
    state.guard.apply(state.next_motion[: state.num_envs], state.guard.columns, 1, advance=True)
    state.current[: state.num_envs].copy_(state.next_motion[: state.num_envs])
    state.ramp.elapsed.add_(1)
    state.next_command.copy_(state.ramp.at(1))
