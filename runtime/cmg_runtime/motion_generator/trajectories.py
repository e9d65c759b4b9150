"""Trajectories made in advance, and the frame of each that is current."""

from __future__ import annotations

from typing import Optional

import torch

from cmg_runtime.inputs import EnvSelection


class Trajectories:
    """A trajectory of ``duration + 1`` frames for every environment; after the last frame the first comes again.

    Attributes:
        wraps: [] int64 on the device: how often a trajectory began again.
    """

    def __init__(self, num_envs: int, duration: int, device: torch.device) -> None:
        self.wraps = torch.zeros((), dtype=torch.int64, device=device)
        self._duration = duration
        self._frames = torch.empty(0, device=device)  # [num_envs, duration + 1, motion_dim] once all have one
        self._frame = torch.zeros(num_envs, 1, dtype=torch.int64, device=device)
        self._first_row = torch.arange(num_envs, device=device).unsqueeze(1) * (duration + 1)

    def current(self) -> torch.Tensor:
        """The current frames [num_envs, motion_dim], a new tensor."""
        return self._frames.flatten(0, 1).index_select(0, (self._first_row + self._frame).squeeze(1))

    def advance(self, due: Optional[torch.Tensor]) -> None:
        """Move on by one frame: the environments that ``due`` [num_envs, 1] bool names, or all."""
        self._frame += 1 if due is None else due
        over = self._frame > self._duration
        self.wraps += over.sum()
        self._frame.masked_fill_(over, 0)

    def clear(self) -> None:
        """Give the memory of the trajectories back."""
        self._frames = self._frames.new_empty(0)

    def replace(self, envs: EnvSelection, frames: torch.Tensor) -> None:
        """Give ``envs`` (all, or by ids) new trajectories [n, duration + 1, motion_dim], at their first frame."""
        if envs.ids is None:
            self._frames = frames
        else:
            envs.write(self._frames, frames)
        envs.write(self._frame, torch.zeros_like(envs.read(self._frame)))
