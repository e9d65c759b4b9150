"""Room for contacts and constraints: how much, and a warning where it was not enough."""

# MuJoCo comes without annotations.
# pyright: reportAttributeAccessIssue=false

import os
import warnings

import mujoco
import mujoco_warp as mjwarp
import torch
import warp as wp
from mujoco_warp._src.types import OverflowType

from isaacgym.structs import SimParams
from isaacgym.tensors import note_overflow


def buffer_sizes(model: mujoco.MjModel, params: SimParams) -> tuple[int, int]:
    """Room for contacts and for rows of constraints, an environment.

    Contacts share one buffer, so an environment may have more than its part while others have fewer; rows do not. A
    shape makes about two contacts with flat ground and four with rough ground when the robot lies on it.
    """
    shapes = int((model.geom_bodyid > 0).sum())
    contacts = max(32, 2 * shapes) if model.nhfield + model.nmesh == 0 else max(64, 4 * shapes)
    nconmax = int(params.mujoco.nconmax or os.environ.get("ISAACGYM_NCONMAX") or contacts)
    rows = 4 * max(nconmax, contacts) + 2 * model.nv  # four a contact, a limit and a friction loss a DOF
    njmax = int(params.mujoco.njmax or os.environ.get("ISAACGYM_NJMAX") or rows)
    return nconmax, njmax


class OverflowReport:
    """Warns of contacts that were lost for want of room: of each kind of buffer once, and without waiting for a GPU."""

    def __init__(self, data: mjwarp.Data):
        self._data, self._reported = data, 0
        self._noted = wp.zeros(3, dtype=int)
        self._noted_tensor = wp.to_torch(self._noted)
        self._on_host = torch.zeros(3, dtype=torch.int32, pin_memory=self._noted_tensor.is_cuda)

    def note(self) -> None:
        """Launches the kernel that looks at the buffers after a step."""
        data = self._data
        buffers = [data.overflow, data.nefc, data.nacon, data.ncollision]
        wp.launch(note_overflow, data.nworld, buffers, [self._noted])

    def warn(self, stacklevel: int) -> None:
        """Warns of what has been noted. On a GPU it may be seen only some calls later."""
        self._on_host.copy_(self._noted_tensor, non_blocking=True)
        kinds, constraints, contacts = self._on_host.tolist()
        if not kinds & ~self._reported:
            return
        self._reported |= kinds
        names = ", ".join(str(kind.name) for kind in OverflowType if kinds & kind)
        warnings.warn(
            f"contacts were lost, buffers are full ({names}): {contacts} contacts of all environments with room for "
            f"{self._data.naconmax}, up to {constraints} constraints an environment with room for {self._data.njmax}; "
            "set sim_params.mujoco.nconmax and njmax, both for one environment (or ISAACGYM_NCONMAX, ISAACGYM_NJMAX)",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
