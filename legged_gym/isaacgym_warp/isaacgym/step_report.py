"""Warnings of what went wrong in steps: contacts that were lost, environments that diverged."""

import warnings

import mujoco_warp as mjwarp
import torch
import warp as wp
from mujoco_warp._src.types import OverflowType

from isaacgym.step_kernels import note_overflow


class StepReport:
    """Kernels note on the device; the host reads a copy, without waiting: on a GPU a warning may come some calls later.

    Attributes:
        noted: int32 [4]: kinds of full buffers (bits of OverflowType), the most constraints of an environment, the most
            contacts of all, and how often environments have diverged.
    """

    def __init__(self, data: mjwarp.Data):
        self._data, self._reported_kinds, self._next_diverged = data, 0, 1
        self.noted = wp.zeros(4, dtype=int)
        self._noted_tensor = wp.to_torch(self.noted)
        self._on_host = torch.zeros(4, dtype=torch.int32, pin_memory=self._noted_tensor.is_cuda)

    def note_overflow(self) -> None:
        """Launches the kernel that looks at the buffers after a step."""
        data = self._data
        buffers = [data.overflow, data.nefc, data.nacon, data.ncollision]
        wp.launch(note_overflow, data.nworld, buffers, [self.noted])

    def warn(self, stacklevel: int) -> None:
        """Warns of each kind of full buffer once, and of divergence each time there is ten times as much of it."""
        self._on_host.copy_(self._noted_tensor, non_blocking=True)
        kinds, constraints, contacts, diverged = self._on_host.tolist()
        if kinds & ~self._reported_kinds:
            self._reported_kinds |= kinds
            names = ", ".join(str(kind.name) for kind in OverflowType if kinds & kind)
            _warn(
                f"contacts were lost, buffers are full ({names}): {contacts} contacts of all environments with room "
                f"for {self._data.naconmax}, up to {constraints} constraints an environment with room for "
                f"{self._data.njmax}; set sim_params.mujoco.nconmax and njmax, both for one environment (or "
                "ISAACGYM_NCONMAX, ISAACGYM_NJMAX)",
                stacklevel,
            )
        if diverged >= self._next_diverged:
            self._next_diverged = 10 * diverged
            _warn(
                f"environments have diverged {diverged} times and began anew where they were created; if it goes on, "
                "take a smaller dt, more substeps, more armature, or smaller forces",
                stacklevel,
            )


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 2)
