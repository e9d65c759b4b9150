"""Environments as MuJoCo draws them: their states on the CPU, cameras, images.

Bodies are drawn by their collision shapes: assets are read without what is only to be looked at.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mujoco
import numpy as np

from isaacgym.structs import CameraProperties, GymError, Quat, Transform, Vec3

if TYPE_CHECKING:
    from isaacgym.simulation import Simulation


class States:
    """Where all environments are, copied from the simulation whenever :meth:`update` is called."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.model = copy.copy(simulation.mj_model)
        _light(self.model)
        self.update()

    def update(self) -> None:
        data = self.simulation.data
        self.qpos, self.time = data.qpos.numpy(), float(data.time.numpy()[0])
        self.mocap_pos, self.mocap_quat = data.mocap_pos.numpy(), data.mocap_quat.numpy()

    def fill(self, data: mujoco.MjData, env: int) -> None:
        """Pose MuJoCo's bodies as an environment's are."""
        data.qpos[:] = self.qpos[env]
        if self.model.nmocap:
            data.mocap_pos[:], data.mocap_quat[:] = self.mocap_pos[env], self.mocap_quat[env]
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_camlight(self.model, data)


def _light(model: mujoco.MjModel) -> None:
    """Make it lighter than MuJoCo's defaults, and shapes without a colour brighter than ground without one."""
    headlight = model.vis.headlight
    headlight.ambient[:], headlight.diffuse[:], headlight.specular[:] = 0.4, 0.7, 0.1
    uncoloured = (model.geom_rgba == [0.5, 0.5, 0.5, 1.0]).all(axis=1)
    on_robot = model.geom_bodyid > 0
    model.geom_rgba[uncoloured & on_robot, :3] = 0.8, 0.7, 0.5
    model.geom_rgba[uncoloured & ~on_robot, :3] = 0.25, 0.3, 0.35


def look_at(camera: mujoco.MjvCamera, position: Vec3, target: Vec3) -> None:
    """Put a free camera at a position (m), with a target in the middle of its picture."""
    ahead = target - position
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:], camera.distance = [*target], ahead.length()
    camera.azimuth = math.degrees(math.atan2(ahead.y, ahead.x))
    camera.elevation = math.degrees(math.atan2(ahead.z, math.hypot(ahead.x, ahead.y)))


def camera_pose(camera: mujoco.MjvCamera) -> Transform:
    """Where a free camera is: its x axis points ahead, its z axis up in the picture."""
    turn = Quat.from_euler_zyx(0.0, -math.radians(camera.elevation), math.radians(camera.azimuth))
    return Transform(Vec3(*camera.lookat) - turn.rotate(Vec3(camera.distance, 0.0, 0.0)), turn)


def put(scene: mujoco.MjvScene, pose: Transform) -> None:
    """Look at a scene from a pose (m): its x axis points ahead, its z axis up in the picture."""
    ahead, up = (pose.transform_vector(axis) for axis in (Vec3(1.0, 0.0, 0.0), Vec3(0.0, 0.0, 1.0)))
    for camera in scene.camera:  # one for each eye
        camera.pos[:], camera.forward[:], camera.up[:] = [*pose.p], [*ahead], [*up]
    for light in scene.lights[: scene.nlight]:
        if light.headlight:
            light.pos[:], light.dir[:] = [*pose.p], [*ahead]


class Mount(NamedTuple):
    """Where a camera is on a robot: the body's place in the asset, the pose there; whether it turns with the body."""

    body: int
    pose: Transform
    turns: bool

    def in_world(self, data: mujoco.MjData) -> Transform:
        w, x, y, z = data.xquat[self.body + 1]
        body = Transform(Vec3(*data.xpos[self.body + 1]), Quat(x, y, z, w))
        return body * self.pose if self.turns else Transform(body.p + self.pose.p, self.pose.r)


class Camera:
    """Takes pictures of single environments, from a place in them or from a ``mount``."""

    def __init__(self, properties: CameraProperties) -> None:
        self.properties = properties
        self.mount: Mount | None = None
        self.view = mujoco.MjvCamera()
        look_at(self.view, Vec3(2.0, 0.0, 1.0), Vec3())
        self._renderers: dict[States, tuple[mujoco.Renderer, mujoco.MjData]] = {}

    def image(self, states: States, env: int) -> np.ndarray:
        """Red, green, blue and opacity, uint8 [height, width, 4].

        Raises:
            GymError: MuJoCo has nothing to draw with.
        """
        if states not in self._renderers:
            self._renderers[states] = self._renderer(states.model), mujoco.MjData(states.model)
        renderer, data = self._renderers[states]
        states.fill(data, env)
        renderer.update_scene(data, self.view)
        if self.mount is not None:
            put(renderer.scene, self.mount.in_world(data))
        return np.dstack([renderer.render(), np.full((renderer.height, renderer.width, 1), 255, np.uint8)])

    def _renderer(self, model: mujoco.MjModel) -> mujoco.Renderer:
        width, height = self.properties.width, self.properties.height
        half = math.radians(self.properties.horizontal_fov) / 2.0
        model = copy.copy(model)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.global_.fovy = math.degrees(2.0 * math.atan(math.tan(half) * height / width))
        try:
            return mujoco.Renderer(model, height, width)
        except Exception as error:  # of whichever library draws
            reason = " ".join(str(error).split()) or type(error).__name__
            raise GymError(
                f"MuJoCo cannot draw here ({reason}); start with MUJOCO_GL=egl (a GPU) or MUJOCO_GL=osmesa (libosmesa6)"
            ) from None


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image, uint8 [height, width, 4]."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    ]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
