"""Rough ground as fields of heights, by the names of Isaac Gym's ``terrain_utils``.

A field is an int16 array [width, length] of heights in steps of ``vertical_scale`` (m), its samples
``horizontal_scale`` (m) apart: first index along x, second along y. Random ones draw from ``np.random``, as existing
code that seeds it expects; not the same fields as Isaac Gym's for the same seed.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import RectBivariateSpline

from isaacgym.structs import GymError


class SubTerrain:
    """One field, flat at first, which the functions below change and return."""

    def __init__(
        self,
        terrain_name: str = "terrain",
        width: int = 256,
        length: int = 256,
        vertical_scale: float = 1.0,
        horizontal_scale: float = 1.0,
    ) -> None:
        self.terrain_name = terrain_name
        self.vertical_scale = vertical_scale
        self.horizontal_scale = horizontal_scale
        self.width = width
        self.length = length
        self.height_field_raw = np.zeros((width, length), np.int16)

    def steps(self, height: float) -> int:
        """A height (m) in whole vertical steps, cut towards zero."""
        return int(height / self.vertical_scale)

    def samples(self, distance: float) -> int:
        """A distance (m) in whole samples, cut towards zero."""
        return int(distance / self.horizontal_scale)

    def side(self, distance: float) -> int:
        """The same for a side of something, which at least one sample must have.

        Raises:
            GymError: it is shorter than the samples are apart.
        """
        samples = self.samples(distance)
        if samples < 1:
            raise GymError(f"steps and stones of at least {self.horizontal_scale} m were expected, not of {distance} m")
        return samples

    def flatten_centre(self, platform_size: float) -> None:
        """Set a square (m) in the middle to height 0."""
        size = self.samples(platform_size)
        x, y = (self.width - size) // 2, (self.length - size) // 2
        self.height_field_raw[x : x + size, y : y + size] = 0


def random_uniform_terrain(
    terrain: SubTerrain, min_height: float, max_height: float, step: float = 1, downsampled_scale: float | None = None
) -> SubTerrain:
    """Add random heights of a range (m) in steps (m), drawn every ``downsampled_scale`` (m), linear between them."""
    size = np.array([terrain.width, terrain.length]) * terrain.horizontal_scale
    x, y = (np.linspace(0.0, extent, int(extent / (downsampled_scale or terrain.horizontal_scale))) for extent in size)
    stride = max(terrain.steps(step), 1)
    drawn = np.arange(terrain.steps(min_height), terrain.steps(max_height) + stride, stride)
    coarse = np.random.choice(drawn, (len(x), len(y)))
    fine_x, fine_y = np.linspace(0.0, size[0], terrain.width), np.linspace(0.0, size[1], terrain.length)
    heights = RectBivariateSpline(x, y, coarse, kx=1, ky=1)(fine_x, fine_y)
    terrain.height_field_raw += np.rint(heights).astype(np.int16)
    return terrain


def sloped_terrain(terrain: SubTerrain, slope: float = 1) -> SubTerrain:
    """Add a slope that rises along x."""
    top = terrain.steps(slope * terrain.horizontal_scale * terrain.width)
    rise = top * np.arange(terrain.width) / terrain.width
    terrain.height_field_raw += rise.astype(np.int16)[:, None]
    return terrain


def pyramid_sloped_terrain(terrain: SubTerrain, slope: float = 1, platform_size: float = 1.0) -> SubTerrain:
    """Add a hill (a hollow, if the slope is negative) that rises to the middle, cut flat at a platform (m)."""
    middle_x, middle_y = terrain.width // 2, terrain.length // 2
    ramp_x = 1.0 - np.abs(middle_x - np.arange(terrain.width)) / middle_x
    ramp_y = 1.0 - np.abs(middle_y - np.arange(terrain.length)) / middle_y
    top = terrain.steps(slope * terrain.horizontal_scale * terrain.width / 2)
    field = terrain.height_field_raw
    field += (top * np.outer(ramp_x, ramp_y)).astype(np.int16)
    half = terrain.samples(platform_size / 2)
    edge = field[middle_x - half, middle_y - half]
    np.clip(field, min(edge, 0), max(edge, 0), out=field)
    return terrain


def discrete_obstacles_terrain(
    terrain: SubTerrain, max_height: float, min_size: float, max_size: float, num_rects: int, platform_size: float = 1.0
) -> SubTerrain:
    """Set random rectangles (sides in m) to plus or minus a height (m) or half of it; the middle stays flat."""
    height = terrain.steps(max_height)
    sides = range(terrain.samples(min_size), terrain.samples(max_size), 4)
    for _ in range(num_rects):
        width, length = np.random.choice(sides, 2)
        x = np.random.choice(range(0, terrain.width - width, 4))
        y = np.random.choice(range(0, terrain.length - length, 4))
        terrain.height_field_raw[x : x + width, y : y + length] = np.random.choice(
            [-height, -height // 2, height // 2, height]
        )
    terrain.flatten_centre(platform_size)
    return terrain


def wave_terrain(terrain: SubTerrain, num_waves: int = 1, amplitude: float = 1.0) -> SubTerrain:
    """Add a sine along x and a cosine along y, ``num_waves`` to the field's length, ``amplitude`` (m) high."""
    if num_waves > 0:
        half = terrain.steps(0.5 * amplitude)
        phase = 2.0 * np.pi * num_waves / terrain.length
        along_x = half * np.sin(phase * np.arange(terrain.width))
        along_y = half * np.cos(phase * np.arange(terrain.length))
        terrain.height_field_raw += (along_x[:, None] + along_y).astype(np.int16)
    return terrain


