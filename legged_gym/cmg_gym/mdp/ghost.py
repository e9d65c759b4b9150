"""The reference in the viewer: a second robot that only shows."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mujoco import MjModel  # pyright: ignore[reportAttributeAccessIssue]

GHOST_COLOUR = (0.4, 0.7, 0.5, 0.5)


def ghost_of(model: MjModel) -> MjModel:
    """A copy of which only what is drawn, and does not collide, can be seen."""
    ghost = copy.deepcopy(model)
    collides = (ghost.geom_contype != 0) | (ghost.geom_conaffinity != 0)
    ghost.geom_rgba[collides, 3] = 0.0
    ghost.geom_rgba[~collides] = GHOST_COLOUR
    return ghost
