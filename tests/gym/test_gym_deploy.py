"""The deployed control loop: by itself, in plain MuJoCo, from its files alone, and where something goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from cmg_gym import latency, sim2sim
from cmg_gym.controller import Controller, Proprioception
from cmg_gym.generator import Generator
from cmg_gym.policy_card import read_card
from cmg_gym.simulated_robot import SimulatedRobot
from cmg_runtime import EngineError, load_engine
from gym_case import BUNDLED_POLICY, deployable_engine
from python_process import run_python

pytestmark = pytest.mark.xdist_group("gym")

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
NUM_JOINTS, PERIOD_S = 29, 0.02


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller(BUNDLED_POLICY, deployable_engine())


@pytest.fixture(scope="module")
def robot() -> SimulatedRobot:
    return SimulatedRobot(read_card(BUNDLED_POLICY))


def standing(**changes: np.ndarray) -> Proprioception:
    pose = np.array(read_card(BUNDLED_POLICY).default_dof_pos)
    upright = Proprioception(np.zeros(3), np.array([0.0, 0.0, -1.0]), pose, np.zeros(NUM_JOINTS))
    return replace(upright, **changes)


def commands_of_a_joystick(rng: np.random.Generator, num_steps: int) -> np.ndarray:
    """[num_steps, 3]: held for up to forty steps, some beyond the range, and changed in the middle of a ramp too."""
    lengths = rng.integers(1, 40, num_steps)
    return np.repeat(rng.uniform(-1.6, 1.6, (num_steps, 3)), lengths, axis=0)[:num_steps]


def test_the_frames_of_one_robot_are_the_engines(rng: np.random.Generator) -> None:
    ahead = 10
    generator = Generator(deployable_engine(), ahead, 0.5)
    engine = load_engine(
        deployable_engine(), 1, "cpu", backend="torch", horizon=ahead + 1, command_ramp_s=0.5, key_bodies=()
    )
    motion = engine.bank[int(rng.integers(len(engine.bank)))]
    generator.reset(motion.numpy(), (0.0, 0.0, 0.0))
    engine.reset(motion=motion)
    for command in commands_of_a_joystick(rng, 200):
        generator.step(command)
        engine.step()
        engine.set_command(command)
        frames = engine.future(range(ahead + 1))
        expected = torch.cat([frames.dof_pos, frames.dof_vel], dim=2)[0].numpy()
        np.testing.assert_allclose(generator.command_at(0), engine.command_in_force[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(generator.frames, expected, atol=5e-3, rtol=5e-3)


@pytest.mark.slow
def test_the_files_and_the_page_are_enough(controller: Controller, rng: np.random.Generator, tmp_path: Path) -> None:
    """The page's last piece of Python, in a process that can import nothing of the project and no torch."""
    num_steps = 120
    pose = np.array(controller.card.default_dof_pos)
    inputs = {
        "commands": commands_of_a_joystick(rng, num_steps),
        "base_ang_vel": rng.normal(0, 0.3, (num_steps, 3)),
        "projected_gravity": rng.normal((0, 0, -1), 0.02, (num_steps, 3)),
        "dof_pos": pose + rng.normal(0, 0.1, (num_steps, NUM_JOINTS)),
        "dof_vel": rng.normal(0, 1, (num_steps, NUM_JOINTS)),
    }
    shutil.copytree(BUNDLED_POLICY, tmp_path / "policy")
    (tmp_path / "engine").mkdir()
    for name in ("cmg_fp32.onnx", "manifest.json"):
        shutil.copy(deployable_engine() / name, tmp_path / "engine")
    np.savez(tmp_path / "inputs.npz", **inputs)  # pyright: ignore[reportArgumentType]
    code = re.findall(r"```python\n(.*?)```", DEPLOY.read_text(), re.DOTALL)[-1]
    (tmp_path / "loop.py").write_text(
        f"{code}\n\n"
        "import sys\n"
        "given, loop = np.load('inputs.npz'), Loop('policy', 'engine')\n"
        "np.save('targets.npy', [loop.step(*row) for row in zip(*(given[name] for name in given.files))])\n"
        "assert not {'torch', 'cmg_gym', 'cmg_runtime', 'CMG_Ref'} & set(sys.modules)\n"
    )
    ran = run_python("loop.py", cwd=tmp_path, PYTHONPATH="")
    assert ran.returncode == 0, ran.stderr
    controller.reset()
    expected = [
        controller.step(command, Proprioception(*felt)) for command, *felt in zip(*inputs.values(), strict=True)
    ]
    assert controller.fault is None
    # Two forms of one sum of rounded numbers; a wrong frame or term is tenths of a radian away.
    np.testing.assert_allclose(np.load(tmp_path / "targets.npy"), expected, atol=1e-4)


