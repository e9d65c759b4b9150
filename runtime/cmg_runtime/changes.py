"""What callers change: motions, places and commands of some environments, written into the engine's state.

The class here is plain torch, for every device; on CUDA it is some eighty small kernels. A faster one subclasses it;
:func:`make_changes` chooses.
"""

from __future__ import annotations

from typing import Optional

import torch

from cmg_runtime.counters import Counters
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.kernels import why_not
from cmg_runtime.state import EngineState
from cmg_runtime.window_buffers import WindowBuffers


class Changes:
    """Writes changes; the windows are then to be rebuilt.

    Args:
        buffers: of the window, or None.
    """

    def __init__(self, state: EngineState, counters: Counters, buffers: Optional[WindowBuffers]) -> None:
        self._state = state
        self._counters = counters
        self._buffers = buffers
        self._current = state.current[: state.num_envs]

    def reset(
        self,
        envs: EnvSelection,
        motions: torch.Tensor,
        root_pos: torch.Tensor,
        root_rot: torch.Tensor,
        commands: Optional[torch.Tensor],
        at_once: bool,
    ) -> None:
        """Set current frames. Rows with a value that is not finite or beyond the limits are ignored and counted.

        Args:
            motions: [envs.num_rows, motion_dim] float32, rad and rad/s.
            root_pos: [envs.num_rows, 3] x, y and the height of the ground, m, world.
            root_rot: [envs.num_rows, 4], world, (w, x, y, z), of any length; only its yaw is used.
            commands: [envs.num_rows, command_dim] as in :meth:`set_command`, or None.
            at_once: the commands, old or new, are in force at once.
        """
        usable = torch.isfinite(torch.cat([root_pos, root_rot], dim=1)).all(dim=1) & self._state.guard.within(motions)
        self._counters.ignore_motions(envs.chosen(~usable))
        envs.write(self._current, torch.where(usable.unsqueeze(1), motions, envs.read(self._current)))
        if self._buffers is not None:
            _place(self._buffers, envs, usable, root_pos, root_rot)
        if commands is not None:
            self.set_command(envs, commands)
        if at_once:
            self._state.ramp.finish(envs)

    def set_command(self, envs: EnvSelection, commands: torch.Tensor) -> None:
        """Start ramps to ``commands`` [envs.num_rows, command_dim] float32, clamped; not finite ones are ignored."""
        finite = torch.isfinite(commands).all(dim=1)
        self._counters.ignore_commands(envs.chosen(~finite))
        clamped = self._counters.clamp_commands(commands, envs.chosen(finite))
        self._state.ramp.retarget(envs, clamped, finite)


def _place(
    buffers: WindowBuffers, envs: EnvSelection, usable: torch.Tensor, root_pos: torch.Tensor, root_rot: torch.Tensor
) -> None:
    """Say where the roots stand; the next rebuild makes their current frames. Not ``usable`` rows change nothing."""
    first = slice(0, buffers.num_envs)
    ground, placement, fresh = buffers.ground[first], buffers.placement[first], buffers.fresh[first]
    wanted = torch.cat([root_pos, yaw_of(root_rot).unsqueeze(1)], dim=1)
    envs.write(placement, torch.where(usable.unsqueeze(1), wanted, envs.read(placement)))
    envs.write(ground, torch.where(usable, root_pos[:, 2], envs.read(ground)))
    envs.write(fresh, usable)


def yaw_of(quat: torch.Tensor) -> torch.Tensor:
    """Yaw [n], rad, of quaternions [n, 4], (w, x, y, z), of any length."""
    longest = quat.abs().amax(dim=1, keepdim=True).clamp(min=1e-37)  # so that no square over- or underflows
    w, x, y, z = (quat / longest).unbind(dim=1)
    return torch.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def make_changes(state: EngineState, counters: Counters, buffers: Optional[WindowBuffers]) -> Changes:
    """The fastest for the state's device."""
    if state.device.type == "cuda" and not why_not(state.device):
        from cmg_runtime.kernels.changes import FusedChanges

        return FusedChanges(state, counters, buffers)
    return Changes(state, counters, buffers)
