"""Counts, names, handles and indices of assets and actors, against a robot written here."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import pytest

from isaacgym import gymapi
from isaacgym.structs import GymError

BODIES = ["base", "left_leg", "left_foot", "right_leg", "right_toe"]
JOINTS = ["left_hip", "left_ankle", "right_hip", "right_weld"]
DOFS = ["left_hip", "left_ankle", "right_hip"]
ROBOT = """
<robot name="robot">
  <link name="base"><collision><geometry><box size="0.2 0.2 0.2"/></geometry></collision></link>
  <link name="left_leg"><collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision></link>
  <link name="left_foot"><collision><geometry><sphere radius="0.1"/></geometry></collision></link>
  <link name="right_leg"><collision><geometry><sphere radius="0.1"/></geometry></collision></link>
  <joint name="left_hip" type="revolute">
    <parent link="base"/><child link="left_leg"/><limit lower="-1" upper="2" effort="30" velocity="9"/>
  </joint>
  <joint name="left_ankle" type="revolute">
    <parent link="left_leg"/><child link="left_foot"/><limit lower="-0.5" upper="0.5" effort="5" velocity="4"/>
  </joint>
  <link name="right_toe"><collision><geometry><sphere radius="0.1"/></geometry></collision></link>
  <joint name="right_weld" type="fixed"><parent link="right_leg"/><child link="right_toe"/></joint>
  <joint name="right_hip" type="prismatic">
    <parent link="base"/><child link="right_leg"/><limit lower="0" upper="0.1" effort="40" velocity="1"/>
  </joint>
