"""The drop-in interfaces as existing implementations work, to be timed beside the runtime's.

Written anew from what they do: a weight matrix for every environment, a frame at a time; in realtime mode a queue of
frames for each environment, filled and emptied by Python loops; trajectories that are only indexed, with checks that
wait for the GPU. Only their faults that raise or restart the motion are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""[N, motion_dim], [N, command_dim] -> [N, motion_dim], physical units."""


@torch.no_grad()
def trajectories(network: Network, motion: torch.Tensor, command: torch.Tensor, frames: int) -> torch.Tensor:
    """[N, frames + 1, motion_dim], every frame kept in a list and stacked at the end."""
    kept = [motion.clone()]
    for _ in range(frames):
        kept.append(network(kept[-1], command).clone())
    return torch.stack(kept, dim=1)


class ReferencePregenerated:
    """``CMGMotionGenerator`` in pregenerated mode."""

    def __init__(self, network: Network, bank: torch.Tensor, num_envs: int, frames: int) -> None:
        self._network, self._bank, self._frames = network, bank, frames
        self._env_ids = torch.arange(num_envs, device=bank.device)
        self._index = torch.zeros(num_envs, dtype=torch.long, device=bank.device)
        self._trajectories = torch.empty(0)

    def reset(self, commands: torch.Tensor) -> None:
        start = self._bank[torch.randint(len(self._bank), (len(self._env_ids),), device=self._bank.device)]
        made = trajectories(self._network, start, commands, self._frames)
        if not self._trajectories.numel():
            self._trajectories = torch.zeros_like(made)
        self._trajectories[self._env_ids] = made
        self._index[self._env_ids] = 0

    def get_motion(self) -> tuple[torch.Tensor, torch.Tensor]:
        index = self._index[self._env_ids]
        motion = self._trajectories[self._env_ids, index]
        self._index[self._env_ids] = (index + 1) % (self._frames + 1)
        half = motion.shape[1] // 2
        return motion[:, :half], motion[:, half:]


class ReferenceRealtime:
    """``CMGMotionGenerator`` in realtime mode: ``size`` frames of room in each queue, half of them made at a time."""

    def __init__(self, network: Network, bank: torch.Tensor, num_envs: int, size: int = 100) -> None:
        self._network, self._bank, self._size = network, bank, size
        self._env_ids = torch.arange(num_envs, device=bank.device)
        self._queues: list[deque[torch.Tensor]] = [deque(maxlen=size) for _ in range(num_envs)]
        self._current = bank[:1].repeat(num_envs, 1)
        self._command = torch.empty(0)

    def reset(self, commands: torch.Tensor) -> None:
        start = torch.randint(len(self._bank), (len(self._env_ids),), device=self._bank.device)
        self._current[self._env_ids] = self._bank[start]
        self._command = commands
        for env_id in self._env_ids.cpu().numpy():
            self._queues[env_id].clear()

    def get_motion(self) -> tuple[torch.Tensor, torch.Tensor]:
        short = [len(self._queues[int(env_id.item())]) < self._size // 2 for env_id in self._env_ids]
        mask = torch.tensor(short, device=self._bank.device)
        if mask.any():
            self._refill(self._env_ids[mask])
        motion = torch.zeros_like(self._current)
        for row, env_id in enumerate(self._env_ids.cpu().numpy()):
            motion[row] = self._queues[env_id].popleft()
        half = motion.shape[1] // 2
        return motion[:, :half], motion[:, half:]

    def _refill(self, env_ids: torch.Tensor) -> None:
        ids = [int(env_id.item()) for env_id in env_ids]
        start = torch.stack([self._queues[i][-1] if self._queues[i] else self._current[i] for i in ids])
        made = trajectories(self._network, start, self._command[env_ids], self._size // 2)
        for row, env_id in enumerate(ids):
            for frame in range(1, made.shape[1]):
                self._queues[env_id].append(made[row, frame])


class ReferenceMotionLib:
    """``MotionLibCMG``: the nearest frame before a time; no root pose and no bodies."""

    def __init__(self, network: Network, bank: torch.Tensor, commands: torch.Tensor, frames: int, fps: float) -> None:
        start = bank[torch.randint(len(bank), (len(commands),), device=bank.device)]
        pool = trajectories(network, start, commands, frames)
        half = pool.shape[2] // 2
        self._dof_pos, self._dof_vel = pool[..., :half].clamp(-3.14159, 3.14159), pool[..., half:].clamp(-20.0, 20.0)
        self._commands, self._frames, self._dt = commands, frames, 1 / fps

    def calc_motion_frame(self, motion_ids: torch.Tensor, motion_times: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """root_vel, root_ang_vel, dof_pos, dof_vel."""
        ids = motion_ids.clamp(0, len(self._commands) - 1)
        frame = (motion_times / self._dt).long().clamp(0, self._frames - 1)
        dof_pos = self._dof_pos[ids, frame].clamp(-3.14159, 3.14159)
        dof_vel = self._dof_vel[ids, frame].clamp(-20.0, 20.0)
        if torch.isnan(dof_pos).any() or torch.isnan(dof_vel).any():
            dof_pos, dof_vel = dof_pos.nan_to_num(0.0), dof_vel.nan_to_num(0.0)
        command = self._commands[ids]
        root_vel, root_ang_vel = (
            torch.zeros(len(ids), 3, device=ids.device),
            torch.zeros(len(ids), 3, device=ids.device),
        )
        root_vel[:, 0], root_vel[:, 1] = command[:, 0], command[:, 1]
        root_ang_vel[:, 2] = command[:, 2]
        return root_vel, root_ang_vel, dof_pos, dof_vel
