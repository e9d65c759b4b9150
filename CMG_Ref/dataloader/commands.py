"""From a root trajectory to what a velocity command would have said."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d


def heading(root_quat: np.ndarray) -> np.ndarray:
    """Yaw [T] in rad, unwrapped, of quaternions [T, 4] (w, x, y, z): where the x axis points on the ground."""
    w, x, y, z = np.moveaxis(root_quat, -1, 0)
    return np.unwrap(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def heading_velocity(root_pos: np.ndarray, root_quat: np.ndarray, fps: float) -> np.ndarray:
    """Velocity of the root in its own heading frame.

    Args:
        root_pos: [T, 3], m, world.
        root_quat: [T, 4], (w, x, y, z), world.
        fps: frames a second.

    Returns:
        [T, 3]: vx forward, vy to the left (m/s) and yaw rate (rad/s), by central differences.
    """
    yaw = heading(root_quat)
    vx, vy = np.gradient(root_pos[:, :2], axis=0).T * fps
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * vx + sin * vy, -sin * vx + cos * vy, np.gradient(yaw) * fps], axis=1)


def smooth(values: np.ndarray, seconds: float, fps: float) -> np.ndarray:
    """Centred moving average over ``seconds`` along the first axis; the ends repeat the edge value."""
    width = max(1, round(seconds * fps))
    return values if width == 1 else uniform_filter1d(values, width, axis=0, mode="nearest")
