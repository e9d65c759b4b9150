"""A Unitree G1 on a checkered floor, drawn offscreen by MuJoCo on a CPU. Kinematics only: nothing is simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cmg_export.demo.scene import Look, add_rod, furnish, open_renderer
from cmg_export.errors import ExportError
from cmg_export.read.robot import g1_model
from CMG_Ref import mujoco_import

OVERSAMPLING = 2
"""Pictures are drawn this much larger and reduced: OSMesa does not smooth edges itself."""

CAMERA = {"azimuth": 140.0, "elevation": -14.0, "distance": 2.25}
LOOK_AT_HEIGHT = 0.62
SKY = (0.125, 0.145, 0.172)
LOOK = Look(SKY, SKY, floor_dark=(0.27, 0.31, 0.36), floor_light=(0.34, 0.385, 0.44), tile=0.5)
GREEN = (0.30, 0.85, 0.55)


def choose_renderer() -> None:
    """Have MuJoCo draw with OSMesa, unless ``MUJOCO_GL`` says otherwise. Must run before mujoco is imported.

    Raises:
        ExportError: there is nothing to draw with.
    """
    if not mujoco_import.choose_renderer(("osmesa",)):
        raise ExportError(
            "the system library OSMesa is missing, MuJoCo needs it to draw on a CPU; "
            "install it (Debian, Ubuntu: apt-get install libosmesa6), or set MUJOCO_GL=egl to draw on a GPU"
        )


class Stage:
    """A scene with one robot that can be posed and drawn again and again; use it as a context manager.

    Args:
        joint_names: order of the joint angles that :meth:`draw` gets.
        size: (width, height) of the pictures, pixels.

    Raises:
        ExportError: mjlab's G1 or the drawing library is missing, or the G1 lacks one of the joints.
    """

    def __init__(self, joint_names: Sequence[str], size: tuple[int, int]) -> None:
        choose_renderer()
        import mujoco

        self._mujoco: Any = mujoco
        self.size = size
        width, height = (OVERSAMPLING * side for side in size)
        self._model = self._build(width, height)
        self._data = self._mujoco.MjData(self._model)
        self._addresses = self._joint_addresses(joint_names)
        self._renderer = open_renderer(mujoco, self._model, (width, height))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()

    def draw(self, dof_pos: Any, root: Sequence[float], path: Any) -> Image.Image:
        """A picture of one pose, the camera following the root.

        Args:
            dof_pos: [num_joints], rad.
            root: x, y, z (m) and heading (rad) of the root's origin in the world.
            path: [K, 2], x, y (m): points that are joined by a line on the floor.
        """
        x, y, z, heading = (float(value) for value in root)
        self._data.qpos[:7] = x, y, z, math.cos(heading / 2), 0, 0, math.sin(heading / 2)
        self._data.qpos[self._addresses] = np.asarray(dof_pos)
        self._mujoco.mj_forward(self._model, self._data)
        camera = self._mujoco.MjvCamera()
        camera.lookat[:] = x, y, LOOK_AT_HEIGHT
        for name, value in CAMERA.items():
            setattr(camera, name, value)
        self._renderer.update_scene(self._data, camera)
        self._add_line(np.asarray(path))
        picture = Image.fromarray(self._renderer.render())
        return picture.resize(self.size, Image.Resampling.LANCZOS)

    def _build(self, width: int, height: int) -> Any:
        mujoco = self._mujoco
        model_path = g1_model()
        if model_path is None:
            raise ExportError("the robot's model is missing: it comes with mjlab; pip install mjlab")
        spec = mujoco.MjSpec.from_file(str(model_path))
        furnish(mujoco, spec, (width, height), LOOK)
        return spec.compile()

    def _joint_addresses(self, joint_names: Sequence[str]) -> np.ndarray:
        known = {self._model.joint(j).name: int(self._model.jnt_qposadr[j]) for j in range(self._model.njnt)}
        missing = [name for name in joint_names if name not in known]
        if missing:
            raise ExportError(f"the Unitree G1 has no joint {missing[0]}, the engine has; expected an engine for a G1")
        return np.array([known[name] for name in joint_names])

    def _add_line(self, points: np.ndarray) -> None:
        scene = self._renderer.scene
        for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
            add_rod(self._mujoco, scene, ((x0, y0, 0.004), (x1, y1, 0.004)), 0.012, GREEN, glow=0.1)
