"""One environment of an engine with a window, in plain Python and float64: what the window should hold."""

from __future__ import annotations

import cmath
from dataclasses import dataclass, replace

import numpy as np
import torch

from cmg_runtime.folder.robot import KinematicChain
from engine_folder import Truth
from mujoco_kinematics import MujocoKinematics


@dataclass(frozen=True)
class PlainFrame:
    """Motion state [motion_dim], root (x, y, z in m, yaw in rad), its z velocity (m/s), command in force [3]."""

    motion: np.ndarray
    position: complex
    z: float
    yaw: float
    vertical: float
    command: np.ndarray


class Robot:
    """Root height and bodies from MuJoCo."""

    def __init__(self, kinematics: MujocoKinematics, chain: KinematicChain) -> None:
        self.kinematics = kinematics
        self.chain = chain

    def bodies(self, dof_pos: np.ndarray) -> np.ndarray:
        """[B, 3] positions of the chain's bodies that MuJoCo has, in the root's frame."""
        self.kinematics.set(dof_pos)
        return np.array([self.kinematics.pose(name)[0] for name in self.chain.body_names])

    def height(self, dof_pos: np.ndarray) -> float:
        """Of the root above the ground, m."""
        self.kinematics.set(dof_pos)
        chain, lowest = self.chain, []
        for body, point, radius in zip(chain.sole_bodies, chain.sole_points, chain.sole_radii, strict=True):
            position, rotation = self.kinematics.pose(chain.body_names[body])
            lowest.append((position + rotation @ np.array(point))[2] - radius)
        return -min(lowest)


class PlainEnvironment:
    """One environment. Frames are made when they are asked for, and again after whatever changes them."""

    def __init__(self, truth: Truth, robot: Robot, ramp_s: float, fps: float = 50.0) -> None:
        self.truth, self.robot, self.ramp_s, self.fps = truth, robot, ramp_s, fps
        self.start = self.target = np.zeros(3)
        self.time = 0.0  # since the ramp began, at the current frame
        self.ground = 0.0
        self.frames: list[PlainFrame] = []

    def in_force(self, time: float) -> np.ndarray:
        if time >= self.ramp_s:
            return self.target
        return self.start + (self.target - self.start) * time / self.ramp_s

    def reset(self, motion: np.ndarray, root_pos: np.ndarray, yaw: float) -> None:
        self.ground = float(root_pos[2])
        z = self.ground + self.robot.height(motion[: len(motion) // 2])
        self.frames = [PlainFrame(motion, complex(*root_pos[:2]), z, yaw, 0.0, self.in_force(self.time))]

    def start_from(self, trajectory: PlainEnvironment, frame: int, root_pos: np.ndarray, yaw: float) -> None:
        """Go on from a frame of another one, which stands at the world's origin, moved here."""
        self.start, self.target, self.time = trajectory.start, trajectory.target, frame / self.fps
        self.ground, now = float(root_pos[2]), trajectory.frame(frame)
        self.frames = [replace(now, position=complex(*root_pos[:2]), z=now.z + self.ground, yaw=yaw)]

    def set_command(self, command: np.ndarray) -> None:
        wanted = np.clip(command, self.truth.low.float().numpy(), self.truth.high.float().numpy()).astype(float)
        if not np.array_equal(wanted, self.target):
            self.start, self.target, self.time = self.in_force(self.time), wanted, 0.0
        del self.frames[1:]

    def place_again(self) -> None:
        """A reset's frame is under its command, in force at once."""
        self.start = self.target
        self.frames = [replace(self.frames[0], command=self.in_force(self.time))]

    def step(self) -> None:
        self.frame(1)
        self.frames.pop(0)
        self.time += 1 / self.fps

    def frame(self, offset: int) -> PlainFrame:
        while len(self.frames) <= offset:
            before = self.frames[-1]
            command = self.in_force(self.time + len(self.frames) / self.fps)
            rows = (torch.from_numpy(value)[None] for value in (before.motion, command))
            motion = self.truth.step(*rows)[0].numpy()
            angle = command[2] / self.fps
            # The integral of exp(i (yaw + w t)) over one frame, times the velocity as a complex number.
            arc = (cmath.exp(1j * angle) - 1) / (1j * command[2]) if command[2] else 1 / self.fps
            position = before.position + cmath.exp(1j * before.yaw) * arc * complex(*command[:2])
            z = self.ground + self.robot.height(motion[: len(motion) // 2])
            frame = PlainFrame(motion, position, z, before.yaw + angle, (z - before.z) * self.fps, command)
            self.frames.append(frame)
        return self.frames[offset]
