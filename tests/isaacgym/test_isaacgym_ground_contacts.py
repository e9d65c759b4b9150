"""Contacts with rough ground, far from its centre too: against MuJoCo's own, which are made in 64 bits."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

import mujoco
import mujoco_warp as mjwarp
import numpy as np
import pytest

from isaacgym import ground_contacts, simulation
from isaacgym.ground import Ground

SPACING, SIDE, OFF = 0.1, 40, 1000  # m; samples of the rough part along one side; samples from the field's corner to it
GEOMS = mujoco.mjtGeom
SHAPES = {
    "sphere": (GEOMS.mjGEOM_SPHERE, [0.02, 0.0, 0.0]),
    "capsule": (GEOMS.mjGEOM_CAPSULE, [0.02, 0.08, 0.0]),
    "box": (GEOMS.mjGEOM_BOX, [0.1, 0.02, 0.01]),
}


def field_with(rng: np.random.Generator, kind: str, stairs: bool) -> mujoco.MjModel:
    """One shape above a field of 2000 x 100 samples that is rough, or has stairs, where it is 80 m from its centre."""
    heights = np.zeros((2 * OFF, 100))
    rough = rng.uniform(0.0, 0.1, (SIDE, SIDE)) if not stairs else 0.15 * (np.arange(SIDE) // 3)[:, None]
    heights[180 : 180 + SIDE, 30 : 30 + SIDE] = rough
    spec = mujoco.MjSpec()
    Ground(heights, (-OFF * SPACING, -5.0), (SPACING, SPACING), 1.0).add_to(spec)
    body = spec.worldbody.add_body(name="body")
    body.add_freejoint()
    body.add_geom(name="shape", type=SHAPES[kind][0], size=SHAPES[kind][1], mass=1.0)
    return spec.compile()


def touching(model: mujoco.MjModel, rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 7] poses of the shape in the rough part, in which it is half a millimeter to 6 mm deep."""
    data, found = mujoco.MjData(model), []
    while len(found) < count:
        turn = rng.normal(size=4)
        pose = np.array([*rng.uniform([-81.5, -1.5], [-78.5, 0.5]), 0.0, *turn / np.linalg.norm(turn)])
        low, high = -0.5, 4.0
        for _ in range(16):
            pose[2] = 0.5 * (low + high)
            low, high = (pose[2], high) if contacts_of(model, data, pose)[0].size else (low, pose[2])
        pose[2] = low - rng.uniform(0.0005, 0.006)
        if contacts_of(model, data, pose)[0].size:
            found.append(pose)
    return np.array(found)


def contacts_of(model: mujoco.MjModel, data: mujoco.MjData, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and normals, as MuJoCo finds them."""
    data.qpos[:] = pose
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    return np.array([each.dist for each in data.contact]), np.array([each.frame[:3] for each in data.contact])


@pytest.mark.slow
@pytest.mark.parametrize("stairs", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
def test_contacts_with_rough_ground_are_mujocos(rng: np.random.Generator, kind: str, stairs: bool) -> None:
    ground_contacts.install()
    model = field_with(rng, kind, stairs)
    poses = touching(model, rng, 40)
    data = mjwarp.make_data(model, nworld=len(poses), nconmax=40)
    on_device = simulation.on_device(model, {})
    data.qpos.assign(poses.astype(np.float32))
    mjwarp.kinematics(on_device, data)
    mjwarp.com_pos(on_device, data)
    mjwarp.collision(on_device, data)
    count = int(data.nacon.numpy()[0])
    worlds = data.contact.worldid.numpy()[:count]
    distances, normals = data.contact.dist.numpy()[:count], data.contact.frame.numpy()[:count, 0]
    assert normals[:, 2].min() > -0.05, "the ground pulls nothing down"
    reference, met, errors = mujoco.MjData(model), 0, []
    for world, pose in enumerate(poses):
        deepest = contacts_of(model, reference, pose)[0].min()
        if (worlds == world).any():
            met += 1
            errors.append(distances[worlds == world].min() - deepest)
    assert met >= len(poses) - 1
    # Boxes that lie over an edge are taken by one of their corners: some millimeters more or less.
    assert np.abs(errors).max() < (0.008 if kind == "box" else 0.0005)