def stairs_terrain(terrain: SubTerrain, step_width: float, step_height: float) -> SubTerrain:
    """Add stairs up along x, the first step at its full height; widths and heights in m."""
    width, height = terrain.side(step_width), terrain.steps(step_height)
    whole = terrain.width // width * width
    terrain.height_field_raw[:whole] += (height * (1 + np.arange(whole) // width)).astype(np.int16)[:, None]
    return terrain


def pyramid_stairs_terrain(
    terrain: SubTerrain, step_width: float, step_height: float, platform_size: float = 1.0
) -> SubTerrain:
    """Set square stairs up (down, if the height is negative) to a platform of at most a size (m) in the middle."""
    width, height, platform = terrain.side(step_width), terrain.steps(step_height), terrain.samples(platform_size)
    inset, step = 0, 0
    while min(terrain.width, terrain.length) - 2 * inset > platform:
        inset, step = inset + width, step + height
        terrain.height_field_raw[inset : terrain.width - inset, inset : terrain.length - inset] = step
    return terrain


def stepping_stones_terrain(
    terrain: SubTerrain,
    stone_size: float,
    stone_distance: float,
    max_height: float,
    platform_size: float = 1.0,
    depth: float = -10,
) -> SubTerrain:
    """Set square stones (m) in rows, a distance (m) apart, over a pit (``depth``, m); the middle is flat.

    A stone's height is random between minus and plus ``max_height`` (m); the rows, along the shorter side, are shifted
    at random.
    """
    size, gap, height = terrain.side(stone_size), terrain.samples(stone_distance), terrain.steps(max_height)
    heights = np.arange(-height, height + 1)
    field = terrain.height_field_raw
    field[:] = terrain.steps(depth)
    rows = field if terrain.length < terrain.width else field.T  # a view: [across the rows, along them]
    for start in range(0, rows.shape[0], size + gap):
        for first in range(np.random.randint(0, size) - size, rows.shape[1], size + gap):
            rows[start : start + size, max(first, 0) : max(first + size, 0)] = np.random.choice(heights)
    terrain.flatten_centre(platform_size)
    return terrain


def convert_heightfield_to_trimesh(
    height_field_raw: np.ndarray, horizontal_scale: float, vertical_scale: float, slope_threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A field of heights as triangles, two to a square, their front up.

    Args:
        slope_threshold: where the ground rises more steeply, the lower sample is moved under the higher one, so that
            a step is a vertical wall; None moves none.

    Returns:
        Vertices, float32 [samples, 3] (m), in the field's own order; triangles, uint32 [M, 3].
    """
    heights = np.asarray(height_field_raw)
    rows, columns = heights.shape
    x, y = np.meshgrid(np.arange(rows, dtype=float), np.arange(columns, dtype=float), indexing="ij")
    if slope_threshold is not None:
        shift_x, shift_y = _shifts_to_walls(heights.astype(int), slope_threshold * horizontal_scale / vertical_scale)
        x, y = x + shift_x, y + shift_y
    vertices = np.stack([x * horizontal_scale, y * horizontal_scale, heights * vertical_scale], axis=-1)
    here = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    near, beside, ahead, across = here[:-1, :-1], here[:-1, 1:], here[1:, :-1], here[1:, 1:]
    triangles = np.stack([near, across, beside, near, ahead, across], axis=-1)
    return vertices.reshape(-1, 3).astype(np.float32), triangles.reshape(-1, 3)


def _shifts_to_walls(heights: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """By how many samples (-1, 0 or 1) each is moved along x and along y: those at the foot of a step, towards it."""
    shift_x, shift_y, shift_corner = (np.zeros(heights.shape) for _ in range(3))
    everything, start, end = slice(None), slice(None, -1), slice(1, None)
    for shift, low, high in (
        (shift_x, (start, everything), (end, everything)),
        (shift_y, (everything, start), (everything, end)),
        (shift_corner, (start, start), (end, end)),
    ):
        rise = heights[high] - heights[low]
        shift[low] += rise > threshold
        shift[high] -= -rise > threshold
    return np.where(shift_x == 0, shift_corner, shift_x), np.where(shift_y == 0, shift_corner, shift_y)
