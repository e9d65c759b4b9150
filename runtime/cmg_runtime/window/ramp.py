"""Commands that are approached linearly, a ramp for each environment, on the device."""

from __future__ import annotations

from typing import Optional, Union

import torch

from cmg_runtime.inputs import EnvSelection


class CommandRamp:
    """The command in force: linear from ``start`` to ``target`` in ``frames`` frames, then ``target``.

    Args:
        columns: environments, and the scratch column of padded batches.
        command_dim: floats of a command.
        frames: length of a ramp, not necessarily whole. 0: the target is in force at once.

    Attributes:
        start, target: [columns, command_dim] float32, in physical units.
        elapsed: [columns] float32, frames from the start of the ramp to the current frame. Float, so that it
            needs no conversion and stops counting at 2^24 instead of overflowing.
    """

    def __init__(self, columns: int, command_dim: int, frames: float, device: torch.device) -> None:
        self.frames = frames
        self.start = torch.zeros(columns, command_dim, dtype=torch.float32, device=device)
        self.target = torch.zeros_like(self.start)
        self.elapsed = torch.zeros(columns, dtype=torch.float32, device=device)

    def at(self, offset: Union[int, torch.Tensor], ids: Optional[torch.Tensor] = None) -> torch.Tensor:
        """The command in force ``offset`` frames after the current one.

        Args:
            offset: an integer, or float32 [T, 1].
            ids: [n] int64; None for every column.

        Returns:
            [n, command_dim], or [T, n, command_dim].
        """
        start, target, elapsed = self.start, self.target, self.elapsed
        if ids is not None:
            start, target, elapsed = (state.index_select(0, ids) for state in (start, target, elapsed))
        elapsed = elapsed + offset
        if self.frames <= 0:
            return target.expand(elapsed.shape + target.shape[-1:])
        share = (elapsed / self.frames).clamp(max=1).unsqueeze(-1)
        return torch.lerp(start, target, share)  # exactly the target at 1

    def now(self) -> torch.Tensor:
        """[columns, command_dim]: the command in force at the current frame; a new tensor."""
        if self.frames <= 0:
            return self.target.clone()
        return torch.lerp(self.start, self.target, (self.elapsed / self.frames).clamp_(max=1).unsqueeze(-1))

    def retarget(self, envs: EnvSelection, targets: torch.Tensor, finite: torch.Tensor) -> None:
        """Start ramps from the commands in force to ``targets``.

        Environments whose target is the one they have already go on as they are, so that setting the same command
        every step is the same as setting it once.

        Args:
            envs: of the first columns.
            targets: [envs.num_rows, command_dim] float32.
            finite: [envs.num_rows] bool; the environments of the others go on too.
        """
        first = slice(0, len(self.elapsed) - 1)
        start, target, elapsed = (envs.read(state[first]) for state in (self.start, self.target, self.elapsed))
        restart = finite & (targets != target).any(dim=1)
        rows = restart.unsqueeze(1)
        in_force = envs.read(self.now()[first])
        envs.write(self.start[first], torch.where(rows, in_force, start))
        envs.write(self.target[first], torch.where(rows, targets, target))
        envs.write(self.elapsed[first], torch.where(restart, torch.zeros_like(elapsed), elapsed))

    def finish(self, envs: EnvSelection) -> None:
        """End the ramps of some environments: their targets are in force at once."""
        rows = slice(0, len(self.elapsed) - 1)
        target = envs.read(self.target[rows])
        envs.write(self.start[rows], target)
