"""Reads meshes to collide with: their vertices, of which only the convex hull counts."""

from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from isaacgym.structs import GymError


def hull_vertices(file: Path) -> np.ndarray:
    """The corners [V, 3] of a mesh's convex hull, in the file's units.

    Raises:
        GymError: the file is neither STL nor OBJ, or its vertices lie in a plane.
    """
    readers = {".stl": _stl_vertices, ".obj": _obj_vertices}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise GymError(f"collision mesh {file} is neither STL nor OBJ: convert it, or use a box, sphere or cylinder")
    try:
        vertices = reader(file)
        return vertices[ConvexHull(vertices).vertices]
    except (QhullError, ValueError):
        raise GymError(f"collision mesh {file} is flat, empty or damaged; use a box instead") from None


def _stl_vertices(file: Path) -> np.ndarray:
    data = file.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    if len(data) < 84 or len(data) != 84 + 50 * count:
        return _vertices_of_lines(data, b"vertex ")
    triangle = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attributes", "<u2")])
    return np.frombuffer(data, triangle, count, 84)["vertices"].reshape(-1, 3).astype(float)


def _obj_vertices(file: Path) -> np.ndarray:
    return _vertices_of_lines(file.read_bytes(), b"v ")


def _vertices_of_lines(data: bytes, key: bytes) -> np.ndarray:
    lines = (line.strip() for line in data.splitlines())
    return np.array([line.split()[1:4] for line in lines if line.startswith(key)], float).reshape(-1, 3)
