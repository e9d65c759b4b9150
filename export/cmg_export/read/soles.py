"""Where a robot touches the ground: its feet's collision geometry, as spheres."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

Sphere = tuple[np.ndarray, float]
"""Centre [3] in the body's frame and radius, m."""

SOLE_BAND = 0.02
"""A body whose lowest point at the zero pose is this close, m, to the lowest of all stands on the ground."""


def body_spheres(model: Any, body: int) -> list[Sphere]:
    """Spheres whose convex hull is a body's collision geometry (for round rims, nearly so).

    A sphere is itself, a capsule its two ends, a box its corners, a cylinder eight points of each rim, an ellipsoid
    its six poles. A mesh gives the corners of its convex hull, and only where the body has nothing simpler.

    Args:
        model: an ``mujoco.MjModel`` whose geoms are those that touch.
        body: the body's id.
    """
    simple: list[Sphere] = []
    meshes: list[Sphere] = []
    first = int(model.body_geomadr[body])
    for geom in range(first, first + int(model.body_geomnum[body])):
        points, radius = _geom_points(model, geom)
        rotation = _matrix(model.geom_quat[geom])
        spheres = [(model.geom_pos[geom] + rotation @ point, radius) for point in points]
        (meshes if model.geom_dataid[geom] >= 0 else simple).extend(spheres)
    return simple or meshes


def sole_body_ids(spheres: dict[int, list[Sphere]], body_pos: np.ndarray, body_mat: np.ndarray) -> list[int]:
    """The bodies whose lowest point lies within ``SOLE_BAND`` of the lowest of all.

    Args:
        spheres: body id -> its spheres.
        body_pos: [B, 3] origins in an upright frame, m.
        body_mat: [B, 9] rotation matrices, row by row.
    """
    lowest = {
        body: min(float(body_pos[body][2] + body_mat[body][6:] @ centre) - radius for centre, radius in found)
        for body, found in spheres.items()
        if found
    }
    floor = min(lowest.values(), default=0.0)
    return [body for body, height in lowest.items() if height <= floor + SOLE_BAND]


def _geom_points(model: Any, geom: int) -> tuple[np.ndarray, float]:
    """Points [P, 3] in the geom's frame, and the radius round each."""
    mujoco: Any = importlib.import_module("mujoco")
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    size = np.array(model.geom_size[geom])
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.zeros((1, 3)), float(size[0])
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([[0, 0, -size[1]], [0, 0, size[1]]]), float(size[0])
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(-1, 3)
        return signs * size, 0.0
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        rim = np.stack([size[0] * np.cos(turn), size[0] * np.sin(turn), np.full(8, size[1])], axis=-1)
        return np.concatenate([rim, rim * [1, 1, -1]]), 0.0
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        return np.concatenate([np.diag(size), -np.diag(size)]), 0.0
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return _mesh_hull(model, int(model.geom_dataid[geom])), 0.0
    return np.zeros((0, 3)), 0.0


def _mesh_hull(model: Any, mesh: int) -> np.ndarray:
    """Corners of a mesh's convex hull; all of its vertices where MuJoCo kept no hull."""
    start = int(model.mesh_vertadr[mesh])
    vertices = np.array(model.mesh_vert[start : start + int(model.mesh_vertnum[mesh])])
    graph = int(model.mesh_graphadr[mesh])
    if graph < 0:
        return vertices
    count = int(model.mesh_graph[graph])  # then the number of faces, `count` edge addresses, `count` vertex ids
    return vertices[model.mesh_graph[graph + 2 + count : graph + 2 + 2 * count]]


def _matrix(quat: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    importlib.import_module("mujoco").mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)
