"""The step of an engine without a window: the current frame is the newest one."""

from __future__ import annotations

import functools
from typing import List, Optional

import torch

from cmg_runtime.device.graphs import GraphRecorder, Piece
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.rebuild import Rebuilds
from cmg_runtime.window.state import EngineState, Steps


class SingleFrame:
    """The current frame, and nothing ahead. On CUDA, steps and what follows a change are CUDA graphs.

    Args:
        changes: of the environments.
    """

    def __init__(self, state: EngineState, changes: Changes) -> None:
        self._state = state
        # Functions of the state, not methods of this object, which would then keep itself alive.
        self._steps = Steps(state, lambda moving: state.infer_from_current(), functools.partial(_advance, state))
        self._rebuilds = Rebuilds(changes, functools.partial(_pieces, state))
        if state.device.type == "cuda":
            recorder = GraphRecorder(state.device)
            self._rebuilds.record(recorder, (state.num_envs,), state.device)
            self._steps.record(recorder)

    def clear(self) -> None:
        """As it was made."""
        self._state.clear()

    def step(self, moving: Optional[torch.Tensor] = None) -> None:
        """Every environment one frame forward, or those that ``moving`` [num_envs] bool chooses."""
        self._steps.run(moving)

    def rebuild(self, envs: EnvSelection) -> None:
        """Take notice of a change of ``envs``."""
        self._rebuilds.run(envs)


def _pieces(state: EngineState, ids: torch.Tensor) -> List[Piece]:
    return [Piece(functools.partial(_take_notice, state))]


def _take_notice(state: EngineState) -> None:
    state.next_command.copy_(state.ramp.at(1))  # whose command did not change has just this already


def _advance(state: EngineState, moving: Optional[torch.Tensor]) -> None:
    n, envs = state.num_envs, EnvSelection(state.num_envs, mask=moving)
    state.guard.apply(state.next_motion[:n], state.guard.columns, 1, advance=True, moving=moving)
    envs.write(state.current[:n], state.next_motion[:n])
    state.ramp.advance(moving)
    envs.write(state.next_command[:n], state.ramp.at(1)[:n])
