"""The reference window against a plain rollout of each environment in float64, with MuJoCo's kinematics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from cmg_export.read.robot import RobotModel, g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime import Engine, load_engine
from engine_folder import SEED, Truth, make_engine_folder, state
from mujoco_kinematics import MujocoKinematics
from plain_rollout import PlainEnvironment, Robot
from window_case import DEVICES, check_frame, one_frame, random_robot_case

OPERATION = st.tuples(
    st.sampled_from(["step", "step", "steps", "reset", "set_command", "both", "future", "frames"]),
    st.sampled_from(["ids", "mask", "all"]),
    st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize("device", DEVICES)
@seed(SEED)
@settings(max_examples=20, deadline=None, database=None)
@given(
    horizon=st.sampled_from([2, 3, 7, 96]),
    num_envs=st.sampled_from([1, 3, 17]),
    ramp_s=st.sampled_from([0.0, 0.07, 0.5, 3.0]),
    operations=st.lists(OPERATION, min_size=1, max_size=14),
)
def test_random_interleavings_agree_with_plain_rollouts(
    device: str, horizon: int, num_envs: int, ramp_s: float, operations: list[tuple[str, str, int]]
) -> None:
    folder, truth, robot = random_robot_case()
    engine = load_engine(
        folder, num_envs, device, backend="torch", precision="fp32", horizon=horizon, command_ramp_s=ramp_s
    )
    plain = [PlainEnvironment(truth, robot, ramp_s) for _ in range(num_envs)]
    generator = torch.Generator().manual_seed(SEED)
    reset(engine, plain, truth, generator, list(range(num_envs)), None, command=False)
    for action, form, number in operations:
        rng = np.random.default_rng(number)
        generator.manual_seed(number)
        chosen = sorted(rng.permutation(num_envs)[: rng.integers(num_envs + 1)].tolist())
        env_ids: Any = chosen
        if form == "all":
            chosen, env_ids = list(range(num_envs)), None
        elif form == "mask":
            env_ids = torch.zeros(num_envs, dtype=torch.bool, device=device)
            env_ids[chosen] = True
        if action in ("step", "steps"):
            for _ in range(1 if action == "step" else int(rng.integers(horizon + 2) % 20)):
                engine.step()
                for env in plain:
                    env.step()
        elif action in ("reset", "both"):
            reset(engine, plain, truth, generator, chosen, env_ids, command=action == "both")
        elif action == "set_command":
            wanted = 1.5 * truth.commands(num_envs, generator)
            engine.set_command(rows_for(wanted, chosen, env_ids), env_ids)
            for i in chosen:
                plain[i].set_command(wanted[i].numpy())
        elif action == "future":
            offsets = rng.integers(0, horizon, rng.integers(1, 4)).tolist()
            frames = engine.future(offsets)
            assert frames.dof_pos.shape == (num_envs, len(offsets), 5)
            for i in range(num_envs):
                for k, offset in enumerate(offsets):
                    check_frame(robot, plain[i], offset, one_frame(frames, (i, k)))
        else:
            ids, offsets = rng.integers(0, num_envs, 4), rng.integers(0, horizon, 4)
            frames = engine.frames(torch.tensor(ids, device=device), torch.tensor(offsets, device=device))
            for row in range(4):
                check_frame(robot, plain[ids[row]], int(offsets[row]), one_frame(frames, row))
        expected = torch.tensor(np.stack([env.frame(0).motion for env in plain]))
        assert truth.error(state(engine), expected) < 2e-4
        in_force = np.stack([env.in_force(env.time) for env in plain])
        np.testing.assert_allclose(engine.command_in_force.cpu(), in_force, atol=1e-5)
    last = engine.future([0, horizon - 1])
    for i in range(num_envs):
        check_frame(robot, plain[i], 0, one_frame(last, (i, 0)))
        check_frame(robot, plain[i], horizon - 1, one_frame(last, (i, 1)))


def rows_for(values: torch.Tensor, chosen: list[int], env_ids: Any) -> torch.Tensor:
    """Rows as a call with these env_ids takes them: for a mask one per environment."""
    return values[chosen] if isinstance(env_ids, list) else values


def reset(
    engine: Engine,
    plain: list[PlainEnvironment],
    truth: Truth,
    generator: torch.Generator,
    chosen: list[int],
    env_ids: Any,
    command: bool,
) -> None:
    n = engine.num_envs
    motion, wanted = truth.states(n, generator), 1.5 * truth.commands(n, generator)
    root_pos = 6 * torch.rand(n, 3, generator=generator) - 3
    root_rot = torch.randn(n, 4, generator=generator)  # any attitude and length: its heading counts
    forms = [rows_for(value, chosen, env_ids) for value in (motion, wanted, root_pos, root_rot)]
    engine.reset(env_ids, forms[0], forms[1] if command else None, root_pos=forms[2], root_rot=forms[3])
    for i in chosen:
        w, x, y, z = root_rot[i].double().numpy()
        forward = np.array([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)])  # the turned x axis, on the ground
        plain[i].reset(motion[i].double().numpy(), root_pos[i].numpy(), float(np.arctan2(forward[1], forward[0])))
        if command:
            plain[i].set_command(wanted[i].numpy())
            plain[i].place_again()


@pytest.mark.skipif(g1_model() is None, reason="mjlab is not installed")
@pytest.mark.parametrize("device", DEVICES)
def test_a_g1s_window_agrees_with_mujoco(tmp_path: Path, device: str, generator: torch.Generator) -> None:
    path = g1_model()
    assert path is not None
    chain = RobotModel(path).chain(JOINT_NAMES)
    truth = make_engine_folder(tmp_path, SEED, ("fp32",), robot=chain, joint_names=JOINT_NAMES, hidden_dim=24)
    names = ("left_knee_link", "right_ankle_roll_link", "left_elbow_link", "torso_link")
    engine = load_engine(tmp_path, 3, device, "torch", "fp32", horizon=20, key_bodies=names)
    assert engine.key_body_names == names
    kinematics = MujocoKinematics(path, JOINT_NAMES, "pelvis")
    robot = Robot(kinematics, chain)
    engine.reset(motion=truth.states(3, generator), command=truth.commands(3, generator), root_pos=[1.0, 2.0, 0.3])
    for _ in range(7):
        engine.step()
    frames = engine.future(range(20))
    assert frames.key_body_pos.shape == (3, 20, 4, 3)
    for i in range(3):
        for k in range(20):
            seen = one_frame(frames, (i, k))
            assert seen["root_pos"][2] == pytest.approx(0.3 + robot.height(seen["dof_pos"]), abs=1e-5)
            kinematics.set(seen["dof_pos"])
            expected = [kinematics.pose(name)[0] for name in names]
            np.testing.assert_allclose(seen["key_body_pos"], expected, atol=1e-5)
