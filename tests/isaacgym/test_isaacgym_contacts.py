"""Contacts: weight, friction, force sensors, who meets whom, and buffers that are too small."""

# Constants become names of gymapi when it is imported.
# pyright: reportAttributeAccessIssue=false

import math
import warnings

import mujoco
import numpy as np
import pytest
import torch

from isaacgym import gymapi
from isaacgym.asset import load_asset
from isaacgym.ground import plane
from isaacgym.model import compile_model
from isaacgym.structs import AssetOptions, GymError
from isaacgym.worlds import Worlds
from isaacgym_case import BASE_MASS, BLOCK, BLOCK_HALF, HOPPER, LEG_MASS, Case

CHAIN = "".join(
    [
        '<robot name="chain">',
        *(
            f'<link name="l{i}"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
            f'</inertial><collision><geometry><sphere radius="0.1"/></geometry></collision></link>'
            for i in range(3)
        ),
        *(
            f'<joint name="j{i}" type="continuous"><parent link="l{i}"/><child link="l{i + 1}"/><axis xyz="0 1 0"/>'
            '<origin xyz="0.05 0 0"/></joint>'
            for i in range(2)
        ),
        "</robot>",
    ]
)
"""Three spheres that overlap: the first and the last have no joint in common."""


@pytest.mark.slow
def test_contact_forces_of_a_robot_at_rest_are_its_weight(tmp_path):
    """Masses differ among environments. A sensor sees the base's part of them, in its own frame."""

    def each(gym, env, index):
        props = gym.get_actor_rigid_body_properties(env, 0)
        props[0].mass += 0.5 * index
        gym.set_actor_rigid_body_properties(env, 0, props, recomputeInertia=True)

    turn = gymapi.Quat.from_axis_angle(gymapi.Vec3(0.0, 1.0, 0.0), math.pi / 2)
    pose = gymapi.Transform(gymapi.Vec3(0.0, 0.0, 0.1), turn)
    case = Case(tmp_path, HOPPER, 3, height=0.4, substeps=2, dt=0.01, each=each, sensor=pose)
    case.step(400)
    assert case.root[:, 7:].abs().max().item() < 0.01
    weight = 9.81 * (BASE_MASS + LEG_MASS + 0.5 * torch.arange(3))
    total = case.contacts.sum(1)
    torch.testing.assert_close(total[:, 2], weight, rtol=0.01, atol=0)
    assert total[:, :2].abs().max().item() < 0.01 * weight[0].item()
    # The force on the base, from the world to its axes and on to the sensor's, whose x is the body's -z.
    on_base = torch.stack([rotated_back(case.root[i, 3:7], case.contacts[i, 0]) for i in range(3)])
    expected = torch.stack([-on_base[:, 2], on_base[:, 1], on_base[:, 0]], 1)
    assert case.contacts[:, 0].norm(dim=1).min().item() > 10.0
    torch.testing.assert_close(case.sensors[:, 0, :3], expected, rtol=1e-3, atol=0.02)


def rotated_back(quaternion, vector):
    axis, w = quaternion[:3], quaternion[3]
    twice = 2.0 * torch.linalg.cross(-axis, vector)
    return vector + w * twice + torch.linalg.cross(-axis, twice)


@pytest.mark.slow
def test_a_force_sensor_has_the_moment_of_contacts_about_its_origin(tmp_path):
    """A block at rest: its weight comes up through its middle, 0.1 m along x from the sensor."""
    pose = gymapi.Transform(gymapi.Vec3(-0.1, 0.0, 0.05))
    case = Case(tmp_path, BLOCK, 1, height=BLOCK_HALF, sensor=pose)
    case.step(100)
    weight = case.contacts[0, 0, 2].item()
    np.testing.assert_allclose(case.sensors[0, 0].numpy(), [0, 0, weight, 0, -0.1 * weight, 0], atol=0.02)


