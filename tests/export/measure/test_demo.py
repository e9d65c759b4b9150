"""The demo: the path of the root, the feet on the ground, the pictures, and what it says when it cannot draw."""

from __future__ import annotations

import ctypes.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmg_export.demo import __main__ as demo
from cmg_export.demo.gait import gait_period, generate_gaits, integrate_command
from cmg_export.demo.pictures import save_gif
from cmg_export.demo.scene import open_renderer
from cmg_export.demo.stage import Stage
from cmg_export.errors import ExportError
from cmg_export.read.robot import RobotModel, g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from cmg_runtime import load_engine, read_manifest
from cmg_runtime.folder.manifest import CommandRange
from engine_folder import SEED, make_engine_folder
from full_disk import largest_file

needs_g1 = pytest.mark.skipif(g1_model() is None, reason="mjlab, which has the G1's model, is not installed")


@pytest.fixture(scope="module")
def g1_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained engine for a G1, whose command range is narrower than the demo's commands."""
    folder = tmp_path_factory.mktemp("engine")
    make_engine_folder(folder, SEED, precisions=("fp32",), num_joints=29, hidden_dim=32)
    path, narrow = g1_model(), CommandRange((-0.25, -0.5, -0.5), (0.75, 0.5, 0.5), "card")
    assert path is not None
    robot = RobotModel(path).chain(JOINT_NAMES)
    manifest = replace(read_manifest(folder), joint_names=JOINT_NAMES, robot=robot, command_range=narrow)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def test_integrated_command_is_the_limit_of_small_steps(rng: np.random.Generator) -> None:
    for command in [*rng.uniform(-2, 2, (5, 3)), np.array([0.7, -0.3, 0.0])]:
        poses, substeps = integrate_command(command.tolist(), 101, 50.0), 2000
        heading = command[2] * (np.arange(2 * substeps) + 0.5) / substeps  # two seconds, midpoint rule
        position = ((command[0] + 1j * command[1]) * np.exp(1j * heading)).cumsum() / substeps
        assert poses[0].tolist() == [0, 0, 0]
        for pose, at, seconds in ((poses[-1], position[-1], 2), (poses[50], position[substeps - 1], 1)):
            np.testing.assert_allclose(pose, [at.real, at.imag, seconds * command[2]], atol=1e-5)


def test_gait_period_is_one_cycle(rng: np.random.Generator) -> None:
    for period in rng.integers(20, 70, size=8).tolist():
        time = np.arange(160)[:, None] / period
        cycle, double = (np.sin(2 * np.pi * (k * time + rng.uniform(0, 1, 29))) for k in (1, 2))
        motion = rng.uniform(0.1, 0.5, 29) * cycle + 0.1 * double + 0.002 * rng.standard_normal((160, 29))
        assert abs(gait_period(torch.from_numpy(motion)) - period) <= 1


@pytest.mark.slow
@needs_g1
def test_lowest_point_of_the_feet_is_on_the_ground(g1_engine: Path) -> None:
    """MuJoCo's own kinematics and foot geometry say so."""
    mujoco = pytest.importorskip("mujoco")
    gaits = generate_gaits(load_engine(g1_engine, 1), num_frames=9, seed=SEED)
    model = mujoco.MjModel.from_xml_path(str(g1_model()))
    data = mujoco.MjData(model)
    feet = [g for g in range(model.ngeom) if "foot" in model.geom(g).name]
    addresses = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
    for gait in gaits:
        assert gait.dof_pos.shape == (9, 29)
        for dof_pos, (x, y, z, heading) in zip(gait.dof_pos.numpy(), gait.root.tolist(), strict=True):
            data.qpos[:7] = x, y, z, np.cos(heading / 2), 0, 0, np.sin(heading / 2)
            data.qpos[addresses] = dof_pos
            mujoco.mj_kinematics(model, data)
            lying = [abs(data.geom_xmat[g].reshape(3, 3)[2, 2]) * model.geom_size[g][1] for g in feet]  # of capsules
            lowest = min(
                data.geom_xpos[g][2] - half - model.geom_size[g][0] for g, half in zip(feet, lying, strict=True)
            )
            assert lowest == pytest.approx(0, abs=1e-6)