</robot>
"""
SIM, ENV, ACTOR = gymapi.IndexDomain.DOMAIN_SIM, gymapi.IndexDomain.DOMAIN_ENV, gymapi.IndexDomain.DOMAIN_ACTOR


@pytest.fixture
def gym() -> gymapi.Gym:
    return gymapi.acquire_gym()


@pytest.fixture
def sim(gym: gymapi.Gym, tmp_path: Path) -> gymapi.Sim:
    """Three environments, not prepared; two force sensors on each robot."""
    (tmp_path / "robot.urdf").write_text(ROBOT)
    params = gymapi.SimParams()
    params.up_axis = gymapi.UpAxis.UP_AXIS_Z
    sim = gym.create_sim(0, -1, gymapi.SimType.SIM_PHYSX, params)
    asset = gym.load_asset(sim, str(tmp_path), "robot.urdf", gymapi.AssetOptions())
    for body in (1, 3):
        gym.create_asset_force_sensor(asset, body, gymapi.Transform(), gymapi.ForceSensorProperties())
    for place in range(3):
        env = gym.create_env(sim, gymapi.Vec3(), gymapi.Vec3(), 2)
        assert gym.create_actor(env, asset, gymapi.Transform(), f"robot_{place}", place, 1, 0) == 0
    return sim


def test_assets(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    asset = sim.worlds.asset
    assert gym.get_asset_rigid_body_names(asset) == BODIES and gym.get_asset_rigid_body_count(asset) == 5
    assert gym.get_asset_dof_names(asset) == DOFS and gym.get_asset_dof_count(asset) == 3
    assert gym.get_asset_joint_names(asset) == JOINTS and gym.get_asset_joint_count(asset) == 4
    assert gym.get_asset_joint_dict(asset) == {name: place for place, name in enumerate(JOINTS)}
    assert gym.get_asset_rigid_shape_count(asset) == len(gym.get_asset_rigid_shape_properties(asset)) == 5
    assert gym.get_asset_rigid_body_dict(asset) == {name: place for place, name in enumerate(BODIES)}
    assert gym.get_asset_dof_dict(asset) == {name: place for place, name in enumerate(DOFS)}
    assert (gym.get_asset_rigid_body_name(asset, 2), gym.get_asset_dof_name(asset, 1)) == ("left_foot", "left_ankle")
    assert (
        gym.find_asset_rigid_body_index(asset, "right_leg") == 3 and gym.find_asset_dof_index(asset, "right_hip") == 2
    )
    assert gym.find_asset_rigid_body_index(asset, "head") == gym.find_asset_dof_index(asset, "neck") == -1
    properties = gym.get_asset_dof_properties(asset)
    assert properties["hasLimits"].all() and properties["lower"].tolist() == [-1.0, -0.5, 0.0]
    assert properties["effort"].tolist() == [30.0, 5.0, 40.0] and properties["velocity"].tolist() == [9.0, 4.0, 1.0]


def test_properties_of_an_asset_are_those_of_actors_made_later(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    asset = sim.worlds.asset
    shapes = gym.get_asset_rigid_shape_properties(asset)
    shapes[1].friction = 0.25
    assert gym.get_asset_rigid_shape_properties(asset)[1].friction != 0.25  # copies, until they are set
    assert gym.set_asset_rigid_shape_properties(asset, shapes)
    env = gym.create_env(sim, gymapi.Vec3(), gymapi.Vec3(), 2)
    gym.create_actor(env, asset, gymapi.Transform(), "last", 3, 1, 0)
    frictions = [gym.get_actor_rigid_shape_properties(gym.get_env(sim, place), 0)[1].friction for place in (0, 3)]
    assert frictions[1] == 0.25 != frictions[0]


def test_another_robot_or_a_sensor_of_no_body_is_refused(gym: gymapi.Gym, sim: gymapi.Sim, tmp_path: Path) -> None:
    asset, options = sim.worlds.asset, gymapi.AssetOptions()
    for body in (-1, 5):  # -1: a name that was not found
        with pytest.raises(GymError, match=rf"sensor on body {body}; asset 'robot' has 5"):
            gym.create_asset_force_sensor(asset, body, gymapi.Transform())
    for armature, known in ((0.0, True), (0.1, False)):
        options.armature = armature
        other = gym.load_asset(sim, str(tmp_path), "robot.urdf", options)
        for body in (1, 3):
            gym.create_asset_force_sensor(other, body, gymapi.Transform(), gymapi.ForceSensorProperties())
        env = gym.create_env(sim, gymapi.Vec3(), gymapi.Vec3(), 2)
        with contextlib.nullcontext() if known else pytest.raises(GymError, match="the same asset"):
            gym.create_actor(env, other, gymapi.Transform())


def test_settings_are_copied(gym: gymapi.Gym) -> None:
    params = gymapi.SimParams()
    params.up_axis = gymapi.UpAxis.UP_AXIS_Z
    sim = gym.create_sim(0, -1, gymapi.SimType.SIM_PHYSX, params)
    params.dt = 1.0
    gym.get_sim_params(sim).gravity.z = 5.0
    assert gym.get_sim_params(sim).dt != 1.0 and gym.get_sim_params(sim).gravity.z == 0.0


def test_actors(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    env = gym.get_env(sim, 1)
    assert gym.get_env_count(sim) == gym.get_sim_actor_count(sim) == 3 and gym.get_actor_count(env) == 1
    assert gym.get_actor_name(env, 0) == "robot_1" and gym.get_actor_handle(env, 0) == 0
    assert gym.find_actor_handle(env, "robot_1") == 0 and gym.find_actor_handle(env, "robot_2") == -1
    assert gym.get_actor_rigid_body_names(env, 0) == BODIES
    assert gym.get_actor_dof_names(env, 0) == DOFS and gym.get_actor_joint_names(env, 0) == JOINTS
    assert gym.get_actor_rigid_body_count(env, 0) == gym.get_env_rigid_body_count(env) == 5
    assert gym.get_actor_dof_count(env, 0) == gym.get_env_dof_count(env) == 3
    assert gym.get_actor_joint_count(env, 0) == gym.get_env_joint_count(env) == 4
    assert gym.get_actor_joint_dict(env, 0) == {name: place for place, name in enumerate(JOINTS)}
    assert gym.get_actor_rigid_shape_count(env, 0) == 5 and gym.get_actor_force_sensor_count(env, 0) == 2
    assert (gym.get_sim_rigid_body_count(sim), gym.get_sim_dof_count(sim), gym.get_sim_joint_count(sim)) == (15, 9, 12)
    assert gym.get_sim_force_sensor_count(sim) == 6
    assert gym.get_actor_rigid_body_dict(env, 0)["right_leg"] == 3 and gym.get_actor_dof_dict(env, 0)["right_hip"] == 2
    assert [*gym.get_env_origin(env)] == [0.0, 0.0, 0.0]


def test_handles_and_indices(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    """Of the third robot of three: rows of the tensors of all, or of its own."""
    env = gym.get_env(sim, 2)
    assert gym.get_actor_root_rigid_body_handle(env, 0) == 0
    assert gym.find_actor_rigid_body_handle(env, 0, "left_foot") == gym.get_actor_rigid_body_handle(env, 0, 2) == 2
    assert gym.find_actor_dof_handle(env, 0, "left_ankle") == gym.get_actor_dof_handle(env, 0, 1) == 1
    assert gym.find_actor_rigid_body_handle(env, 0, "head") == gym.find_actor_dof_handle(env, 0, "neck") == -1
    for domain, bodies, dofs, actor in ((SIM, 10, 6, 2), (ENV, 0, 0, 0), (ACTOR, 0, 0, 0)):
        assert gym.find_actor_rigid_body_index(env, 0, "left_foot", domain) == bodies + 2
        assert gym.get_actor_rigid_body_index(env, 0, 3, domain) == bodies + 3
        assert gym.find_actor_dof_index(env, 0, "left_ankle", domain) == dofs + 1
        assert gym.get_actor_dof_index(env, 0, 2, domain) == dofs + 2
        assert gym.get_actor_index(env, 0, domain) == gym.find_actor_index(env, "robot_2", domain) == actor


def test_grounds_are_what_was_given(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    """Heights and friction; `test_isaacgym_ground` says of what shapes."""
    plane, field, mesh = gymapi.PlaneParams(), gymapi.HeightFieldParams(), gymapi.TriangleMeshParams()
    plane.normal, plane.static_friction = gymapi.Vec3(0.0, 0.0, 1.0), 0.4
    gym.add_ground(sim, plane)
    field.nbColumns, field.nbRows, field.vertical_scale, field.static_friction = 2, 3, 0.1, 0.5
    gym.add_heightfield(sim, np.arange(6, dtype=np.int16), field)
    mesh.nb_vertices, mesh.nb_triangles, mesh.static_friction = 3, 1, 0.6
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], np.float32)
    gym.add_triangle_mesh(sim, corners.flatten(), np.array([0, 1, 2], np.uint32), mesh)
    grounds = sim.worlds.grounds
    assert [ground.friction for ground in grounds] == [0.4, 0.5, 0.6]
    assert [round(float(np.ptp(ground.heights)), 6) for ground in grounds] == [0.0, 0.5, 0.5]


def test_a_simulation_ends(gym: gymapi.Gym, sim: gymapi.Sim) -> None:
    assert (gym.get_frame_count(sim), gym.get_sim_time(sim)) == (0, 0.0)
    earlier = gym.get_elapsed_time(sim)
    time.sleep(0.01)
    assert gym.get_elapsed_time(sim) - earlier >= 0.01
    gym.destroy_sim(sim)
    assert gym.get_env_count(sim) == 0
