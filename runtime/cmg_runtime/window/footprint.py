"""Bytes that engines, rollouts and pools take, from below: what :mod:`cmg_runtime.device.memory` compares."""

from __future__ import annotations

from typing import Optional

import torch

from cmg_runtime.backends import BACKENDS
from cmg_runtime.folder.manifest import Sizes
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.rebuild import frames_at_once, workspace_floats


def engine_bytes(
    sizes: Sizes, num_envs: int, horizon: int, layout: Optional[FrameLayout], device: torch.device, backend: str
) -> int:
    """What an engine takes at least, with all that is at work while it is loaded or steps.

    Args:
        layout: of the window's frames; None without a window.
    """
    columns, motion, command = num_envs + 1, sizes.motion_dim, sizes.command_dim
    kept = columns * (4 * (2 * motion + 3 * command + 1) + 8) + num_envs * 9
    workspace = 0  # of a rebuild of all windows
    if layout is not None:
        kept += columns * (4 * (horizon * layout.width + motion + 9) + 9) + num_envs * 16
        workspace = 4 * workspace_floats(num_envs, horizon, motion, command)
    if device.type != "cpu":
        return kept + workspace + num_envs * BACKENDS[backend].widest_bytes * _widest(sizes)
    # On a CPU networks take a bounded number of rows at once; what takes room is torch's way to make rows of frames.
    at_work = 3 * num_envs * motion  # a step: the guard's bools
    if layout is not None:
        placing = 4 * num_envs * (3 * layout.width + motion + 5)
        parts = layout.width + layout.used - layout.key_body_pos + 22
        writing = workspace + 4 * num_envs * frames_at_once(num_envs, horizon) * parts
        at_work = max(at_work, max(placing, writing) - 4 * columns * motion)  # next_motion is not in use yet
    return kept + at_work


def rollout_bytes(num_motions: int, num_frames: int, motion_dim: int, command_dim: int) -> int:
    """Of the frames of :func:`cmg_runtime.window.rollout.roll_out`, and the commands that lead to them."""
    return 4 * num_motions * ((num_frames + 1) * motion_dim + num_frames * command_dim)


def pool_bytes(num_trajectories: int, num_frames: int, layout: FrameLayout) -> int:
    """Of a pool's rows, and the commands that lead to them."""
    return 4 * num_trajectories * num_frames * (layout.width + 3)


def _widest(sizes: Sizes) -> int:
    """Columns of the network's widest tensor; see :mod:`cmg_runtime.backends.one_product`."""
    inner = [sizes.hidden_dim] * (sizes.num_layers - 1)
    widths = [sizes.motion_dim + sizes.command_dim, *inner, sizes.motion_dim]
    return sizes.num_experts * max(min(pair) for pair in zip(widths, widths[1:]))
