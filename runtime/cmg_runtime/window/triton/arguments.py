"""Arguments of several kernels, under the kernels' names for them; and those of a change, at fixed addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import torch

from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.state import CommandRamp


def selection_arguments(envs: EnvSelection, everyone: torch.Tensor) -> Dict[str, Optional[torch.Tensor]]:
    """``ids`` [n] int64 or None, ``mask`` [n] bool or None, both contiguous.

    torch fetches the ids, so that one out of range fails its device-side assert: a kernel would write anywhere.
    """
    ids = None if envs.ids is None else everyone.index_select(0, envs.ids)
    return {"ids": ids, "mask": None if envs.mask is None else envs.mask.contiguous()}


def rows_arguments(name: str, rows: Optional[torch.Tensor]) -> Dict[str, Any]:
    """``name``, the rows [n, width], each contiguous, and ``name_stride``, the floats from row to row."""
    if rows is None:
        return {name: None, f"{name}_stride": 0}
    if rows.stride(1) != 1 and rows.shape[1] > 1:
        rows = rows.contiguous()
    return {name: rows, f"{name}_stride": rows.stride(0)}


def ramp_arguments(ramp: CommandRamp) -> Dict[str, Any]:
    """``ramp_initial``, ``ramp_target``, ``ramp_elapsed``, ``ramp_frames``, and ``RAMP``: whether there is one."""
    return {
        "ramp_initial": ramp.initial,
        "ramp_target": ramp.target,
        "ramp_elapsed": ramp.elapsed,
        "ramp_frames": max(float(ramp.num_frames), 1e-9),  # of any use only where there is a ramp
        "RAMP": ramp.num_frames > 0,
    }


_GIVEN = ("ids", "mask", "states", "motion", "root_pos", "root_rot", "command")

FLAGS = {name: 1 << bit for bit, name in enumerate(_GIVEN)}
"""What :attr:`GivenChange.header` says of each of its other tensors: whether it is given."""


@dataclass(frozen=True)
class GivenChange:
    """A change, as callers gave it, at addresses that never change: a graph that has been recorded reads it there.

    Of each tensor but the states the first rows are in use, as many as the header says.

    Attributes:
        header: [] int64: rows in the lower 32 bits, the sum of :data:`FLAGS` above, and above these where in the states
            the first of its own is.
        ids: [num_envs] int64 environments.
        mask: [num_envs] bool.
        states: [..] int64 rows of the bank, in place of motions: :attr:`cmg_runtime.window.draws.Draws.rows`.
        motion: [num_envs, motion_dim] float32, rad and rad/s.
        root_pos, root_rot: [num_envs, 3] m and [num_envs, 4] (w, x, y, z), world, float32.
        command: [num_envs, command_dim] float32.
    """

    everyone: torch.Tensor
    header: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    states: torch.Tensor
    motion: torch.Tensor
    root_pos: torch.Tensor
    root_rot: torch.Tensor
    command: torch.Tensor

    @staticmethod
    def of(everyone: torch.Tensor, states: torch.Tensor, motion_dim: int, command_dim: int) -> GivenChange:
        """For the environments ``everyone``, 0..num_envs-1 [num_envs] int64: nothing is given."""
        rows = [everyone.new_zeros((len(everyone), n), dtype=torch.float32) for n in (motion_dim, 3, 4, command_dim)]
        header, mask = everyone.new_zeros(()), torch.zeros_like(everyone, dtype=torch.bool)
        return GivenChange(everyone, header, torch.zeros_like(everyone), mask, states, *rows)

    def put(self, envs: EnvSelection, rows: Dict[str, Optional[torch.Tensor]], drawn: Optional[int] = None) -> None:
        """Put it there: one operation for each of what is given, and one for the header.

        Args:
            rows: what goes with ``envs``, by its name here; None is not given.
            drawn: where the states are, if there are any.
        """
        n, flags = envs.num_rows, 0 if drawn is None else FLAGS["states"] | drawn << len(FLAGS)
        if envs.ids is not None:
            # Not a copy: an id that is out of range fails torch's device-side assert. A kernel would write anywhere.
            torch.index_select(self.everyone, 0, envs.ids, out=self.ids[:n])
            flags |= FLAGS["ids"]
        elif envs.mask is not None:
            self.mask.copy_(envs.mask)
            flags |= FLAGS["mask"]
        for name, values in rows.items():
            if values is not None:
                getattr(self, name)[:n].copy_(values)
                flags |= FLAGS[name]
        self.header.fill_(n | flags << 32)

    def arguments(self) -> Dict[str, torch.Tensor]:
        """As a kernel takes them."""
        return {name: getattr(self, name) for name in ("header", *FLAGS)}
