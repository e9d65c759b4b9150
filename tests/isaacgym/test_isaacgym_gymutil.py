"""Command lines as legged_gym reads them, settings from dictionaries, and lines."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from isaacgym import gymtorch, gymutil
from isaacgym.structs import GymError, Quat, SimParams, SimType, Transform, UpAxis, Vec3

PARAMETERS = (
    {"name": "--task", "type": str, "default": "walk", "help": "which"},
    {"name": "--resume", "action": "store_true", "default": False, "help": "go on"},
    {"name": "--headless", "action": "store_true", "default": False},
    {"name": "--num_envs", "type": int, "help": "how many"},
    {"name": "--rl_device", "type": str, "default": "cuda:0"},
)


def parse(monkeypatch: pytest.MonkeyPatch, words: str, **options: object) -> dict[str, object]:
    monkeypatch.setattr(sys, "argv", ["play.py", *words.split()])
    return vars(gymutil.parse_arguments("a task", custom_parameters=PARAMETERS, **options))  # type: ignore[arg-type]


def test_what_follows_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse(monkeypatch, "--task run --num_envs 12 --sim_device cuda:1 --headless")
    expected = {
        "task": "run", "resume": False, "headless": True, "num_envs": 12, "rl_device": "cuda:0",
        "sim_device_type": "cuda", "compute_device_id": 1, "use_gpu": True, "use_gpu_pipeline": True,
        "physics_engine": SimType.SIM_PHYSX,
        "num_threads": 0, "subscenes": 0, "slices": 0, "graphics_device_id": 0, "pipeline": "gpu",
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
    assert capsys.readouterr().out == ""
    args = parse(monkeypatch, "--sim_device cpu")
    assert args["num_envs"] is None and args["sim_device_type"] == "cpu"
    assert not args["use_gpu"] and not args["use_gpu_pipeline"]
    assert "--pipeline cpu is used" in capsys.readouterr().out
    args = parse(monkeypatch, "--pipeline cpu --subscenes 3")
    assert (args["use_gpu"], args["use_gpu_pipeline"], args["slices"]) == (True, False, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--flex", "--flex: MuJoCo Warp is the only engine here"),
        ("--pipeline tpu", "--pipeline tpu: expected cpu or gpu"),
        ("--num_env 3 --taks x", "unrecognized arguments: --taks x"),
    ],
)
def test_wrong_options_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        parse(monkeypatch, words)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_wrong_devices_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gymutil.parse_device_str("cuda") == ("cuda", 0) and gymutil.parse_device_str("cuda:12") == ("cuda", 12)
    for word in ("gpu", "cuda:x", "cuda0", ""):
        with pytest.raises(GymError, match=f"invalid device {word!r}; expected cpu, cuda or cuda:INDEX"):
            gymutil.parse_device_str(word)
    monkeypatch.setattr(sys, "argv", ["play.py"])
    for parameter in ({"name": "--x"}, {"type": int}, {"name": "--x", "type": int, "defualt": 1}):
        with pytest.raises(GymError, match="a custom parameter has name, type or action"):
            gymutil.parse_arguments(custom_parameters=[parameter])


def test_settings_from_a_dictionary() -> None:
    params = SimParams()
    config = {
        "dt": 0.005, "substeps": 1, "gravity": [0.0, 0.0, -9.81], "up_axis": 1, "mujoco": {"nconmax": 30},
        "physx": {"num_threads": 10, "contact_offset": 0.01, "contact_collection": 2, "max_gpu_contact_pairs": 2**23},
    }  # fmt: skip
    gymutil.parse_sim_config(config, params)
    assert (params.dt, params.substeps, params.up_axis, params.gravity.z) == (0.005, 1, UpAxis.UP_AXIS_Z, -9.81)
    assert (params.mujoco.nconmax, params.physx.num_threads, params.physx.contact_offset) == (30, 10, 0.01)
    with pytest.warns(UserWarning, match=r"sim.physx.num_thread is no parameter of the simulation"):
        gymutil.parse_sim_config({"physx": {"num_thread": 1}}, params)


class Recorder:
    """Stands for a gym: keeps what is drawn."""

    def add_lines(self, viewer: object, env: object, num_lines: int, vertices: np.ndarray, colors: np.ndarray) -> None:
        assert vertices.shape == (num_lines, 2, 3) and colors.shape == (num_lines, 3) and colors.dtype == np.float32
        self.vertices, self.colors = vertices, colors


def test_lines_lie_where_the_pose_puts_them(rng: np.random.Generator) -> None:
    pose = Transform(Vec3(*rng.normal(size=3)), Quat(*rng.normal(size=4)).normalize())
    gym = Recorder()
    gymutil.draw_lines(gymutil.WireframeSphereGeometry(0.3, 4, 6, None, color=(1, 1, 0)), gym, None, None, pose)
    assert np.allclose(np.linalg.norm(gym.vertices - [*pose.p], axis=-1), 0.3, atol=1e-5)
    assert len(gym.vertices) == 4 * 6 + 3 * 6 and (gym.colors == [1, 1, 0]).all()
    gymutil.draw_lines(gymutil.WireframeBoxGeometry(1.0, 2.0, 3.0), gym, None, None, None)
    assert sorted(np.abs(gym.vertices[:, 1] - gym.vertices[:, 0]).sum(axis=-1)) == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    assert (np.abs(gym.vertices).reshape(-1, 3) == [0.5, 1.0, 1.5]).all()
    gymutil.draw_lines(gymutil.AxesGeometry(0.1), gym, None, None, pose)
    expected = [[*pose.transform_point(Vec3(*unit))] for unit in 0.1 * np.eye(3)]
    assert np.allclose(gym.vertices[:, 1], expected, atol=1e-5) and (gym.colors == np.eye(3)).all()
    gymutil.draw_line(Vec3(1.0), Vec3(2.0), Vec3(0.0, 1.0), gym, None, None)
    assert gym.vertices.tolist() == [[[1, 0, 0], [2, 0, 0]]] and gym.colors.tolist() == [[0, 1, 0]]


def test_tensors_stay_where_they_are() -> None:
    states = torch.zeros(6, 13)
    assert gymtorch.wrap_tensor(states).data_ptr() == gymtorch.unwrap_tensor(states).data_ptr() == states.data_ptr()
    with pytest.raises(GymError, match=r"a contiguous tensor was expected, not one of shape \(6, 3\)"):
        gymtorch.unwrap_tensor(states[:, :3])
    with pytest.raises(GymError, match="takes no offsets and counts"):
        gymtorch.wrap_tensor(states, offsets=(0,), counts=(1,))
