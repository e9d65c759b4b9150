"""Ground: where rays from above meet it, against the surfaces that it was made of."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay

from isaacgym.ground import Ground, heightfield, plane, triangle_mesh
from isaacgym.structs import GymError, HeightFieldParams, PlaneParams, Quat, Transform, TriangleMeshParams, Vec3
from isaacgym.terrain_utils import convert_heightfield_to_trimesh


def params_of(kind: type, **values: Any) -> Any:
    params = kind()
    for name, value in values.items():
        setattr(params, name, value)
    return params


def heights_below(ground: Ground, points: np.ndarray) -> np.ndarray:
    """How high the ground is a micrometre beside [P, 2] points, as rays slip between triangles; NaN: there is none."""
    spec = mujoco.MjSpec()
    ground.add_to(spec)
    model = spec.compile()
    assert model.nbody == 1 and model.geom_friction[0, 0] == pytest.approx(ground.friction)
    data, found = mujoco.MjData(model), []
    mujoco.mj_forward(model, data)
    for x, y in points + [1e-6, 0.6e-6]:
        distance = mujoco.mj_ray(
            model, data, np.array([x, y, 50.0]), np.array([0, 0, -1.0]), None, 1, -1, np.zeros(1, np.int32)
        )
        found.append(np.nan if distance < 0 else 50.0 - distance)
    return np.array(found)


def test_plane(rng: np.random.Generator) -> None:
    params = params_of(PlaneParams, normal=Vec3(0, 0, 1), distance=0.3, static_friction=0.7)
    points = rng.uniform(-500, 500, (20, 2))
    np.testing.assert_allclose(heights_below(plane(params), points), -0.3, atol=1e-9)


def test_heightfield_has_its_columns_along_x(rng: np.random.Generator) -> None:
    columns, rows, low = 13, 29, np.array([-0.7, 0.4])
    params = params_of(HeightFieldParams, nbColumns=columns, nbRows=rows, column_scale=0.2, row_scale=0.05)
    params.vertical_scale, params.static_friction = 0.005, 0.6
    params.transform = Transform(Vec3(low[0], low[1], 0.1))
    step = np.array([0.2, 0.05])
    samples = rng.integers(-200, 200, (columns, rows)).astype(np.int16)
    places = rng.integers(1, [columns - 1, rows - 1], (30, 2))
    expected = samples[tuple(places.T)] * 0.005 + 0.1
    for given in (samples, samples.flatten(), samples.T):
        np.testing.assert_allclose(heights_below(heightfield(given, params), low + places * step), expected, atol=1e-4)
    # Between samples too, where all triangles of a slope lie in one plane.
    slope = (10 * np.arange(columns)[:, None] - 3 * np.arange(rows)).astype(np.int16)
    points = rng.uniform(0, 1, (30, 2)) * [columns - 1, rows - 1]
    expected = (10 * points[:, 0] - 3 * points[:, 1]) * 0.005 + 0.1
    np.testing.assert_allclose(heights_below(heightfield(slope, params), low + points * step), expected, atol=1e-5)
    assert np.isnan(heights_below(heightfield(slope, params), low + [[-0.1, 0.5], [0.5, 1.5]])).all()


def test_level_ground_is_a_plane(rng: np.random.Generator) -> None:
    params = params_of(HeightFieldParams, nbColumns=5, nbRows=4, vertical_scale=0.01)
    points = rng.uniform(-100, 100, (10, 2))
    np.testing.assert_allclose(heights_below(heightfield(np.full(20, 30, np.int16), params), points), 0.3, atol=1e-9)
    square = np.array([[0, 0, 1], [5, 0, 1], [0, 5, 1], [5, 5, 1]], np.float32)
    level = triangle_mesh(square, np.array([[0, 1, 2], [1, 3, 2]], np.uint32), TriangleMeshParams())
    np.testing.assert_allclose(heights_below(level, points), 1.0, atol=1e-9)


def stairs(edges: np.ndarray, heights: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Treads between x edges [S + 1] at heights [S], with vertical risers, as flat vertices and triangles."""
    x, z = np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)
    vertices = np.array([(a, side, b) for a, b in zip(x, z, strict=True) for side in (0.0, width)], np.float32)
    first = 2 * np.arange(len(x) - 1)[:, None]
    return vertices.flatten(), np.concatenate([first + [0, 2, 1], first + [1, 2, 3]]).astype(np.uint32).flatten()


def test_stairs_lose_their_risers_only(rng: np.random.Generator) -> None:
    edges = np.cumsum(np.append(1.0, rng.integers(3, 6, 8) / 10))
    heights = rng.uniform(-1, 1, 8)
    params = params_of(TriangleMeshParams, static_friction=0.8, transform=Transform(Vec3(-3, 2, 0.5)))
    ground = triangle_mesh(*stairs(edges, heights, 2.0), params)
    tread = rng.integers(0, 8, 40)
    x = rng.uniform(edges[tread] + 0.101, edges[tread + 1] - 0.101)
    points = np.stack([x - 3, rng.uniform(2.1, 3.9, 40)], 1)
    np.testing.assert_allclose(heights_below(ground, points), heights[tread] + 0.5, atol=1e-5)
    # At an edge it is the upper tread's height.
    upper = np.maximum(heights[:-1], heights[1:])
    at_edges = np.stack([edges[1:-1] - 3, np.full(7, 2.55)], 1)
    np.testing.assert_allclose(heights_below(ground, at_edges), upper + 0.5, atol=2e-3)