@needs_g1
def test_gaits_are_the_engines_own_and_keep_to_its_command_range(g1_engine: Path) -> None:
    engine = load_engine(g1_engine, 1)
    gaits = generate_gaits(engine, num_frames=7, seed=SEED)
    assert [gait.name for gait in gaits] == ["forward", "backward", "sideways", "turning"]
    expected = [(0.75, 0, 0), (-0.25, 0, 0), (0, 0.5, 0), (0.6, 0, 0.5)]
    np.testing.assert_allclose([gait.command for gait in gaits], expected, atol=1e-6)
    assert not torch.equal(gaits[0].dof_pos, gaits[1].dof_pos)
    again, *others = (generate_gaits(engine, 7, SEED + more) for more in range(6))
    assert torch.equal(again[2].dof_pos, gaits[2].dof_pos)
    # One other seed may come to the same state of the bank; so many do not.
    assert not all(torch.equal(other[2].dof_pos, gaits[2].dof_pos) for other in others)


@pytest.mark.slow
@needs_g1
def test_command_line_refuses_in_one_line(
    g1_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_robot = tmp_path / "no_robot"
    make_engine_folder(no_robot, SEED, precisions=("fp32",), num_joints=4, hidden_dim=16)
    out = tmp_path / "pictures"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)  # what is wrong is said where nothing draws
    given = {"libosmesa6": (g1_engine,), "robot": (no_robot,), "--seconds": (g1_engine, "--seconds", "61")}
    for message, wrong in given.items():
        assert demo.main(["--engine", *map(str, wrong), "--out", str(out)]) == 2
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1 and said.out == "" and not out.exists()


def test_a_machine_that_cannot_draw_is_one_line() -> None:
    def renderer(*_: object) -> None:
        raise RuntimeError("no context")

    with pytest.raises(ExportError, match="MuJoCo cannot draw with MUJOCO_GL=.*RuntimeError: no context"):
        open_renderer(SimpleNamespace(Renderer=renderer), None, (64, 48))


def test_gif_has_every_picture_at_the_right_speed_or_stays(tmp_path: Path, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 256, (7, 3), dtype=np.uint8)
    stripes = np.repeat(colours, 5, axis=0)
    frames = [np.tile(np.roll(stripes, 5 * k, axis=0), (17, 1, 1)) for k in range(7)]  # 17 rows, 35 columns
    save_gif([Image.fromarray(frame) for frame in frames], tmp_path / "a.gif", fps=25)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.size, gif.info["duration"], gif.info["loop"]) == ((35, 17), 40, 0)
        for k, frame in enumerate(frames):
            gif.seek(k)
            np.testing.assert_allclose(np.asarray(gif.convert("RGB")).astype(int), frame.astype(int), atol=8)
        with pytest.raises(EOFError):
            gif.seek(len(frames))
    sound = (tmp_path / "a.gif").read_bytes()
    noise = [Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(4)]
    with largest_file(2000), pytest.raises(OSError, match="a.gif"):
        save_gif(noise, tmp_path / "a.gif", fps=25)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [sound]  # what cannot be written leaves the old one


@pytest.mark.slow
@needs_g1
@pytest.mark.draws
def test_stage_draws_the_robot_and_the_line() -> None:
    line, standing, imported = [(0.3, 0.0), (0.8, 0.0)], (0.0, 0.0, 0.78, 0.0), "mjlab" in sys.modules
    with Stage(JOINT_NAMES, (90, 120)) as stage:

        def drawn_at(root: tuple[float, ...], path: list[tuple[float, float]]) -> np.ndarray:
            return np.asarray(stage.draw(default_dof_pos(), root, path)).astype(int)

        front, with_line = drawn_at(standing, line[:1]), drawn_at(standing, line)
        back, away = drawn_at((*standing[:3], np.pi), line[:1]), drawn_at((0.0, 0.0, 50.0, 0.0), line[:1])
    assert front.shape == (120, 90, 3)
    assert ("mjlab" in sys.modules) == imported  # only its files are read: importing it starts a simulator

    def changed(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.abs(a - b).max(axis=-1) > 40).mean())

    assert changed(front, away) > 0.05  # the robot and its shadow
    assert changed(front, back) > 0.01  # seen from the other side
    drawn = np.abs(with_line - front).max(axis=-1) > 40
    assert 10 < drawn.sum() < 600
    red, green, blue = with_line[drawn].mean(axis=0)
    assert green > red + 30 and green > blue + 30
