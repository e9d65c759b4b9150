"""Structures of gymapi: what may be set, from what, and that misspelt names do not go unnoticed."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from isaacgym.structs import (
    AssetOptions,
    CameraProperties,
    GymError,
    KeyboardInput,
    Mat33,
    PlaneParams,
    Quat,
    RigidBodyProperties,
    SimParams,
    Transform,
    UpAxis,
    Vec3,
)


def close(found: object, expected: object) -> bool:
    return np.allclose([*found], [*expected], atol=1e-6)  # type: ignore[misc]


def test_rotations_are_scipys(rng: np.random.Generator) -> None:
    first, second = (Rotation.from_quat(rng.normal(size=4)) for _ in range(2))
    one, two = Quat(*first.as_quat()), Quat(*second.as_quat())
    point = rng.normal(size=3)
    assert close(one.rotate(Vec3(*point)), first.apply(point))
    assert close((one * two).rotate(Vec3(*point)), (first * second).apply(point))
    assert close(one.inverse().rotate(Vec3(*point)), first.inv().apply(point))
    axis, angle = rng.normal(size=3), rng.uniform(-3.0, 3.0)
    turned = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).apply(point)
    assert close(Quat.from_axis_angle(Vec3(*axis), angle).rotate(Vec3(*point)), turned)
    angles = rng.uniform(-1.5, 1.5, 3)
    assert close(Quat.from_euler_zyx(*angles).rotate(Vec3(*point)), Rotation.from_euler("xyz", angles).apply(point))
    assert close(Quat.from_euler_zyx(*angles).to_euler_zyx(), angles)


def test_poses_are_matrices(rng: np.random.Generator) -> None:
    poses = [Transform(Vec3(*rng.normal(size=3)), Quat(*rng.normal(size=4)).normalize()) for _ in range(2)]
    matrices = [np.eye(4) for _ in poses]
    for pose, matrix in zip(poses, matrices, strict=True):
        matrix[:3, :3], matrix[:3, 3] = Rotation.from_quat([*pose.r]).as_matrix(), [*pose.p]
    point = rng.normal(size=3)
    assert close((poses[0] * poses[1]).transform_point(Vec3(*point)), (matrices[0] @ matrices[1] @ [*point, 1.0])[:3])
    assert close(poses[0].inverse().transform_point(Vec3(*point)), (np.linalg.inv(matrices[0]) @ [*point, 1.0])[:3])
    assert close(poses[0].transform_vector(Vec3(*point)), matrices[0][:3, :3] @ point)
    rows = np.zeros(2, Transform.dtype)
    rows["p"]["y"], rows["r"]["w"] = 3.0, 1.0
    assert repr(Transform.from_buffer(rows[1])) == repr(Transform(Vec3(0.0, 3.0, 0.0)))


def test_vectors(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3))
    one, two = Vec3(*a), Vec3(*b)
    assert (
        close(one + two, a + b) and close(one - two, a - b) and close(-one * 2.0, -2.0 * a) and close(one / 4.0, a / 4)
    )
    assert close(one.cross(two), np.cross(a, b)) and one.dot(two) == pytest.approx(a @ b)
    assert close(one.normalize(), a / np.linalg.norm(a)) and close(Vec3().normalize(), np.zeros(3))


@pytest.mark.parametrize(
    "one",
    [1.5, np.float32(1.5), np.array([1.5]), np.array(1.5), np.array([[1.5]]), torch.tensor([1.5]), torch.tensor(1.5)],
    ids=str,
)
def test_one_number_may_lie_in_an_array(one: Any) -> None:
    properties = RigidBodyProperties()
    properties.mass = one
    properties.com.x = one
    assert (properties.mass, properties.com.x, Vec3(one).x) == (1.5, 1.5, 1.5)
    assert [*Vec3(*torch.tensor([1.0, 2.0, 3.0]))] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("fix_base_links", True, AttributeError, "did you mean 'fix_base_link'?"),
        ("gains", 1.0, AttributeError, "AssetOptions has no attribute 'gains'; it has angular_damping, "),
        ("armature", np.ones(2), TypeError, "AssetOptions.armature: one number was expected, not (2,) of them"),
        ("armature", torch.ones(3), TypeError, "AssetOptions.armature: one number was expected, not (3,) of them"),
        ("armature", "0.1", TypeError, "AssetOptions.armature: a number was expected, not '0.1'"),
        ("slices_per_cylinder", 2.5, TypeError, "AssetOptions.slices_per_cylinder: a whole number was expected"),
        ("vhacd_params", 3, TypeError, "AssetOptions.vhacd_params: a VhacdParams was expected, not 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, value: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        setattr(AssetOptions(), name, value)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_values_are_copied_and_defaults_are_each_ones_own() -> None:
    gravity = Vec3(0.0, 0.0, -9.81)
    params, other = SimParams(), SimParams()
    params.gravity = gravity
    gravity.z, params.physx.num_threads = 0.0, 8
    assert (params.gravity.z, other.gravity.z, other.physx.num_threads) == (-9.81, 0.0, 0)
    params.gravity.z = -1.0  # what is read is the structure's own
    assert params.gravity.z == -1.0
    setattr(params, "up_axis", 1)  # noqa: B010, as parse_sim_config does
    assert params.up_axis is UpAxis.UP_AXIS_Z
    copied = pickle.loads(pickle.dumps(params))
    assert repr(copied) == repr(params) and copied.gravity is not params.gravity
    assert [params.mujoco.nconmax, params.mujoco.njmax] == [None, None]


def test_names_of_the_documentation() -> None:
    """Of its keys, some of each kind; of its structures, what legged robots set."""
    codes = {
        "KEY_0": 48, "KEY_Z": 90, "KEY_GRAVE_ACCENT": 96, "KEY_F12": 301, "KEY_NUMPAD_MULTIPLY": 332, "KEY_MENU": 348,
    }  # fmt: skip
    assert {name: KeyboardInput[name].value for name in codes} == codes
    assert len(KeyboardInput) == 106 - 1  # the documentation lists KEY_S twice
    plane = PlaneParams()
    plane.normal, plane.static_friction = Vec3(0.0, 0.0, 1.0), np.float64(0.8)
    camera = CameraProperties()
    camera.horizontal_fov = 60
    assert isinstance(camera.horizontal_fov, float)
    assert [*Mat33(x=Vec3(1.0)).x] == [1.0, 0.0, 0.0]
    assert issubclass(GymError, RuntimeError)