def test_a_field_of_steps_as_triangles_has_the_heights_of_the_field(rng: np.random.Generator) -> None:
    """``convert_heightfield_to_trimesh`` makes walls of steep slopes: here between platforms of 5 x 5 samples."""
    samples = np.kron(rng.integers(-100, 100, (6, 8)), np.ones((5, 5), int)).astype(np.int16)
    vertices, triangles = convert_heightfield_to_trimesh(samples, 0.1, 0.005, 0.75)
    ground = triangle_mesh(vertices.flatten(), triangles.flatten(), TriangleMeshParams())
    in_platform = rng.integers([0, 0], [6, 8], (60, 2)) * 5
    places = in_platform + rng.permuted(np.tile([[2, 0], [2, 1], [2, 3], [2, 4]], (15, 1)), axis=1)
    places = places[((places > 0) & (places < [29, 39])).all(1)]
    expected = samples[tuple(places.T)] * 0.005
    np.testing.assert_allclose(heights_below(ground, places * 0.1), expected, atol=1e-4)


def test_irregular_triangles_are_met_at_the_grids_points(rng: np.random.Generator) -> None:
    inner = rng.uniform(0, 3, (200, 2))
    flat = np.concatenate([[[0, 0], [3, 0], [0, 3], [3, 3]], inner])
    height, mesh = rng.uniform(-0.5, 0.5, len(flat)), Delaunay(flat)
    ground = triangle_mesh(np.c_[flat, height], mesh.simplices, TriangleMeshParams(), spacing=0.1)
    points = rng.integers(1, 30, (40, 2)) * 0.1
    truth = LinearNDInterpolator(mesh, height)(points)
    # Random slivers are steep: the last place of a float32 position makes a tenth of a millimetre there.
    np.testing.assert_allclose(heights_below(ground, points), truth, atol=1e-3)
    fine = triangle_mesh(np.c_[flat, height], mesh.simplices, TriangleMeshParams(), spacing=0.01)
    points = rng.uniform(0.1, 2.9, (40, 2))
    error = np.abs(heights_below(fine, points) - LinearNDInterpolator(mesh, height)(points))
    assert np.median(error) < 0.01


def test_overhangs_take_the_top_and_holes_the_lowest_height() -> None:
    def square(x: float, z: float) -> list[tuple[float, float, float]]:
        return [(x, 0, z), (x + 1, 0, z), (x, 1, z), (x + 1, 1, z)]

    vertices = np.array([*square(0, 0.2), *square(0, 0.9), *square(2, -0.4)])
    triangles = [[first + corner for corner in face] for first in (0, 4, 8) for face in ((0, 1, 2), (2, 1, 3))]
    ground = triangle_mesh(vertices, np.array(triangles), TriangleMeshParams())
    points = np.array([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]])
    np.testing.assert_allclose(heights_below(ground, points), [0.9, -0.4, -0.4], atol=1e-6)


def test_several_grounds_fit_in_one_model() -> None:
    spec = mujoco.MjSpec()
    field = heightfield(np.arange(9), params_of(HeightFieldParams, nbColumns=3, nbRows=3))
    for ground in (plane(params_of(PlaneParams, normal=Vec3(0, 0, 1))), field, field):
        ground.add_to(spec)
    model = spec.compile()
    assert [model.geom(index).name for index in range(3)] == ["ground", "ground1", "ground2"]


TURNED = Transform(Vec3(), Quat(0, 0, 0.6, 0.8))
TRIANGLE = (np.eye(3), np.array([[0, 1, 2]]))
REFUSED = {
    "normal": lambda: plane(PlaneParams()),
    "9 height samples": lambda: heightfield(np.zeros(9), params_of(HeightFieldParams, nbColumns=3, nbRows=4)),
    "height samples": lambda: heightfield(np.zeros(9), params_of(HeightFieldParams, nbColumns=9, nbRows=1)),
    "not turned": lambda: triangle_mesh(*TRIANGLE, params_of(TriangleMeshParams, transform=TURNED)),
    "0 triangles": lambda: triangle_mesh(TRIANGLE[0], np.zeros(0, int), TriangleMeshParams()),
    "all vertical": lambda: triangle_mesh(np.eye(3) * [1, 0, 1], TRIANGLE[1], TriangleMeshParams()),
    "indices": lambda: triangle_mesh(TRIANGLE[0], np.array([[0, 1, 3]]), TriangleMeshParams()),
}


@pytest.mark.parametrize("wanted", REFUSED)
def test_other_ground_is_refused_in_one_line(wanted: str) -> None:
    with pytest.raises(GymError, match=wanted) as caught:
        REFUSED[wanted]()
    assert "\n" not in str(caught.value)
