"""Viewer and cameras: absent without a display, and images that show what is there."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from isaacgym import viewer
from isaacgym.drawing import camera_pose, look_at, write_png
from isaacgym.structs import (
    CameraFollowMode,
    CameraProperties,
    GymError,
    ImageType,
    KeyboardInput,
    Quat,
    Transform,
    Vec3,
)
from isaacgym.viewer import ViewerCalls

mujoco: Any = pytest.importorskip("mujoco")

BALLS = """
<mujoco>
  <worldbody>
    <geom type="plane" size="0 0 1" rgba="0 0 1 1"/>
    <body><freejoint/><geom type="sphere" size="0.2" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""


class OnDevice:
    """An array as Warp's: on the host when it is asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


def balls(graphics_device: int = 0) -> SimpleNamespace:
    """A simulation of three environments, each with a red ball 0.5 m high; the last one's is at y = 1 m."""
    qpos = np.tile([0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0], (3, 1))
    qpos[2, 1] = 1.0
    state = {"qpos": qpos, "time": np.zeros(3), "mocap_pos": np.zeros((3, 0, 3)), "mocap_quat": np.zeros((3, 0, 4))}
    data = SimpleNamespace(**{name: OnDevice(values) for name, values in state.items()})
    simulation = SimpleNamespace(mj_model=mujoco.MjModel.from_xml_string(BALLS), data=data)
    return SimpleNamespace(graphics_device=graphics_device, simulation=simulation)


