"""Episodes begin in the middle of a gait: trajectories under constant commands, generated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmg_runtime import Engine, ReferenceFrames

SETTLE_FRAMES = 150
"""Three seconds, in which a rollout goes from any state to the gait of its command."""

STANDING_SHARE = 0.1


@dataclass(frozen=True)
class Starts:
    """Where episodes begin.

    Attributes:
        trajectory_ids, frame_ids: [n] int64, of the pool.
        frames: [n, ...] the frames themselves, each in the world of its own trajectory.
    """

    trajectory_ids: torch.Tensor
    frame_ids: torch.Tensor
    frames: ReferenceFrames


class StartStates:
    """Settled gait of commands all over the command range.

    Args:
        engine: its command range, bank and network.
        num_trajectories: how many commands; they are spread evenly, :data:`STANDING_SHARE` of them zero.
        num_frames: settled frames of each that an episode may start from.
        ahead: frames that follow the last of them.
        seed: of the draws.
        trajectory_seed: of commands and initial states: the same one makes the same trajectories on the same kind of
            device.

    Attributes:
        pool: the trajectories; settled from frame :data:`SETTLE_FRAMES` on.
        commands: [num_trajectories, 3], of each.
    """

    def __init__(
        self,
        engine: Engine,
        num_trajectories: int,
        num_frames: int,
        ahead: int,
        seed: int,
        trajectory_seed: int,
    ) -> None:
        low, high = engine.command_range
        self._generator = torch.Generator(engine.device).manual_seed(seed)
        self._num_frames = num_frames
        generator = torch.Generator(engine.device).manual_seed(trajectory_seed)
        spread = torch.rand(num_trajectories, 3, generator=generator, device=engine.device)
        self.commands = low + spread * (high - low)
        self._standing = round(STANDING_SHARE * num_trajectories)
        self.commands[: self._standing] = 0.0
        # Normalised, so that no component of the distance to a command outweighs the others. A range may be a point.
        self._width = (high - low).clamp(min=1e-6)
        self._normalised = self.commands / self._width
        initial = torch.randint(len(engine.bank), (num_trajectories,), generator=generator, device=engine.device)
        total_frames = SETTLE_FRAMES + num_frames + ahead
        self.pool = engine.make_pool(num_trajectories, total_frames, self.commands, engine.bank[initial])

    def draw(self, commands: torch.Tensor) -> Starts:
        """A start for each of ``commands`` [n, 3]: a random settled frame of the trajectory nearest to it. New
        tensors."""
        # By differences, for by products a command is not at distance 0 of itself. Not by torch.cdist: its kernel for
        # that takes 5 ms for 4096 commands on an H100.
        distance = torch.zeros(len(commands), len(self.commands), device=commands.device)
        for wanted, there in zip((commands / self._width).unbind(1), self._normalised.unbind(1), strict=True):
            distance += (wanted.unsqueeze(1) - there).square()
        trajectory_ids = distance.argmin(dim=1)
        if self._standing:  # all of these are equally near, and argmin gives the first
            any_standing = self._integers(0, self._standing, len(commands))
            trajectory_ids = torch.where(trajectory_ids < self._standing, any_standing, trajectory_ids)
        frame_ids = self._integers(SETTLE_FRAMES, SETTLE_FRAMES + self._num_frames, len(commands))
        return Starts(trajectory_ids, frame_ids, self.pool.layout.split(self.pool.rows[frame_ids, trajectory_ids]))

    def _integers(self, low: int, high: int, count: int) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=self._generator, device=self.commands.device)
