"""Poses of a robot's bodies as MuJoCo computes them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

mujoco: Any = importlib.import_module("mujoco")  # without types


class MujocoKinematics:
    """Poses of bodies in the root body's frame, from MuJoCo."""

    def __init__(self, path: Path, joint_names: tuple[str, ...], root: str) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(path))
        self.data = mujoco.MjData(self.model)
        self.addresses = [self.model.joint(name).qposadr[0] for name in joint_names]
        self.root = self.model.body(root).id
        self.rest = np.zeros(self.model.nq)
        free = self.model.body(root).jntadr[0]
        self.rest[self.model.jnt_qposadr[free] + 3] = 1

    def set(self, dof_pos: np.ndarray) -> None:
        self.data.qpos[:] = self.rest
        self.data.qpos[self.addresses] = dof_pos
        mujoco.mj_kinematics(self.model, self.data)

    def pose(self, body: str) -> tuple[np.ndarray, np.ndarray]:
        rotation, position = self.data.xmat[self.root].reshape(3, 3), self.data.xpos[self.root]
        index = self.model.body(body).id
        return rotation.T @ (self.data.xpos[index] - position), rotation.T @ self.data.xmat[index].reshape(3, 3)

    def lowest_point(self, geom: int) -> float:
        """Lowest z of a capsule or a sphere in the root's frame (the root is upright at the origin)."""
        axis = self.data.geom_xmat[geom].reshape(3, 3)[:, 2]
        half = self.model.geom_size[geom, 1] if self.model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE else 0.0
        return float(self.data.geom_xpos[geom, 2] - abs(axis[2]) * half - self.model.geom_size[geom, 0])
