"""What callers change: motions, places and commands of some environments, written into the engine's state.

The class here is plain torch, for every device; on CUDA it is some eighty small kernels. A faster one subclasses it,
and leaves the work to the graph of the rebuild that follows; :mod:`cmg_runtime.window.twins` chooses.
"""

from __future__ import annotations

from typing import List, Optional

import torch

from cmg_runtime.device.graphs import Piece
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.geometry import yaw_from_quat
from cmg_runtime.window.report import Counters
from cmg_runtime.window.state import EngineState, WindowBuffers


class Changes:
    """Takes changes. Each is to be followed by a rebuild of the same environments, whose :meth:`pieces` may be what
    writes the change: see :class:`cmg_runtime.window.rebuild.Rebuilds`.

    Args:
        buffers: of the window, or None.
    """

    def __init__(self, state: EngineState, counters: Counters, buffers: Optional[WindowBuffers]) -> None:
        self._state = state
        self._counters = counters
        self._buffers = buffers
        self._current = state.current[: state.num_envs]

    def pieces(self, ids: torch.Tensor) -> List[Piece]:
        """What a rebuild of ``ids`` [size] int64 begins with."""
        return []

    def columns(self, envs: EnvSelection) -> torch.Tensor:
        """``ids`` for a rebuild that is of just these environments."""
        return envs.columns(self._state.guard.columns)

    def write_columns(self, envs: EnvSelection, ids: torch.Tensor) -> None:
        """``ids`` [size] for one that is of more, with the scratch column behind them."""
        ids[envs.num_rows :].fill_(self._state.num_envs)
        ids[: envs.num_rows].copy_(self.columns(envs))

    def draw(self, n: int) -> Optional[torch.Tensor]:
        """Motions [n, motion_dim] of the bank for the reset that follows, or None where that knows which."""
        draws = self._state.draws
        first = draws.take(n)
        return self._state.guard.bank.index_select(0, draws.rows[first : first + n])

    def nothing(self, envs: EnvSelection) -> None:
        """No change, for a rebuild all the same."""

    def reset(
        self,
        envs: EnvSelection,
        motions: Optional[torch.Tensor],
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
        commands: Optional[torch.Tensor],
    ) -> None:
        """Set current frames; the commands, old or new, are in force at once. Rows with a value that is not finite or
        beyond the limits are ignored and counted.

        Args:
            motions: [envs.num_rows, motion_dim] float32, rad and rad/s; or what :meth:`draw` gave.
            root_pos: [envs.num_rows, 3] x, y and the height of the ground, m, world; None: as last given.
            root_rot: [envs.num_rows, 4], world, (w, x, y, z), of any length; only its yaw is used. None: as last given.
            commands: [envs.num_rows, command_dim] as in :meth:`set_command`, or None.
        """
        assert motions is not None
        usable = self._state.guard.within(motions)
        if self._buffers is not None:
            wanted = wanted_placement(self._buffers, envs, root_pos, root_rot)
            usable = usable & torch.isfinite(wanted).all(dim=1)
            _place(self._buffers, envs, usable, wanted)
        self._counters.ignore_motions(envs.chosen(~usable))
        envs.write(self._current, torch.where(usable.unsqueeze(1), motions, envs.read(self._current)))
        if commands is not None:
            self.set_command(envs, commands)
        self._state.ramp.finish(envs)

    def set_command(self, envs: EnvSelection, commands: torch.Tensor) -> None:
        """Start ramps to ``commands`` [envs.num_rows, command_dim] float32, clamped; not finite ones are ignored."""
        finite = torch.isfinite(commands).all(dim=1)
        self._counters.ignore_commands(envs.chosen(~finite))
        clamped = self._counters.clamp_commands(commands, envs.chosen(finite))
        self._state.ramp.retarget(envs, clamped, finite)


def wanted_placement(
    buffers: WindowBuffers, envs: EnvSelection, root_pos: Optional[torch.Tensor], root_rot: Optional[torch.Tensor]
) -> torch.Tensor:
    """[envs.num_rows, 4] as of ``buffers.placement``: what is given, and for what is not, what was given last. A row
    is not finite where one of what is given is not."""
    last = envs.read(buffers.placement[: buffers.num_envs])
    position = last[:, :3] if root_pos is None else root_pos
    yaw = last[:, 3] if root_rot is None else yaw_from_quat(root_rot)
    return torch.cat([position, yaw.unsqueeze(1)], dim=1)


def _place(buffers: WindowBuffers, envs: EnvSelection, usable: torch.Tensor, wanted: torch.Tensor) -> None:
    """Say where the roots stand; the next rebuild makes their current frames. Not ``usable`` rows change nothing."""
    first = slice(0, buffers.num_envs)
    ground, placement, fresh = buffers.ground[first], buffers.placement[first], buffers.fresh[first]
    envs.write(placement, torch.where(usable.unsqueeze(1), wanted, envs.read(placement)))
    envs.write(ground, torch.where(usable, wanted[:, 2], envs.read(ground)))
    envs.write(fresh, usable)