def test_what_is_prepared_is_the_same_step(controller: Controller, rng: np.random.Generator) -> None:
    """Also where another command was prepared, and where nothing was."""
    commands = commands_of_a_joystick(rng, 80)
    felt = [standing(dof_vel=rng.normal(0, 1, NUM_JOINTS)) for _ in commands]
    controller.reset()
    expected, references = [], []
    for command, robot in zip(commands, felt, strict=True):
        expected.append(controller.step(command, robot).copy())
        references.append(np.concatenate(controller.reference(10)))
    controller.reset()
    for number, (command, robot) in enumerate(zip(commands, felt, strict=True)):
        if number == 0 or (command != commands[number - 1]).any():
            controller.prepare(rng.uniform(-1.0, 1.0, 3))
        if rng.random() < 0.8:
            controller.prepare(command)
            np.testing.assert_array_equal(np.concatenate(controller.reference(10)), references[number])
        np.testing.assert_array_equal(controller.step(command, robot), expected[number])
    controller.prepare([np.nan, 0.0, 0.0])
    with pytest.raises(EngineError, match="command has shape"):
        controller.prepare([0.0])
    assert controller.fault is None and controller.ignored_commands == 0


class WiredRobot:
    """What the page's first piece of Python calls ``robot``, on a clock of its own: 60 steps, of which one is late."""

    def __init__(self, body: SimulatedRobot) -> None:
        self.body, self.seconds, self.steps = body, 0.0, 0
        body.reset()

    @property
    def on(self) -> bool:
        return self.steps < 60

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def gyroscope(self) -> np.ndarray:
        return self.body.proprioception().base_ang_vel

    def gravity(self) -> np.ndarray:
        """As the page makes it of an IMU's quaternion."""
        w, x, y, z = self.body.data.xquat[self.body.root_body]
        return np.array([2 * (w * y - x * z), -2 * (w * x + y * z), 2 * (x * x + y * y) - 1])

    def positions(self, names: tuple[str, ...]) -> np.ndarray:
        return self.body.data.qpos[[self.body.model.joint(f"robot/{name}").qposadr[0] for name in names]]

    def velocities(self, names: tuple[str, ...]) -> np.ndarray:
        return self.body.data.qvel[[self.body.model.joint(f"robot/{name}").dofadr[0] for name in names]]

    def send(self, names: tuple[str, ...], target: np.ndarray, kp: np.ndarray, kd: np.ndarray) -> None:
        assert len(names) == len(target) == len(kp) == len(kd) == NUM_JOINTS
        np.testing.assert_allclose(self.gravity(), self.body.proprioception().projected_gravity, atol=1e-9)
        self.body.step(target, kp)
        self.steps += 1
        self.seconds += 0.001 if self.steps != 30 else 0.06


def test_the_pages_loop_walks(robot: SimulatedRobot) -> None:
    first = re.findall(r"```python\n(.*?)```", DEPLOY.read_text(), re.DOTALL)[0]
    code = first.replace("import time\n", "").replace('"engines/g1_all"', repr(str(deployable_engine())))
    code = code.replace('"legged_gym/policies/g1_all"', repr(str(BUNDLED_POLICY)))
    wired = WiredRobot(robot)
    clock = SimpleNamespace(monotonic=lambda: wired.seconds, sleep=wired.sleep)
    names = {"robot": wired, "joystick": lambda: (0.8, 0.0, 0.0), "time": clock}
    exec(code, names)
    controller: Any = names["controller"]
    assert (controller.fault, controller.late_steps, controller.ignored_commands) == (None, 1, 0)
    assert robot.upright and robot.heading_velocity[0] > 0.3
    assert abs(wired.seconds - (59 * PERIOD_S + 0.04 + 0.001)) < 1e-6  # a step of 60 ms, and no hurry after it


def test_the_simulated_robot_has_the_cards_actuators(robot: SimulatedRobot, rng: np.random.Generator) -> None:
    card, model = robot.card, robot.model
    robot.reset()
    assert robot.upright and robot.tilt < 1e-6
    target = np.array(card.default_dof_pos) + rng.uniform(-2, 2, NUM_JOINTS)
    dof_vel = rng.uniform(-1, 1, NUM_JOINTS)
    robot.reset(dof_vel=dof_vel)
    felt = robot.proprioception()
    torque = np.array(card.kp) * (target - felt.dof_pos) - np.array(card.kd) * dof_vel
    limit = np.array(card.effort_limit)
    assert (np.abs(torque) > limit).any()
    # The motors' torques of where the robot is now: one step of physics that is undone.
    robot.decimation, decimation = 1, robot.decimation
    before = robot.data.qpos.copy(), robot.data.qvel.copy()
    robot.step(target)
    robot.decimation = decimation
    robot.data.qpos[:], robot.data.qvel[:] = before
    mujoco.mj_forward(model, robot.data)  # pyright: ignore[reportAttributeAccessIssue]
    joints = [model.joint(f"robot/{name}").dofadr[0] for name in card.joint_names]
    np.testing.assert_allclose(robot.data.qfrc_actuator[joints], np.clip(torque, -limit, limit), atol=1e-6)
    np.testing.assert_allclose(model.dof_armature[joints], card.armature)


