"""The memory of a window: allocated once, at addresses that never change, so that CUDA graphs can be replayed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cmg_runtime.window.ramp import CommandRamp


@dataclass
class WindowBuffers:
    """What a window keeps on the device. Everything is contiguous; floats are float32.

    There is one column an environment and one more, the scratch column (index ``num_envs``), where the padding of
    batches goes. Its contents mean nothing.

    Attributes:
        num_envs: environments; ``columns = num_envs + 1``.
        horizon: frames of the window, at least 2, the current one included.
        frames: [horizon, columns, W] rows of :class:`cmg_runtime.window.frames.FrameLayout`, a ring: the frame at
            offset k from the current one is in slot ``(head + k) % horizon``.
        head: [1] int64, slot of the current frame, the same for all environments.
        current: [columns, D] motion state of the current frame: what callers see as dof_pos and dof_vel.
        newest_motion: [columns, D] motion state of the frame at offset ``horizon - 1``: the network's input.
        newest_root: [columns, 4] its root state: x, y, z (m), yaw (rad), world.
        next_motion: [columns, D] the network's result: the frame at offset ``horizon``.
        next_command: [columns, 3] command in force that leads to that frame: the network's other input.
        ramp: the ramps of the commands.
        ground: [columns] height of the ground under each environment, m.
        placement: [columns, 4] the place that was last given for each environment, by a reset or a start: x, y, height
            of the ground (m), yaw (rad), world. Zeros before any.
        fresh: [columns] bool, True between a reset and the rebuild that follows it.
    """

    num_envs: int
    horizon: int
    frames: torch.Tensor
    current: torch.Tensor
    next_motion: torch.Tensor
    next_command: torch.Tensor
    ramp: CommandRamp
    head: torch.Tensor = field(init=False)
    newest_motion: torch.Tensor = field(init=False)
    newest_root: torch.Tensor = field(init=False)
    ground: torch.Tensor = field(init=False)
    placement: torch.Tensor = field(init=False)
    fresh: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        columns, device = len(self.current), self.current.device
        self.head = torch.zeros(1, dtype=torch.int64, device=device)
        self.newest_motion = self.current.clone()
        self.newest_root = torch.zeros(columns, 4, dtype=torch.float32, device=device)
        self.ground = torch.zeros(columns, dtype=torch.float32, device=device)
        self.placement = torch.zeros(columns, 4, dtype=torch.float32, device=device)
        self.fresh = torch.zeros(columns, dtype=torch.bool, device=device)
        self._columns = columns
        self._offsets = torch.arange(self.horizon, device=device)
        self.flat_frames = self.frames.view(-1, self.frames.shape[-1])

    def places(self, ids: torch.Tensor, first: int, count: int) -> torch.Tensor:
        """[count, n] int64: rows of ``flat_frames`` with the frames of columns ``ids`` from offset ``first`` on."""
        slots = (self.head + self._offsets[first : first + count]).remainder(self.horizon)
        return slots.unsqueeze(1) * self._columns + ids
