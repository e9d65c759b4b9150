"""A Unitree G1 on a checkered floor, drawn offscreen by MuJoCo on a CPU. Kinematics only: nothing is simulated."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cmg_export.errors import ExportError
from cmg_export.read.robot import g1_model
from CMG_Ref import mujoco_import

OVERSAMPLING = 2
"""Pictures are drawn this much larger and reduced: OSMesa does not smooth edges itself."""

CAMERA = {"azimuth": 140.0, "elevation": -14.0, "distance": 2.25}
LOOK_AT_HEIGHT = 0.62
SKY = (0.125, 0.145, 0.172)
GREEN = (0.30, 0.85, 0.55, 1.0)


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
        try:
            self._renderer = mujoco.Renderer(self._model, height, width)
        except Exception as error:  # whatever the drawing library of this machine raises
            raise ExportError(
                f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({type(error).__name__}: {error}); "
                "expected osmesa (CPU) or egl (GPU)"
            ) from None

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
        spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
        spec.visual.quality.shadowsize = 2048
        spec.visual.map.shadowclip = 2.0
        spec.visual.headlight.ambient[:] = 0.35
        spec.visual.headlight.diffuse[:] = 0.25
        spec.visual.headlight.specular[:] = 0.0
        spec.visual.rgba.haze[:] = (*SKY, 1.0)
        spec.add_texture(
            name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            rgb1=SKY, width=8, height=48,
        )  # fmt: skip
        spec.add_texture(
            name="floor", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
            rgb1=[0.27, 0.31, 0.36], rgb2=[0.34, 0.385, 0.44], width=256, height=256,
        )  # fmt: skip
        textures = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
        textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "floor"
        spec.add_material(name="floor", textures=textures, texrepeat=[1, 1], texuniform=True, specular=0, shininess=0)
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.5], material="floor", contype=0, conaffinity=0
        )
        root = spec.worldbody.bodies[0]
        for light in spec.lights:  # the model's own, which lights the floor unevenly
            light.active = False
        root.add_light(
            pos=[1.6, 0.6, 2.4], dir=[-0.45, -0.15, -0.88], mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=True, diffuse=[0.85, 0.85, 0.82],
            specular=[0.2, 0.2, 0.2],
        )  # fmt: skip
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
            geom = scene.geoms[scene.ngeom]
            capsule = self._mujoco.mjtGeom.mjGEOM_CAPSULE
            self._mujoco.mjv_initGeom(geom, capsule, np.zeros(3), np.zeros(3), np.zeros(9), np.array(GREEN, np.float32))
            self._mujoco.mjv_connector(geom, capsule, 0.012, np.array([x0, y0, 0.004]), np.array([x1, y1, 0.004]))
            geom.emission = 0.5
            scene.ngeom += 1
