"""How far motions go, and whether the ground of a simulation reaches that far."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

SETTINGS = ("mesh_type", "border_size", "num_rows", "num_cols", "terrain_length", "terrain_width")
"""Of legged_gym's terrains."""


def farthest(commands: torch.Tensor, seconds: float) -> float:
    """The largest distance, m, from where it began, of a root that one of ``commands`` [M, 3] moves for ``seconds``.

    At constant speed and rate of turning the way is an arc: its chord grows until half of the circle is done.
    """
    vx, vy, rate = commands.double().cpu().unbind(1)
    half = (rate.abs() * seconds / 2).clamp(max=math.pi / 2)
    chord = torch.where(half > 1e-6, 2 * torch.sin(half) / rate.abs().clamp(min=1e-12), torch.full_like(half, seconds))
    return float((torch.hypot(vx, vy) * chord).max())


def warn_where_ground_ends(env: Any, distance: float) -> None:
    """Warn where the nearest edge of an environment's terrain is less than ``distance``, m, from some origin.

    legged_gym's terrains are ``num_rows`` by ``num_cols`` fields with a border around; a plane has no edge. An
    environment without these settings, or without ``env_origins``, is not looked at.
    """
    terrain, origins = getattr(env.cfg, "terrain", None), getattr(env, "env_origins", None)
    if terrain is None or origins is None or not all(hasattr(terrain, name) for name in SETTINGS):
        return
    if terrain.mesh_type not in ("trimesh", "heightfield"):
        return
    border = float(terrain.border_size)
    size = torch.tensor(
        [terrain.num_rows * terrain.terrain_length, terrain.num_cols * terrain.terrain_width], dtype=torch.float64
    )
    xy = origins[:, :2].double().cpu()
    left = border + float(torch.minimum(xy, size - xy).min())
    if left < distance:
        warnings.warn(
            f"motions go up to {distance:.0f} m from where they begin, and cfg.terrain ends {left:.0f} m from an "
            f"environment's origin; raise cfg.terrain.border_size to {math.ceil(border + distance - left)}, or shorten "
            "cfg.motion.cmg_motion_length",
            RuntimeWarning,
            stacklevel=3,
        )
