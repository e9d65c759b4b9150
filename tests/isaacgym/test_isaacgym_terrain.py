"""Ground as fields of heights against the shapes that they are to have, and as triangles against the fields."""

from __future__ import annotations

import numpy as np
import pytest

from isaacgym import terrain_utils
from isaacgym.structs import GymError

VERTICAL, HORIZONTAL = 0.005, 0.1


def field(width: int = 80, length: int = 80) -> terrain_utils.SubTerrain:
    return terrain_utils.SubTerrain("field", width, length, VERTICAL, HORIZONTAL)


def metres(terrain: terrain_utils.SubTerrain) -> np.ndarray:
    assert terrain.height_field_raw.dtype == np.int16
    assert terrain.height_field_raw.shape == (terrain.width, terrain.length)
    return terrain.height_field_raw * VERTICAL


@pytest.fixture(autouse=True)
def seeded(rng: np.random.Generator) -> None:
    np.random.seed(rng.integers(2**31))


def test_slopes() -> None:
    heights = metres(terrain_utils.sloped_terrain(field(60, 40), slope=0.3))
    assert np.abs(heights - 0.3 * HORIZONTAL * np.arange(60)[:, None]).max() <= VERTICAL + 1e-9
    for sign in (1, -1):
        hill = sign * metres(terrain_utils.pyramid_sloped_terrain(field(), slope=sign * 0.4, platform_size=3.0))
        inward = 1.0 - np.abs(np.arange(80) - 40) / 40  # 0 at the edge, 1 in the middle
        expected = 0.4 * 4.0 * np.outer(inward, inward)
        assert np.abs(hill - np.minimum(expected, expected[25, 25])).max() <= VERTICAL + 1e-9
        assert np.ptp(hill[25:55, 25:55]) == 0.0 and hill.max() == hill[40, 40] > 0.5  # 3 m of the 8 are flat


def test_stairs() -> None:
    heights = metres(terrain_utils.stairs_terrain(field(), step_width=0.5, step_height=0.1))
    assert np.allclose(heights, 0.1 * (1 + np.arange(80) // 5)[:, None])
    for height in (0.1, -0.1):
        pyramid = metres(terrain_utils.pyramid_stairs_terrain(field(), 0.5, height, platform_size=3.0))
        inset = np.minimum.reduce([*np.indices((80, 80)), *(79 - np.indices((80, 80)))]) // 5
        assert np.allclose(pyramid, height * np.minimum(inset, 5))  # 8 m less 10 steps of 0.5 m are 3 m
    with pytest.raises(GymError, match=r"steps and stones of at least 0.1 m were expected, not of 0.05 m"):
        terrain_utils.pyramid_stairs_terrain(field(), 0.05, 0.1)


def test_waves() -> None:
    heights = metres(terrain_utils.wave_terrain(field(), num_waves=2, amplitude=0.8))
    phase = 2.0 * np.pi * 2 * np.arange(80) / 80
    assert np.abs(heights - 0.4 * np.sin(phase)[:, None] - 0.4 * np.cos(phase)).max() <= VERTICAL + 1e-9
    assert not metres(terrain_utils.wave_terrain(field(), num_waves=0)).any()


def test_random_heights_are_even_and_straight_between_samples() -> None:
    rough = metres(terrain_utils.random_uniform_terrain(field(400, 300), -0.05, 0.05, 0.01, downsampled_scale=0.1))
    assert set(np.rint(rough.ravel() / 0.01)) == set(range(-5, 6)) and abs(rough.mean()) < 0.001
    coarse = metres(terrain_utils.random_uniform_terrain(field(400, 300), -0.05, 0.05, 0.01, downsampled_scale=0.5))
    steps = np.abs(np.diff(coarse, axis=0))
    assert 0.03 < coarse.max() <= 0.05 and steps.max() <= 0.1 / 5 * 81 / 80 + VERTICAL
    twice = terrain_utils.sloped_terrain(field(), 0.1)
    before = twice.height_field_raw.copy()
    terrain_utils.random_uniform_terrain(twice, 0.02, 0.02, 0.01)
    assert (twice.height_field_raw - before == 4).all()  # it is added


def test_obstacles_and_stones() -> None:
    heights = metres(terrain_utils.discrete_obstacles_terrain(field(), 0.2, 0.5, 2.0, 20, platform_size=3.0))
    assert {*np.unique(np.rint(heights / 0.1))} <= {-2.0, -1.0, 0.0, 1.0, 2.0} and heights.any()
    assert not heights[25:55, 25:55].any()
    for width, length in ((120, 80), (80, 120)):
        stones = field(width, length)
        terrain_utils.stepping_stones_terrain(stones, 0.8, 0.2, 0.1, platform_size=2.0, depth=-1.0)
        heights = metres(stones)
        pit = heights == -1.0
        assert np.abs(heights[~pit]).max() <= 0.1 and len(np.unique(heights[~pit])) > 5
        assert 0.25 < pit.mean() < 0.4  # stones are 0.8 m of each 1.0 m, both ways; the middle has none
        across = pit if length < width else pit.T  # gaps between rows go all the way but for the middle
        assert (across.mean(axis=1)[8::10] > 0.7).all()


def test_triangles_are_the_field(rng: np.random.Generator) -> None:
    """Samples are vertices in the field's order; triangles look up and cover the ground once."""
    heights = rng.integers(-200, 200, (12, 9)).astype(np.int16)
    vertices, triangles = terrain_utils.convert_heightfield_to_trimesh(heights, HORIZONTAL, VERTICAL)
    assert (vertices.dtype, triangles.dtype) == (np.float32, np.uint32)
    assert vertices.shape == (108, 3) and triangles.shape == (2 * 11 * 8, 3)
    x, y = np.indices(heights.shape)
    expected = np.stack([x * HORIZONTAL, y * HORIZONTAL, heights * VERTICAL], axis=-1).reshape(-1, 3)
    assert np.allclose(vertices, expected, atol=1e-6)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    assert (normals[:, 2] > 0.0).all() and 0.5 * normals[:, 2].sum() == pytest.approx(11 * 8 * HORIZONTAL**2)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("up", [1, -1])
def test_steep_steps_become_vertical_walls(turned: bool, up: int) -> None:
    heights = np.zeros((10, 6), np.int16)
    heights[5:] = up * 40  # 0.2 m over 0.1 m
    heights = heights.T if turned else heights
    across = 1 if turned else 0
    shallow, _ = terrain_utils.convert_heightfield_to_trimesh(heights, HORIZONTAL, VERTICAL, slope_threshold=2.1)
    plain, triangles = terrain_utils.convert_heightfield_to_trimesh(heights, HORIZONTAL, VERTICAL)
    assert (shallow == plain).all()
    vertices, same = terrain_utils.convert_heightfield_to_trimesh(heights, HORIZONTAL, VERTICAL, slope_threshold=1.5)
    assert (same == triangles).all() and (vertices[:, 2] == plain[:, 2]).all()
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    wall = np.ptp(corners[:, :, 2], axis=1) > 0.0
    assert wall.sum() == 2 * 5 and np.abs(normals[wall][:, 2]).max() < 1e-8
    assert np.allclose(corners[wall][:, :, across], 0.5 if up > 0 else 0.4, atol=1e-6)
    assert np.abs(normals[~wall][:, :2]).max() < 1e-8  # the rest is flat