def test_velocities_are_in_the_heading_frame(robot: SimulatedRobot) -> None:
    robot.reset(root_vel=(0.5, 0.2, 0.0), root_ang_vel=(0.0, 0.0, 0.4), heading=2.1)
    np.testing.assert_allclose(robot.heading_velocity, (0.5, 0.2, 0.4), atol=1e-9)
    np.testing.assert_allclose(robot.data.qvel[:2], (0.5 * np.cos(2.1) - 0.2 * np.sin(2.1),
                                                     0.5 * np.sin(2.1) + 0.2 * np.cos(2.1)))  # fmt: skip
    robot.push((0.3, -0.1, 0.0, 0.0, 0.0, 0.2))
    np.testing.assert_allclose(robot.heading_velocity, (0.8, 0.1, 0.6), atol=1e-9)
    felt = robot.proprioception()
    np.testing.assert_allclose(felt.base_ang_vel, (0, 0, 0.6), atol=1e-6)
    np.testing.assert_allclose(felt.projected_gravity, (0, 0, -1), atol=1e-9)


@pytest.mark.slow
def test_it_walks_is_pushed_and_is_damped(controller: Controller, robot: SimulatedRobot) -> None:
    controller.reset()
    robot.reset()
    velocities = []
    for step in range(300):
        if step == 150:
            robot.push((0.0, 0.4))
        robot.step(controller.step((0.8, 0, 0), robot.proprioception(), step * PERIOD_S), controller.kp)
        velocities.append(robot.heading_velocity)
    assert robot.upright and controller.fault is None and controller.late_steps == 0
    np.testing.assert_allclose(np.mean(velocities[200:], axis=0)[:2], (0.8, 0.0), atol=0.15)
    broken = replace(robot.proprioception(), base_ang_vel=np.full(3, np.nan))
    robot.step(controller.step((0.8, 0, 0), broken), controller.kp)
    for _ in range(250):
        robot.step(controller.step((0.8, 0, 0), robot.proprioception()), controller.kp)
    assert not robot.upright and robot.height > 0  # it sank down, and lies
    assert np.abs(robot.proprioception().dof_vel).max() < 1.0


@pytest.mark.slow
def test_sim2sim_over_a_short_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{sim2sim.BEGIN}\nold\n{sim2sim.END}\nafter\n")
    given = ["--engine", str(deployable_engine()), "--out", str(tmp_path), "--document", str(page), "--pushes"]
    commands = ["--commands", "0.8", "0", "0", "0", "0", "0"]
    assert sim2sim.main([*given, *commands, "--episodes", "2", "--seconds", "4"]) == 0
    results = json.loads((tmp_path / "sim2sim.json").read_text())["results"]
    assert [result["command"] for result in results] == [[0.8, 0, 0], [0, 0, 0]]
    for result in results:
        assert result["survival"] >= 0.5 and result["velocity_error"] < 0.4 and result["joint_error"] < 0.3
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| +0.80 | +0.00 | +0.00 | 100 % / 100 % |" in text or "| 50 % / 100 %" in text
    with_pushes = ["--warp", str(BUNDLED_POLICY / "evaluation_pushes.json")]
    assert sim2sim.main([given[0], given[1], *commands, *with_pushes]) == 2
    assert "to compare with (it is of episodes with pushes)" in capsys.readouterr().err
    page.write_text("no place")
    assert sim2sim.main([*given, *commands]) == 2
    assert "has no place for the table" in capsys.readouterr().err


def test_latency_says_what_a_step_takes(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    given = ["--engine", str(deployable_engine()), "--steps", "20", "--paced-steps", "10"]
    assert latency.main(given) == 0
    assert time.perf_counter() - began > 4 * 10 * PERIOD_S
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["one after the other"] * 4 + ["50 a second"] * 4
    for row in rows:
        p50, p99, most = map(float, row[3:6])
        assert 0 < p50 <= p99 <= most
        slow, count = map(int, row[6].split("of"))
        assert 0 <= int(row[7]) <= slow <= count and (slow > 0) == (most > 1)


def test_latency_says_whose_core_it_was() -> None:
    ours, others = np.array([0.4, 2.0, 3.0, 0.9, 1.5]), np.array([0.0, 0.0, 1.7, 0.2, 0.9])
    *_, slow, undisturbed, of_the_core = latency.figures(1e-3 * ours, 1e-3 * (ours - others))
    assert (slow, undisturbed) == ("3 of 5", "1") and of_the_core.endswith("2.000")
