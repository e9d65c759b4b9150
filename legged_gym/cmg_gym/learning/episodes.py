"""Returns and lengths of training episodes, kept on the device until the end of an iteration."""

from __future__ import annotations

import torch

REMEMBERED = 100
"""Episodes over which rsl_rl takes its means."""


class EndedEpisodes:
    """Returns and lengths of the episodes that end in a rollout of ``num_steps`` steps."""

    def __init__(self, num_steps: int, num_envs: int, device: torch.device) -> None:
        self._running = torch.zeros(2, num_envs, device=device)  # return, length
        self._at_step = torch.zeros(num_steps, 2, num_envs, device=device)
        self._ended = torch.zeros(num_steps, num_envs, dtype=torch.bool, device=device)
        self._index = torch.arange(num_steps * num_envs, device=device)

    @property
    def buffers(self) -> list[torch.Tensor]:
        """What :meth:`add` changes."""
        return [self._running, self._at_step, self._ended]

    def add(self, step: torch.Tensor, rewards: torch.Tensor, dones: torch.Tensor) -> None:
        """Take in a step; can be captured.

        Args:
            step: [1] its number in the rollout, int64.
            rewards: [num_envs].
            dones: [num_envs] not 0 where an episode ends with it.
        """
        ended = dones.bool()
        self._running[0].add_(rewards)
        self._running[1].add_(1.0)
        self._at_step.index_copy_(0, step, self._running.unsqueeze(0))
        self._ended.index_copy_(0, step, ended.unsqueeze(0))
        self._running.masked_fill_(ended, 0.0)

    def last(self) -> list[tuple[float, float]]:
        """Return and length of the last :data:`REMEMBERED` episodes that ended in the rollout, in their order.

        The host waits for the device.
        """
        ended = torch.where(self._ended.flatten(), self._index, -1)
        last = ended.topk(min(REMEMBERED, len(ended))).values.flip(0)
        values = self._at_step.transpose(1, 2).flatten(0, 1)[last.clamp(min=0)]
        table = torch.where((last >= 0).unsqueeze(1), values, -1.0).tolist()
        return [(total, length) for total, length in table if length > 0]
