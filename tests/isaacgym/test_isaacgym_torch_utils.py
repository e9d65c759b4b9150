"""Rotations and poses of torch_utils against scipy's, on random ones."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from isaacgym import torch_utils
from isaacgym.torch_utils import *  # noqa: F403, as callers do
from isaacgym.torch_utils import (
    copysign,
    get_axis_params,
    get_euler_xyz,
    normalize,
    normalize_angle,
    quat_apply,
    quat_axis,
    quat_conjugate,
    quat_from_angle_axis,
    quat_from_euler_xyz,
    quat_mul,
    quat_rotate,
    quat_rotate_inverse,
    scale,
    tensor_clamp,
    tf_apply,
    tf_combine,
    tf_inverse,
    to_torch,
    torch_rand_float,
    torch_random_dir_2,
    unscale,
)

N = 64


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def near(found: torch.Tensor, expected: object) -> bool:
    return torch.allclose(found, tensor(expected), atol=1e-5)


@pytest.fixture
def turns(rng: np.random.Generator) -> Rotation:
    return Rotation.from_quat(rng.normal(size=(N, 4)))


@pytest.fixture
def points(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, 3))


def test_turning_and_turning_back(turns: Rotation, points: np.ndarray) -> None:
    q, v = tensor(turns.as_quat()), tensor(points)
    for turn in (quat_rotate, quat_apply):
        assert near(turn(q, v), turns.apply(points))
    assert near(quat_rotate_inverse(q, v), turns.inv().apply(points))
    assert near(quat_apply(quat_conjugate(q), v), turns.inv().apply(points))
    for axis in range(3):
        assert near(quat_axis(q, axis), turns.as_matrix()[:, :, axis])
    many = quat_apply(q.repeat_interleave(5, 0).view(N, 5, 4), v[:, None].expand(N, 5, 3))
    assert many.shape == (N, 5, 3) and near(many[:, 3], turns.apply(points))


def test_products_and_poses(turns: Rotation, points: np.ndarray, rng: np.random.Generator) -> None:
    others, shifts = Rotation.from_quat(rng.normal(size=(N, 4))), rng.normal(size=(N, 3))
    q1, q2, t1, t2 = (tensor(each) for each in (turns.as_quat(), others.as_quat(), points, shifts))
    product = Rotation.from_quat(quat_mul(q1, q2).numpy())
    assert ((product.inv() * turns * others).magnitude() < 1e-3).all()
    q, t = tf_combine(q1, t1, q2, t2)
    assert near(tf_apply(q, t, t2), tf_apply(q1, t1, tf_apply(q2, t2, t2)))
    assert near(tf_apply(*tf_inverse(q1, t1), tf_apply(q1, t1, t2)), shifts)


def test_angles(turns: Rotation, rng: np.random.Generator) -> None:
    angles = turns.as_euler("xyz") % (2.0 * np.pi)
    found = torch.stack(get_euler_xyz(tensor(turns.as_quat())), dim=-1)
    assert near(torch.cos(found), np.cos(angles)) and near(torch.sin(found), np.sin(angles))
    assert ((found >= 0.0) & (found <= 2.0 * np.pi)).all()
    made = Rotation.from_quat(quat_from_euler_xyz(*tensor(angles).unbind(-1)).numpy())
    assert ((made.inv() * turns).magnitude() < 1e-3).all()
    axes, sizes = rng.normal(size=(N, 3)), rng.uniform(-9.0, 9.0, N)
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    made = Rotation.from_quat(quat_from_angle_axis(tensor(sizes), tensor(axes)).numpy())
    assert ((made.inv() * Rotation.from_rotvec(unit * sizes[:, None])).magnitude() < 1e-3).all()
    wrapped = normalize_angle(tensor(sizes))
    assert wrapped.abs().max() <= np.pi and near(torch.cos(wrapped), np.cos(sizes))
    straight_up = get_euler_xyz(tensor([[0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)]]))[1]
    assert straight_up.item() == pytest.approx(0.5 * np.pi, abs=1e-3)


def test_numbers(rng: np.random.Generator) -> None:
    assert get_axis_params(-1.0, 2) == [0.0, 0.0, -1.0]
    assert get_axis_params(2.0, 1, x_value=5.0, n_dims=4) == [5.0, 2.0, 0.0, 0.0]
    assert to_torch([1, 2], device="cpu").dtype == torch.float32
    lower, upper = tensor(rng.uniform(-3, -1, 5)), tensor(rng.uniform(1, 3, 5))
    x = torch.linspace(-1.0, 1.0, 5)
    assert near(unscale(scale(x, lower, upper), lower, upper), x) and near(scale(-torch.ones(5), lower, upper), lower)
    assert near(tensor_clamp(10 * x, lower, upper), np.clip(10 * x.numpy(), lower.numpy(), upper.numpy()))
    assert copysign(2.0, tensor([-3.0, 0.0, 4.0])).tolist() == [-2.0, 0.0, 2.0]
    assert near(normalize(tensor([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
    drawn = torch_rand_float(-2.0, 5.0, (1000, 3), device="cpu")
    assert drawn.shape == (1000, 3) and -2.0 <= drawn.min() < -1.5 and 4.5 < drawn.max() <= 5.0
    directions = torch_random_dir_2((1000, 1), "cpu")
    assert directions.shape == (1000, 2) and near(directions.norm(dim=-1), np.ones(1000))
    assert directions.mean(dim=0).norm() < 0.2


def test_a_caller_may_compile_them() -> None:
    """`torch.jit.script` of a caller's function compiles all that it calls."""
    names = {name for name, each in vars(torch_utils).items() if inspect.isfunction(each) and not name.startswith("_")}
    names -= {"to_torch", "get_axis_params", "unscale_np"}  # numpy's
    assert len(names) > 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in names:
            torch.jit.script(getattr(torch_utils, name))
    assert {"torch", "np"} <= globals().keys()