@pytest.mark.parametrize(("device", "said"), [(-1, "graphics_device -1"), (0, "there is no display")])
def test_without_a_display_there_is_no_viewer(
    device: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    gym, sim = ViewerCalls(), balls(device)
    window = gym.create_viewer(sim, CameraProperties())
    (line,) = capsys.readouterr().out.splitlines()
    assert window is None and line.startswith("no viewer: ") and said in line
    gym.subscribe_viewer_keyboard_event(window, KeyboardInput["KEY_V"], "sync")
    gym.viewer_camera_look_at(window, None, Vec3(1.0), Vec3())
    gym.step_graphics(sim)
    gym.draw_viewer(window, sim, True)
    gym.add_lines(window, None, 1, np.zeros((1, 2, 3)), np.zeros((1, 3)))
    gym.clear_lines(window)
    gym.destroy_viewer(window)
    assert gym.query_viewer_action_events(window) == [] and not gym.query_viewer_has_closed(window)
    assert repr(gym.get_viewer_camera_transform(window, None)) == repr(Transform())
    with pytest.raises(GymError, match="there is no viewer; a camera sensor draws without one"):
        gym.write_viewer_image_to_file(window, str(tmp_path / "image.png"))


def test_frames_are_as_far_apart_as_in_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr(viewer.time, "perf_counter", lambda: now)
    monkeypatch.setattr(viewer.time, "sleep", sleep)
    gym, sim = ViewerCalls(), balls()
    for passed, simulated in ((0.0, 0.0), (0.005, 0.02), (0.5, 0.04), (0.0, 0.05)):  # the third comes too late
        now += passed
        sim.simulation.data.time.values[:] = simulated
        gym.sync_frame_time(sim)
    assert slept == pytest.approx([0.015, 0.01])


def test_a_camera_is_where_it_was_put(rng: np.random.Generator) -> None:
    position, target = (Vec3(*rng.normal(size=3)) for _ in range(2))
    camera = mujoco.MjvCamera()
    look_at(camera, position, target)
    pose = camera_pose(camera)
    ahead = pose.inverse().transform_point(target)
    assert (pose.p - position).length() < 1e-6
    assert [ahead.y, ahead.z] == pytest.approx([0.0, 0.0], abs=1e-6) and ahead.x > 0.0
    assert abs(pose.transform_vector(Vec3(0.0, 1.0, 0.0)).z) < 1e-6  # the horizon is level


@pytest.mark.draws
def test_images_show_their_own_environment(tmp_path: Path) -> None:
    gym, sim = ViewerCalls(), balls()
    properties = CameraProperties()
    properties.width, properties.height, properties.horizontal_fov = 64, 48, 60.0
    env = SimpleNamespace(index=0)
    camera = gym.create_camera_sensor(env, properties)
    gym.set_camera_location(camera, env, Vec3(0.0, -2.0, 0.5), Vec3(0.0, 1.0, 0.5))
    sizes = []
    for index, distance in ((0, 2.0), (2, 3.0)):
        image = gym.get_camera_image(sim, SimpleNamespace(index=index), camera, ImageType.IMAGE_COLOR)
        assert (image.shape, image.dtype) == ((48, 4 * 64), np.uint8)
        image = image.reshape(48, 64, 4).astype(int)
        red = image[..., 0] > image[..., 2] + 20
        assert red[24, 32] and not red[40, 4] and image[..., 3].min() == 255
        across = 2.0 * np.tan(np.arcsin(0.2 / distance)) / (2.0 * np.tan(np.radians(30.0))) * 64
        sizes.append(red[24].sum())
        assert sizes[-1] == pytest.approx(across, abs=2.0)
    assert sizes[0] > sizes[1]
    gym.write_camera_image_to_file(sim, env, camera, ImageType.IMAGE_COLOR, str(tmp_path / "image.png"))
    assert struct.unpack(">II", (tmp_path / "image.png").read_bytes()[16:24]) == (64, 48)
    with pytest.raises(GymError, match="cameras give IMAGE_COLOR here, not IMAGE_DEPTH"):
        gym.get_camera_image(sim, env, camera, ImageType.IMAGE_DEPTH)
    properties.enable_tensors = True
    with pytest.raises(GymError, match="cameras have no tensors here"):
        gym.create_camera_sensor(env, properties)


@pytest.mark.draws
@pytest.mark.parametrize("mode", CameraFollowMode)
def test_a_camera_on_a_body_sees_what_one_beside_it_does(rng: np.random.Generator, mode: CameraFollowMode) -> None:
    gym, sim = ViewerCalls(), balls()
    env, properties = SimpleNamespace(index=1), CameraProperties()
    properties.width, properties.height = 64, 48
    turn = Quat.from_euler_zyx(*rng.uniform(-1.0, 1.0, 3))
    qpos = sim.simulation.data.qpos.values
    qpos[1, 3:7] = turn.w, turn.x, turn.y, turn.z
    body = Transform(Vec3(*qpos[1, :3]), turn)
    standing, riding = (gym.create_camera_sensor(env, properties) for _ in range(2))
    gym.set_camera_location(standing, env, Vec3(0.3, -1.5, 1.0), Vec3(0.05, -0.1, 0.5))
    pose = camera_pose(gym._cameras[standing].view)
    local = body.inverse() * pose
    if mode == CameraFollowMode.FOLLOW_POSITION:
        local = Transform(pose.p - body.p, pose.r)
    gym.attach_camera_to_body(riding, env, 0, local, mode)
    images = [gym.get_camera_image(sim, env, camera, ImageType.IMAGE_COLOR) for camera in (standing, riding)]
    red = images[0].reshape(48, 64, 4)[..., 0]
    assert red.max() > red.min()
    assert np.abs(np.subtract(*images, dtype=float)).mean() < 0.5  # edges may fall on other sides of a pixel


def test_a_png_holds_the_image(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (5, 7, 4), np.uint8)
    write_png(tmp_path / "image.png", image)
    data = (tmp_path / "image.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (7, 5)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    body = data[start + 4 : start + 4 + length]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(5, 1 + 7 * 4)
    assert (rows[:, 1:].reshape(5, 7, 4) == image).all() and not rows[:, 0].any()
    assert struct.unpack(">I", data[start + 4 + length : start + 8 + length])[0] == zlib.crc32(b"IDAT" + body)
