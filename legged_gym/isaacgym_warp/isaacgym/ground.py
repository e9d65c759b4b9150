"""Ground under all environments: a plane, or heights on a grid."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from isaacgym.structs import GymError, HeightFieldParams, PlaneParams, Transform, TriangleMeshParams
from isaacgym.triangles import heights_at

_FLAT = 1e-4
_COARSEST_SPACING, _UNEVEN_SPACING = 0.1, 0.05
_MOST_POINTS = 1 << 24
_BASE_THICKNESS = 1.0


@dataclass(frozen=True)
class Ground:
    """Heights [X, Y] in m of evenly spaced points; a single one stands for a plane without end.

    Attributes:
        origin: x and y of the first point; ``spacing``: the distance of neighbours along x and y.
        friction: the coefficient for sliding on it.
    """

    heights: np.ndarray
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    friction: float

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Adds the ground to the world of a model, as a geom ``ground`` (then ``ground1`` and so on)."""
        taken = {geom.name for geom in spec.worldbody.geoms}
        name = next(each for each in ["ground", *(f"ground{i + 1}" for i in range(len(taken)))] if each not in taken)
        geom = spec.worldbody.add_geom(name=name)
        geom.friction[0] = self.friction
        low = float(self.heights.min())
        if self.heights.size == 1:
            geom.type, geom.size, geom.pos = mujoco.mjtGeom.mjGEOM_PLANE, [0.0, 0.0, 1.0], [0.0, 0.0, low]
            return
        half = [(count - 1) * step / 2.0 for count, step in zip(self.heights.shape, self.spacing, strict=True)]
        spec.add_hfield(
            name=name,
            nrow=self.heights.shape[1],
            ncol=self.heights.shape[0],
            size=[*half, float(self.heights.max()) - low, _BASE_THICKNESS],
            userdata=self.heights.T.flatten(),
        )
        geom.type, geom.hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, name
        geom.pos = [self.origin[0] + half[0], self.origin[1] + half[1], low]


def plane(params: PlaneParams) -> Ground:
    """The plane z = -``distance``.

    Raises:
        GymError: the normal is not that of the z axis.
    """
    normal = np.array([*params.normal])
    if normal[2] <= 0.0 or np.abs(normal[:2]).max() > 1e-6:
        raise GymError(f"the ground's normal is {normal.tolist()}; only z is up here: set it to Vec3(0, 0, 1)")
    return _flat(-params.distance / normal[2], params)


def heightfield(samples: Any, params: HeightFieldParams) -> Ground:
    """Heights by samples [nbColumns, nbRows] (or flat), times ``vertical_scale``: columns are along x, rows along y.

    The first sample is at ``transform.p``. Samples count as they lie in memory, so a transposed view means the same
    ground: legged_gym and its forks hand over [x, y], one of them the transpose, with the same rows and columns.
    MuJoCo's triangles between four samples may be cut along the other diagonal than PhysX's. If all heights are the
    same, the ground is a plane without end.

    Raises:
        GymError: the number of samples is not as said, or the transform turns.
    """
    offset = _offset(params.transform)
    samples, shape = np.asarray(samples).ravel(order="K"), (params.nbColumns, params.nbRows)
    if samples.size != shape[0] * shape[1] or min(shape) < 2:
        raise GymError(f"{samples.size} height samples were given; nbColumns x nbRows are {shape[0]} x {shape[1]}")
    heights = samples.reshape(shape) * float(params.vertical_scale) + offset[2]
    return _grid(heights, offset[:2].tolist(), (params.column_scale, params.row_scale), params)


def triangle_mesh(vertices: Any, triangles: Any, params: TriangleMeshParams, spacing: float | None = None) -> Ground:
    """The heights of a mesh, seen from above, at points of a grid.

    A flat mesh becomes a plane without end. Of others this is lost: what is below something else; vertical walls,
    which become slopes over one ``spacing``, with their foot on the lower side, and vanish if there is nothing behind
    them; corners between the grid's points. In its holes the ground is at the mesh's lowest height. Meshes of
    ``convert_heightfield_to_trimesh`` have their vertices on such a grid: theirs become the heights of that field,
    but for some corners of steps where the triangles lie over each other.

    Args:
        vertices: [V, 3] or flat, in m; triangles: [T, 3] or flat, indices.
        spacing: distance [m] of the grid's points; None: that of the vertices along x and along y, or a whole part of
            it up to 0.1 m; 0.05 m if they are not evenly spaced; more where that were above 16 million points.

    Raises:
        GymError: there are no triangles, they name vertices that are not there or are all vertical, or the transform
            turns.
    """
    points = np.asarray(vertices, float).reshape(-1, 3) + _offset(params.transform)
    corners = np.asarray(triangles).astype(np.int64).reshape(-1, 3)
    if not len(corners) or not 0 <= corners.min() <= corners.max() < len(points):
        raise GymError(f"the ground has {len(corners)} triangles of {len(points)} vertices; indices must name vertices")
    low, high = points.min(0), points.max(0)
    if high[2] - low[2] < _FLAT:
        return _flat(high[2], params)
    extent = (high - low)[:2]
    if extent.min() <= 0.0:
        raise GymError("the ground's triangles are all vertical; seen from above there is nothing to stand on")
    steps = np.array([spacing or _usual_step(points[:, axis]) for axis in range(2)])
    steps *= max(1.0, np.sqrt((extent / steps).prod() / _MOST_POINTS))
    grid = [np.linspace(low[i], high[i], max(2, round(extent[i] / steps[i]) + 1)) for i in range(2)]
    heights = _without_holes(heights_at(points, corners, *grid), low[2])
    return _grid(heights, low[:2].tolist(), [each[1] - each[0] for each in grid], params)


def _without_holes(heights: np.ndarray, lowest: float) -> np.ndarray:
    """Heights in place of NaN: for a single point the lowest of its neighbours, for others ``lowest``."""
    around = np.pad(heights, 1, constant_values=np.inf)
    along_x = np.minimum(around[:-2, 1:-1], around[2:, 1:-1])
    along_y = np.minimum(around[1:-1, :-2], around[1:-1, 2:])
    return np.nan_to_num(np.where(np.isnan(heights), np.minimum(along_x, along_y), heights), nan=lowest)


def _usual_step(coordinates: np.ndarray) -> float:
    """The distance [m] between neighbouring coordinates if they are evenly spaced, or a whole part of it."""
    steps = np.diff(np.unique(np.round(coordinates, 4)))
    step = np.median(steps)
    if np.quantile(steps, 0.1) < 0.9 * step:
        return _UNEVEN_SPACING
    return float(step / np.ceil(step / _COARSEST_SPACING - 1e-3))


def _flat(height: float, params: PlaneParams | HeightFieldParams | TriangleMeshParams) -> Ground:
    return Ground(np.full((1, 1), float(height)), (0.0, 0.0), (1.0, 1.0), params.static_friction)


def _grid(
    heights: np.ndarray,
    origin: Sequence[float],
    spacing: Sequence[float],
    params: HeightFieldParams | TriangleMeshParams,
) -> Ground:
    if heights.max() - heights.min() < _FLAT:
        return _flat(heights.max(), params)
    return Ground(heights, tuple(map(float, origin)), tuple(map(float, spacing)), params.static_friction)


def _offset(transform: Transform) -> np.ndarray:
    turn = transform.r
    if max(abs(turn.x), abs(turn.y), abs(turn.z)) > 1e-6:
        raise GymError(f"the ground's transform turns by {turn}; here the ground can be moved but not turned")
    return np.array([*transform.p])
