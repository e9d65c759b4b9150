"""What ends an episode, besides mjlab's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv


def diverged(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[N] bool: the state of the simulation, or what its sensors show, is no longer finite.

    As mjlab's ``nan_detection``, by sums: one is finite where all that it is of are.
    """
    data = env.sim.data
    parts = (data.qpos, data.qvel, data.qacc, data.qacc_warmstart, data.sensordata)
    total = torch.stack([part[:].sum(dim=1) for part in parts]).sum(dim=0)
    return ~(total.abs() < torch.inf)
