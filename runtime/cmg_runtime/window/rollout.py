"""Motions rolled out apart from the engine's environments."""

from __future__ import annotations

from typing import Any

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.errors import EngineError
from cmg_runtime.guard import Guard
from cmg_runtime.inputs import as_count, as_floats, require_finite

MOST_FRAMES = 1 << 40
"""Frames of a rollout, 700 years of them: a shape that torch can still count."""


def roll_out(backend: Backend, guard: Guard, motion: torch.Tensor, commands: torch.Tensor) -> torch.Tensor:
    """Frames [n, T + 1, motion_dim]: ``motion`` [n, motion_dim], then what ``commands`` [n, T, command_dim] lead to."""
    n, num_frames = commands.shape[:2]
    frames = torch.empty(n, num_frames + 1, motion.shape[1], dtype=torch.float32, device=motion.device)
    frames[:, 0] = motion
    apart = guard.apart(n)
    in_force = commands if commands.stride(-1) == 1 else commands.contiguous()  # a held command stays a view
    backend.rollout(frames[:, 0], in_force.transpose(0, 1), frames[:, 1:].transpose(0, 1), apart, apart.columns)
    return frames


def as_commands(values: Any, n: int, width: int, device: torch.device, num_frames: int | None = None) -> torch.Tensor:
    """``values``, [n, T, width], [n, width] or [width], as [n, T, width] or [n, width], finite. The host waits.

    Args:
        num_frames: T; None for any.
    """
    commands = as_floats(values, [(n, num_frames, width), (n, width), (width,)], "commands", device)
    require_finite(commands, "commands")
    return commands.expand(n, width) if commands.dim() == 1 else commands


def per_frame(commands: torch.Tensor, num_frames: int | None) -> torch.Tensor:
    """Commands [n, T, command_dim] from [n, T, command_dim], or from [n, command_dim], held: a view, however long.

    Raises:
        EngineError: ``num_frames`` is missing, negative, beyond :data:`MOST_FRAMES`, or is not T.
    """
    if num_frames is not None:
        num_frames = as_count(num_frames, "num_frames", least=0)
    if commands.dim() == 3:
        if num_frames not in (None, commands.shape[1]):
            raise EngineError(f"num_frames is {num_frames!r} for commands of {commands.shape[1]} frames; leave it out")
        return commands
    if num_frames is None or num_frames >= MOST_FRAMES:
        raise EngineError(f"num_frames is {num_frames!r}; commands that are held need one of 0..{MOST_FRAMES - 1}")
    return commands.unsqueeze(1).expand(-1, num_frames, -1)
