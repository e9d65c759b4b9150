"""Robots for the tests of `isaacgym`, and a simulation of one of them."""

# Constants become names of gymapi when it is imported.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isaacgym import gymapi

BASE_MASS, LEG_MASS, LEG_LENGTH, LEG_INERTIA = 4.0, 1.0, 0.1, 0.004  # kg, m to the centre of mass, kg m^2 about y there
FOOT_RADIUS, FOOT_DEPTH = 0.04, 0.2
HIP_INERTIA = LEG_INERTIA + LEG_MASS * LEG_LENGTH**2

HOPPER = f"""
<robot name="hopper">
  <link name="base">
    <inertial><mass value="{BASE_MASS}"/><origin xyz="0.03 -0.02 0.01"/>
      <inertia ixx="0.02" iyy="0.03" izz="0.04" ixy="0.002" ixz="-0.001" iyz="0"/></inertial>
    <collision><geometry><box size="0.3 0.2 0.1"/></geometry></collision>
  </link>
  <link name="leg">
    <inertial><mass value="{LEG_MASS}"/><origin xyz="0 0 {-LEG_LENGTH}"/>
      <inertia ixx="0.004" iyy="{LEG_INERTIA}" izz="0.001" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><origin xyz="0 0 {-FOOT_DEPTH}"/><geometry><sphere radius="{FOOT_RADIUS}"/></geometry></collision>
  </link>
  <joint name="hip" type="revolute"><parent link="base"/><child link="leg"/>
    <origin xyz="0.05 0 -0.05"/><axis xyz="0 1 0"/><limit lower="-1.5" upper="1.5" effort="30" velocity="20"/></joint>
</robot>
"""

BLOCK_MASS, BLOCK_INERTIA, BLOCK_HALF = 2.0, (0.02, 0.03, 0.04), 0.1
BLOCK = f"""
<robot name="block">
  <link name="block">
    <inertial><mass value="{BLOCK_MASS}"/>
      <inertia ixx="{BLOCK_INERTIA[0]}" iyy="{BLOCK_INERTIA[1]}" izz="{BLOCK_INERTIA[2]}" ixy="0" ixz="0" iyz="0"/>
    </inertial>
    <collision><geometry><box size="0.4 0.4 {2 * BLOCK_HALF}"/></geometry></collision>
  </link>
</robot>
"""


class Case:
    """A simulation of `num_envs` robots.

    Attributes:
        root, dof, bodies, contacts, sensors: the tensors with a first dimension of environments.
    """

    def __init__(
        self,
        folder: Path,
        urdf: str,
        num_envs: int = 2,
        *,
        device: str = "cpu",
        dt: float = 0.005,
        substeps: int = 1,
        gravity: tuple[float, float, float] = (0.0, 0.0, -9.81),
        height: float = 1.0,
        ground_friction: float | None = 1.0,
        fixed: bool = False,
        each: Callable[[Any, Any, int], None] | None = None,
        sensor: gymapi.Transform | None = None,
        **mujoco: int,
    ):
        self.gym = gym = gymapi.acquire_gym()
        params = gymapi.SimParams()
        params.up_axis, params.dt, params.substeps = gymapi.UP_AXIS_Z, dt, substeps
        params.gravity, params.use_gpu_pipeline = gymapi.Vec3(*gravity), device != "cpu"
        for name, value in mujoco.items():
            setattr(params.mujoco, name, value)
        self.sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
        if ground_friction is not None:
            plane = gymapi.PlaneParams()
            plane.normal, plane.static_friction = gymapi.Vec3(0.0, 0.0, 1.0), ground_friction
            gym.add_ground(self.sim, plane)
        options = gymapi.AssetOptions()
        options.angular_damping, options.fix_base_link = 0.0, fixed
        (folder / "robot.urdf").write_text(urdf)
        asset = gym.load_asset(self.sim, os.fspath(folder), "robot.urdf", options)
        if sensor is not None:
            gym.create_asset_force_sensor(asset, 0, sensor)
        pose = gymapi.Transform()
        pose.p = gymapi.Vec3(0.0, 0.0, height)
        for index in range(num_envs):
            env = gym.create_env(self.sim, gymapi.Vec3(), gymapi.Vec3(), 1)
            gym.create_actor(env, asset, pose, "robot", index, 0)
            if each is not None:
                each(gym, env, index)
        gym.prepare_sim(self.sim)
        self.device = torch.device(self.sim.device)
        self.root = gym.acquire_actor_root_state_tensor(self.sim)
        self.dof = gym.acquire_dof_state_tensor(self.sim).view(num_envs, -1, 2)
        self.bodies = gym.acquire_rigid_body_state_tensor(self.sim).view(num_envs, -1, 13)
        self.contacts = gym.acquire_net_contact_force_tensor(self.sim).view(num_envs, -1, 3)
        self.sensors = gym.acquire_force_sensor_tensor(self.sim).view(num_envs, -1, 6)
        self.refresh()

    def refresh(self) -> None:
        for name in ("actor_root_state", "dof_state", "rigid_body_state", "net_contact_force", "force_sensor"):
            getattr(self.gym, f"refresh_{name}_tensor")(self.sim)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.gym.simulate(self.sim)
        self.refresh()

    def set_gravity(self, *gravity: float) -> None:
        params = self.gym.get_sim_params(self.sim)
        params.gravity = gymapi.Vec3(*gravity)
        self.gym.set_sim_params(self.sim, params)

    def set_root(self) -> None:
        self.gym.set_actor_root_state_tensor(self.sim, self.root)

    def set_dof(self) -> None:
        self.gym.set_dof_state_tensor(self.sim, self.dof.view(-1, 2))

    def indices(self, *values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)
