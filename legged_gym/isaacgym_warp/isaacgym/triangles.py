"""Heights of a triangle mesh, seen from above, at the points of a grid."""

import numpy as np

_POINTS_AT_ONCE = 1 << 21


def heights_at(vertices: np.ndarray, triangles: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The highest point of the mesh above each point of a grid of evenly spaced coordinates.

    Vertical triangles count by their upper edges, which other triangles have too. A point on the edge of a triangle, up
    to a thousandth of the grid's spacing beyond it, is in it.

    Args:
        vertices: [V, 3], triangles: [T, 3] of indices; x: [X], y: [Y] ascending.

    Returns:
        [X, Y] heights; NaN where there is no triangle.
    """
    heights = np.full(len(x) * len(y), -np.inf)
    corners = vertices[triangles]
    first, count = _grid_boxes(corners, x, y)
    kept = (count > 0).all(1) & (np.abs(_twice_area(corners)) > 1e-12)
    corners, first, count = corners[kept], first[kept], count[kept]
    totals = np.cumsum(count.prod(1))
    start = 0
    while start < len(corners):
        done = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, done + _POINTS_AT_ONCE, "right")))
        part = slice(start, stop)
        _raise_to(heights, corners[part], first[part], count[part], x, y)
        start = stop
    heights[np.isneginf(heights)] = np.nan
    return heights.reshape(len(x), len(y))


def _grid_boxes(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid points around each triangle: the first index along x and y [T, 2], and how many there are [T, 2]."""
    low, high = corners[:, :, :2].min(1), corners[:, :, :2].max(1)
    first, last = np.empty(low.shape, int), np.empty(low.shape, int)
    for axis, grid in enumerate((x, y)):
        margin = 1e-3 * (grid[1] - grid[0])
        first[:, axis] = np.searchsorted(grid, low[:, axis] - margin)
        last[:, axis] = np.searchsorted(grid, high[:, axis] + margin, "right")
    return first, last - first


def _twice_area(corners: np.ndarray) -> np.ndarray:
    return _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _raise_to(
    heights: np.ndarray, corners: np.ndarray, first: np.ndarray, count: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """Raises ``heights`` [X * Y] at the grid points in each triangle to the triangle's height there."""
    sizes = count.prod(1)
    which = np.repeat(np.arange(len(corners)), sizes)
    place = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    i, j = first[which, 0] + place // count[which, 1], first[which, 1] + place % count[which, 1]
    point = np.stack([x[i], y[j]], -1)
    twice_area = _twice_area(corners)
    margin = 1e-3 * min(x[1] - x[0], y[1] - y[0])
    inside, height = np.ones(len(which), bool), np.zeros(len(which))
    for corner in range(3):
        start, edge = corners[:, (corner + 1) % 3], corners[:, (corner + 2) % 3] - corners[:, (corner + 1) % 3]
        weight = _cross(edge[which], point - start[which, :2]) / twice_area[which]
        inside &= weight * np.abs(twice_area)[which] >= -margin * np.linalg.norm(edge[:, :2], axis=1)[which]
        height += weight * corners[which, corner, 2]
    np.maximum.at(heights, (i * len(y) + j)[inside], height[inside])
