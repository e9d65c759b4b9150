"""A robot on flat ground in plain MuJoCo, with the actuators of the deployed control loop."""

# mujoco is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mujoco
import numpy as np
from mjlab.scene import Scene

from cmg_gym.controller import TILT_LIMIT, Proprioception
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.policy_card import PolicyCard
from cmg_gym.robots import find_robot

CLEARANCE = 0.005
"""m between the lowest point of a robot that is set down and the ground; as in the training environment."""


class SimulatedRobot:
    """The training environment's model, for one robot, stepped by MuJoCo's own engine instead of MuJoCo Warp.

    Joints are driven by position controllers at the rate of the physics, as a robot's motor controllers do it:

        torque = clip(kp (target - q) - kd dq, -effort limit, effort limit)

    Args:
        card: whose robot, and its ``kp``, ``kd``, ``effort_limit`` and ``armature``.

    Attributes:
        model, data: MuJoCo's, to read and to draw. Joints, bodies and sensors are named ``robot/NAME``.
        root_body: id of the root's body.
        decimation: steps of physics in a control step.

    Raises:
        EngineError: no robot has the card's joints.
    """

    def __init__(self, card: PolicyCard) -> None:
        self.card = card
        robot = find_robot(card.joint_names, f"policy for {card.engine!r}")
        cfg = make_env_cfg(play=True, robot=robot)
        # Contact sensors are for rewards.
        self.model: mujoco.MjModel = Scene(dataclasses.replace(cfg.scene, sensors=()), "cpu").compile()
        cfg.sim.mujoco.apply(self.model)
        self.decimation = cfg.decimation
        joints = [self.model.joint(f"robot/{name}") for name in card.joint_names]
        self.root_body = self.model.body(f"robot/{robot.root}").id
        self.minimum_height = robot.minimum_height
        self._dof_pos_at = np.array([joint.qposadr[0] for joint in joints])
        self._dof_vel_at = np.array([joint.dofadr[0] for joint in joints])
        driver = {int(joint): actuator for actuator, joint in enumerate(self.model.actuator_trnid[:, 0])}
        self._actuators = np.array([driver[joint.id] for joint in joints])
        self._use_actuators_of(card)
        self._gyroscope = slice(*self._sensor_range(f"robot/{robot.gyroscope}"))
        colliding = np.flatnonzero(self.model.geom_contype)
        of_the_world = self.model.body_weldid[self.model.geom_bodyid[colliding]] == 0
        self._ground, self._colliding = colliding[of_the_world], colliding[~of_the_world]
        self.data = mujoco.MjData(self.model)
        self.reset()

    def reset(
        self,
        dof_pos: Any = None,
        dof_vel: Any = None,
        root_vel: Any = (0.0, 0.0, 0.0),
        root_ang_vel: Any = (0.0, 0.0, 0.0),
        xy: Any = (0.0, 0.0),
        heading: float = 0.0,
    ) -> None:
        """Set the robot upright on the ground.

        Args:
            dof_pos, dof_vel: [num_joints] rad and rad/s; the standing pose, at rest.
            root_vel, root_ang_vel: [3] in the heading frame, m/s and rad/s.
            xy: [2] where, m.
            heading: rad.
        """
        data = self.data
        mujoco.mj_resetData(self.model, data)
        cos, sin = math.cos(heading), math.sin(heading)
        data.qpos[:3] = (*xy, 2.0)
        data.qpos[3:7] = (math.cos(heading / 2), 0.0, 0.0, math.sin(heading / 2))
        data.qpos[self._dof_pos_at] = self.card.default_dof_pos if dof_pos is None else dof_pos
        data.qvel[self._dof_vel_at] = 0.0 if dof_vel is None else dof_vel
        data.qvel[:3] = (cos * root_vel[0] - sin * root_vel[1], sin * root_vel[0] + cos * root_vel[1], root_vel[2])
        data.qvel[3:6] = root_ang_vel  # in the root's frame, which is upright
        data.ctrl[self._actuators] = data.qpos[self._dof_pos_at]
        mujoco.mj_forward(self.model, data)
        data.qpos[2] += CLEARANCE - self._height_above_ground()
        mujoco.mj_forward(self.model, data)

    def proprioception(self) -> Proprioception:
        """What the robot's sensors say now: gyroscope, direction of gravity, encoders. New arrays."""
        return Proprioception(
            base_ang_vel=self.data.sensordata[self._gyroscope].copy(),
            projected_gravity=-self._root_rotation()[2],
            dof_pos=self.data.qpos[self._dof_pos_at],
            dof_vel=self.data.qvel[self._dof_vel_at],
        )

    def step(self, target: Any, kp: Any = None) -> None:
        """One control step: what is sent is held for :attr:`decimation` steps of physics.

        Args:
            target: [num_joints] joint position targets, rad.
            kp: [num_joints] N m/rad, as :class:`cmg_gym.controller.Controller` says it: 0 where it damps. None: the
                card's.
        """
        self._set_kp(np.asarray(self.card.kp if kp is None else kp))
        self.data.ctrl[self._actuators] = target
        mujoco.mj_step(self.model, self.data, self.decimation)
        mujoco.mj_forward(self.model, self.data)  # sensors and body poses of where the robot is now

    def push(self, velocity: Any) -> None:
        """Add to the root's velocity at once: [2] or [3] m/s in the heading frame, or [6] with rad/s of the root."""
        velocity = np.asarray(velocity, dtype=float)
        heading = self.heading
        cos, sin = math.cos(heading), math.sin(heading)
        x, y = velocity[:2]
        self.data.qvel[:2] += (cos * x - sin * y, sin * x + cos * y)
        self.data.qvel[2 : len(velocity)] += velocity[2:]
        mujoco.mj_forward(self.model, self.data)

    @property
    def heading(self) -> float:
        """Of the root, rad."""
        rotation = self._root_rotation()
        return math.atan2(rotation[1, 0], rotation[0, 0])

    @property
    def heading_velocity(self) -> tuple[float, float, float]:
        """(vx, vy, yaw rate) of the root in its heading frame, m/s, m/s, rad/s."""
        x, y = self.data.qvel[:2]
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        yaw_rate = float(self._root_rotation()[2] @ self.data.qvel[3:6])
        return float(cos * x + sin * y), float(cos * y - sin * x), yaw_rate

    @property
    def height(self) -> float:
        """Of the root above the ground, m."""
        return float(self.data.qpos[2])

    @property
    def tilt(self) -> float:
        """Of the root from upright, rad."""
        return math.acos(float(np.clip(self._root_rotation()[2, 2], -1.0, 1.0)))

    @property
    def upright(self) -> bool:
        """It has not fallen: tilted by less than 60 degrees and as high as the training environment asks for."""
        return self.tilt < TILT_LIMIT and self.height > self.minimum_height  # NaN is not

    def _use_actuators_of(self, card: PolicyCard) -> None:
        model, limit = self.model, np.array(card.effort_limit)
        self._set_kp(np.array(card.kp))
        model.actuator_biasprm[self._actuators, 2] = -np.array(card.kd)
        model.actuator_forcerange[self._actuators] = np.stack([-limit, limit], axis=1)
        model.actuator_forcelimited[self._actuators] = 1
        model.dof_armature[self._dof_vel_at] = card.armature

    def _set_kp(self, kp: np.ndarray) -> None:
        self.model.actuator_gainprm[self._actuators, 0] = kp
        self.model.actuator_biasprm[self._actuators, 1] = -kp

    def _root_rotation(self) -> np.ndarray:
        """[3, 3] from the root's frame to the world's."""
        return self.data.xmat[self.root_body].reshape(3, 3)

    def _sensor_range(self, name: str) -> tuple[int, int]:
        sensor = self.model.sensor(name)
        return int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0])

    def _height_above_ground(self) -> float:
        """Of the lowest point that collides, m."""
        return min(
            mujoco.mj_geomDistance(self.model, self.data, ground, geom, 10.0, None)
            for ground in self._ground
            for geom in self._colliding
        )
