"""Viewer and cameras: the methods of ``Gym`` that have to do with them.

The viewer is MuJoCo's own, which mjlab's is built on too. It shows the first 64 environments, all around one origin,
and the lines that are drawn. Its own keys stay: V, F, W and others also change what it shows. Keys are reported as they
go down, not as they come up; mouse buttons are not reported. Where there is no display, or the simulation was made
with ``graphics_device`` -1, ``create_viewer`` says so and returns None; all other calls take that None and do nothing.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import os
import queue
import sys
import time
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from isaacgym.drawing import Camera, Mount, States, camera_pose, look_at, write_png
from isaacgym.structs import (
    ActionEvent,
    CameraFollowMode,
    CameraProperties,
    GymError,
    ImageType,
    KeyboardInput,
    MouseInput,
    Transform,
    Vec3,
)

if TYPE_CHECKING:
    from isaacgym.simulation import Simulation

SHOWN = 64
"""Environments that are drawn: each costs the host its kinematics, once a frame."""

MAX_LINES = 2000
"""Lines that are drawn; of more, the first ones."""


class Viewer:
    """A window of MuJoCo's, and what was subscribed for in it."""

    def __init__(self, simulation: Simulation, properties: CameraProperties) -> None:
        import mujoco.viewer

        self.states = States(simulation)
        self.properties = properties
        self.actions: dict[int, str] = {}
        self.lines: list[tuple[np.ndarray, np.ndarray]] = []
        self._keys: queue.SimpleQueue[int] = queue.SimpleQueue()  # the window is another thread's
        self._data, self._other = mujoco.MjData(self.states.model), mujoco.MjData(self.states.model)
        self.states.fill(self._data, 0)
        self.window = mujoco.viewer.launch_passive(
            self.states.model, self._data, key_callback=self._keys.put, show_left_ui=False, show_right_ui=False
        )

    def action_events(self) -> list[ActionEvent]:
        """Of the keys that went down since the last call, those that were subscribed for."""
        keys = [self._keys.get() for _ in range(self._keys.qsize())]
        return [ActionEvent(self.actions[key], 1.0) for key in keys if key in self.actions]

    def draw(self) -> None:
        """Show the environments as they are now."""
        self.states.update()
        with self.window.lock():
            self.states.fill(self._data, 0)
            scene: Any = self.window.user_scn
            scene.ngeom = 0
            option, perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
            for env in range(1, min(SHOWN, len(self.states.qpos))):
                self.states.fill(self._other, env)
                kind = mujoco.mjtCatBit.mjCAT_DYNAMIC
                mujoco.mjv_addGeoms(self.states.model, self._other, option, perturb, kind.value, scene)
            draw_lines(scene, self.lines)
        self.window.sync()

    def image(self) -> np.ndarray:
        """What the viewer's camera sees of the first environment, uint8 [height, width, 4]."""
        camera = Camera(self.properties)
        camera.view = self.window.cam
        self.states.update()
        return camera.image(self.states, 0)