@pytest.mark.slow
def test_friction_is_the_average_with_the_grounds_in_each_environment(tmp_path):
    """Gravity leans by 30 degrees along x: a block slides by what its friction does not hold; friction may change."""
    frictions, ground, tilt = [0.0, 0.3, 0.6, 1.2], 0.2, math.pi / 6

    def each(gym, env, index):
        props = gym.get_actor_rigid_shape_properties(env, 0)
        props[0].friction = frictions[index]
        gym.set_actor_rigid_shape_properties(env, 0, props)

    def accelerations():
        case.step(20)
        before = case.root[:, 7].clone()
        case.step(120)
        return ((case.root[:, 7] - before) / 0.6).numpy()

    case = Case(tmp_path, BLOCK, 4, height=BLOCK_HALF, ground_friction=ground, each=each)
    case.step(50)
    case.set_gravity(9.81 * math.sin(tilt), 0.0, -9.81 * math.cos(tilt))
    average = np.array([0.5 * (friction + ground) for friction in frictions])
    sliding = 9.81 * (math.sin(tilt) - average * math.cos(tilt))
    assert sliding[-1] < 0.0 < sliding[-2]
    # A sliding block chatters in MuJoCo, so its friction is right on average.
    np.testing.assert_allclose(accelerations(), np.maximum(sliding, 0.0), rtol=0.1, atol=0.05)
    frictions = [0.3, 0.0, 0.0, 0.3]
    for index in range(4):
        each(case.gym, case.gym.get_env(case.sim, index), index)
    np.testing.assert_allclose(accelerations(), sliding[[1, 0, 0, 1]], rtol=0.1, atol=0.05)


@pytest.mark.slow
def test_lost_contacts_are_reported(tmp_path):
    case = Case(tmp_path, BLOCK, 2, height=BLOCK_HALF, nconmax=2)
    with pytest.warns(RuntimeWarning, match=r"contacts were lost.*sim_params.mujoco.nconmax"):
        case.step(2)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        case.step(2)


def worlds_of(folder, urdf, filters, shape_filters=None):
    (folder / "robot.urdf").write_text(urdf)
    asset = load_asset(str(folder), "robot.urdf", AssetOptions())
    for shape, value in zip(asset.shape_properties, shape_filters or [0] * len(asset.shape_properties), strict=True):
        shape.filter = value
    worlds = Worlds()
    params = gymapi.PlaneParams()
    params.normal = gymapi.Vec3(0.0, 0.0, 1.0)
    worlds.add_ground(plane(params))
    for each in filters:
        worlds.add_actor(worlds.add_env(), asset, gymapi.Transform(), "robot", each)
    return worlds


def pairs(model):
    """Names of geoms that plain MuJoCo finds in contact at its first pose."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return {tuple(sorted(model.geom(geom).name for geom in contact.geom)) for contact in data.contact}


@pytest.mark.parametrize(
    ("actor", "shapes", "meet"),
    [(0, [0, 0, 0], True), (1, [0, 0, 0], False), (-1, [0, 0, 0], True), (-1, [1, 0, 3], False), (-1, [1, 0, 2], True)],
)
def test_shapes_meet_unless_their_filters_share_a_bit(tmp_path, actor, shapes, meet):
    model, _ = compile_model(worlds_of(tmp_path, CHAIN, [actor], shapes))
    assert (("shape0", "shape2") in pairs(model)) == meet
    assert {("ground", f"shape{index}") for index in range(3)} <= pairs(model)


def test_filters_that_differ_among_environments_are_refused(tmp_path):
    with pytest.raises(GymError, match="filters differ"):
        compile_model(worlds_of(tmp_path, CHAIN, [0, 1]))


def test_constants_of_each_environment_are_those_of_a_robot_built_that_way(tmp_path):
    """The second environment's leg weighs 3 kg, off its axis: as if the file said so."""
    worlds = worlds_of(tmp_path, HOPPER, [0, 0])
    env = worlds.envs[1]
    properties = env.actor.bodies.properties()
    properties[1].mass, properties[1].com = 3.0, gymapi.Vec3(0.02, 0.0, -0.1)
    worlds.set_body_properties(env, properties, recompute=True)
    model, fields = compile_model(worlds)
    heavy = HOPPER.replace(f'<mass value="{LEG_MASS}"/><origin xyz="0 0', '<mass value="3.0"/><origin xyz="0.02 0')
    for number in ("0.004", "0.001"):
        leg = heavy.index('name="leg"')
        heavy = heavy[:leg] + heavy[leg:].replace(f'"{number}"', f'"{3 * float(number)}"')
    expected, _ = compile_model(worlds_of(tmp_path, heavy, [0]))
    for name in ("body_mass", "body_ipos", "body_subtreemass", "body_invweight0", "dof_invweight0", "actuator_acc0"):
        np.testing.assert_allclose(fields[name][1], getattr(expected, name), rtol=1e-6, err_msg=name)
        assert np.array_equal(fields[name][0], getattr(model, name)), name
    assert "jnt_range" not in fields