def draw_lines(scene: mujoco.MjvScene, lines: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Add lines to a scene: ends [N, 2, 3] and colours [N, 3]."""
    room = min(MAX_LINES, scene.maxgeom - scene.ngeom)
    pairs = [pair for ends, colors in lines for pair in zip(ends, colors, strict=True)]
    for (start, end), color in pairs[:room]:
        geom = scene.geoms[scene.ngeom]
        none = np.zeros(3), np.zeros(3), np.eye(3).ravel()
        mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_LINE, *none, np.array([*color, 1.0], np.float32))
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_LINE, 2.0, start.astype(float), end.astype(float))
        scene.ngeom += 1


def has_display() -> bool:
    """Whether there is a screen to open a window on."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class ViewerCalls:
    """The methods of ``Gym``. A ``sim`` has ``simulation`` and ``graphics_device``, an ``env`` has ``index``."""

    def __init__(self) -> None:
        self._cameras: list[Camera] = []
        self._states: States | None = None
        self._frame_clock: tuple[float, float] | None = None  # wall and simulated time that belong together

    def create_viewer(self, sim: Any, properties: CameraProperties) -> Viewer | None:
        if sim.graphics_device < 0:
            print("no viewer: the simulation was made without graphics (graphics_device -1)")
            return None
        if not has_display():
            print("no viewer: there is no display (DISPLAY is not set); run headless to say so yourself")
            return None
        return Viewer(sim.simulation, properties)

    def destroy_viewer(self, viewer: Viewer | None) -> None:
        if viewer is not None:
            viewer.window.close()

    def query_viewer_has_closed(self, viewer: Viewer | None) -> bool:
        return viewer is not None and not viewer.window.is_running()

    def subscribe_viewer_keyboard_event(self, viewer: Viewer | None, key: KeyboardInput, action: str) -> None:
        if viewer is not None:
            viewer.actions[int(key)] = action

    def subscribe_viewer_mouse_event(self, viewer: Viewer | None, button: MouseInput, action: str) -> None:
        """Accepted; MuJoCo's viewer keeps the mouse for its camera."""

    def query_viewer_action_events(self, viewer: Viewer | None) -> list[ActionEvent]:
        return [] if viewer is None else viewer.action_events()

    def poll_viewer_events(self, viewer: Viewer | None) -> None:
        """Nothing to do: the window has a thread of its own."""

    def viewer_camera_look_at(self, viewer: Viewer | None, env: Any, position: Vec3, target: Vec3) -> None:
        """``env`` does not matter: every environment's origin is the world's."""
        if viewer is not None:
            with viewer.window.lock():
                look_at(viewer.window.cam, position, target)

    def get_viewer_camera_transform(self, viewer: Viewer | None, env: Any) -> Transform:
        return Transform() if viewer is None else camera_pose(viewer.window.cam)

    def step_graphics(self, sim: Any) -> None:
        """Nothing to do: states are read when something is drawn."""

    def draw_viewer(self, viewer: Viewer | None, sim: Any, render_collision: bool = True) -> None:
        """``render_collision`` or not, collision shapes are all there is to draw."""
        if viewer is not None:
            viewer.draw()

    def sync_frame_time(self, sim: Any) -> None:
        """Wait until as much time has passed as in the simulation since the last call."""
        simulated, now = float(sim.simulation.data.time.numpy()[0]), time.perf_counter()
        if self._frame_clock is not None:
            wait = self._frame_clock[0] + simulated - self._frame_clock[1] - now
            if 0.0 < wait < 1.0:
                time.sleep(wait)
                now += wait
        self._frame_clock = (now, simulated)

    def write_viewer_image_to_file(self, viewer: Viewer | None, path: str) -> None:
        if viewer is None:
            raise GymError(f"no image {path}: there is no viewer; a camera sensor draws without one")
        write_png(path, viewer.image())

    def add_lines(self, viewer: Viewer | None, env: Any, num_lines: int, vertices: Any, colors: Any) -> None:
        if viewer is not None:
            ends, shades = (np.ascontiguousarray(each).view(np.float32) for each in (vertices, colors))
            viewer.lines.append((ends.reshape(-1, 2, 3)[:num_lines], shades.reshape(-1, 3)[:num_lines]))

    def clear_lines(self, viewer: Viewer | None) -> None:
        if viewer is not None:
            viewer.lines.clear()

    def set_light_parameters(self, sim: Any, light: int, intensity: Vec3, ambient: Vec3, direction: Vec3) -> None:
        """Accepted; MuJoCo's own light shines."""

    def create_camera_sensor(self, env: Any, properties: CameraProperties) -> int:
        """A handle that is good in every environment."""
        if properties.enable_tensors:
            raise GymError("cameras have no tensors here; leave enable_tensors and take get_camera_image")
        self._cameras.append(Camera(properties))
        return len(self._cameras) - 1

    def set_camera_location(self, camera: int, env: Any, position: Vec3, target: Vec3) -> None:
        self._cameras[camera].mount = None
        look_at(self._cameras[camera].view, position, target)

    def attach_camera_to_body(
        self, camera: int, env: Any, body: int, local_pose: Transform, mode: CameraFollowMode
    ) -> None:
        """From then on the camera moves with a body: x ahead and z up of ``local_pose``, in the body's frame.

        With FOLLOW_POSITION the pose's directions are those of the world, and so is its offset from the body.
        """
        pose = copy.copy(local_pose)
        self._cameras[camera].mount = Mount(body, pose, mode == CameraFollowMode.FOLLOW_TRANSFORM)

    def render_all_camera_sensors(self, sim: Any) -> None:
        """Nothing to do: an image is drawn when it is asked for."""

    def get_camera_image(self, sim: Any, env: Any, camera: int, kind: ImageType) -> np.ndarray:
        """Red, green, blue and opacity side by side, uint8 [height, 4 width]."""
        image = self._camera_image(sim, env, camera, kind)
        return image.reshape(image.shape[0], -1)

    def write_camera_image_to_file(self, sim: Any, env: Any, camera: int, kind: ImageType, path: str) -> None:
        write_png(path, self._camera_image(sim, env, camera, kind))

    def _camera_image(self, sim: Any, env: Any, camera: int, kind: ImageType) -> np.ndarray:
        if kind != ImageType.IMAGE_COLOR:
            raise GymError(f"cameras give IMAGE_COLOR here, not {ImageType(kind).name}")
        if self._states is None or self._states.simulation is not sim.simulation:
            self._states = States(sim.simulation)
        self._states.update()
        return self._cameras[camera].image(self._states, env.index)
