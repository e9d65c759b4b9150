"""The reference window against a plain rollout of each environment in float64, with MuJoCo's kinematics."""

from __future__ import annotations

import dataclasses
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
from devices import DEVICES, rough_products
from engine_folder import COMPILED, SEED, make_engine_folder, state
from mujoco_kinematics import MujocoKinematics
from plain_rollout import PlainEnvironment, Robot
from window_case import check_frame, load, one_frame, quiet_report, random_robot_case

OPERATION = st.tuples(
    st.sampled_from(["step", "step", "steps", "reset", "set_command", "same again", "both", "at once", "frames"]),
    st.sampled_from(["ids", "mask", "all"]),
    st.integers(0, 2**32 - 1),
)
ANY_LENGTH = np.array([1.0, 3e19, 1e-23, 1e30, 1e-30])


@pytest.mark.parametrize("device", DEVICES)
@seed(SEED)
@settings(max_examples=20, deadline=None, database=None)
@given(
    horizon=st.sampled_from([2, 3, 7, 40]),
    num_envs=st.sampled_from([1, 3, 9]),
    ramp_s=st.sampled_from([0.0, 0.07, 0.5, 3.0]),
    operations=st.lists(OPERATION, min_size=1, max_size=14),
)
def test_random_interleavings_agree_with_plain_rollouts(
    device: str, horizon: int, num_envs: int, ramp_s: float, operations: list[tuple[str, str, int]]
) -> None:
    _, truth, robot = random_robot_case()
    engine = load(device, "torch", num_envs, "fp32", horizon=horizon, command_ramp_s=ramp_s)
    plain = [PlainEnvironment(truth, robot, ramp_s) for _ in range(num_envs)]
    low, high = truth.low.float(), truth.high.float()
    generator = torch.Generator().manual_seed(SEED)
    reset(engine, plain, generator, list(range(num_envs)), None)
    counted = np.zeros(6, dtype=int)  # of a report
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
        wanted = engine.command.cpu() if action == "same again" else 1.5 * truth.commands(num_envs, generator)
        if action in ("step", "steps"):
            for _ in range(1 if action == "step" else int(rng.integers(horizon + 2) % 20)):
                engine.step()
                for env in plain:
                    env.step()
        elif action in ("reset", "both", "at once"):
            given_command = wanted if action == "both" or (action == "at once" and rng.random() < 0.5) else None
            reset(engine, plain, generator, chosen, env_ids, given_command, action == "at once")
        elif action in ("set_command", "same again"):
            engine.set_command(rows_for(wanted, chosen, env_ids), env_ids)
            for i in chosen:
                plain[i].set_command(wanted[i].numpy())
        else:
            ids, offsets = rng.integers(0, num_envs, 4), rng.integers(-2, horizon + 2, 4)
            inside = offsets.clip(0, horizon - 1)
            frames = engine.frames(torch.tensor(ids, device=device), torch.tensor(offsets, device=device))
            ahead = engine.future(inside.tolist())
            for row, offset in enumerate(inside.tolist()):
                check_frame(robot, plain[ids[row]], offset, one_frame(frames, row))
                assert all(torch.equal(a[ids[row], row], b[row]) for a, b in zip(ahead, frames, strict=True))
            counted[4] += np.count_nonzero(inside != offsets)
        if action in ("set_command", "both") or (action == "at once" and given_command is not None):
            outside = ((wanted < low) | (wanted > high))[chosen]
            counted[:2] += [int(outside.any(dim=1).sum()), int(outside.sum())]
        expected = torch.tensor(np.stack([env.frame(0).motion for env in plain]))
        assert truth.error(state(engine), expected) < 2e-4
        in_force = np.stack([env.in_force(env.time) for env in plain])
        np.testing.assert_allclose(engine.command_in_force.cpu(), in_force, atol=1e-5)
    last = engine.future([0, horizon // 2, horizon - 1])
    assert last.dof_pos.shape == (num_envs, 3, 5)
    for i in range(num_envs):
        for k, offset in enumerate((0, horizon // 2, horizon - 1)):
            check_frame(robot, plain[i], offset, one_frame(last, (i, k)))
    assert dataclasses.astuple(quiet_report(engine)) == tuple(counted)


def rows_for(values: torch.Tensor, chosen: list[int], env_ids: Any) -> torch.Tensor:
    """Rows as a call with these env_ids takes them: for a mask one per environment."""
    return values[chosen] if isinstance(env_ids, list) else values


def reset(
    engine: Engine,
    plain: list[PlainEnvironment],
    generator: torch.Generator,
    chosen: list[int],
    env_ids: Any,
    command: torch.Tensor | None = None,
    at_once: bool = False,
) -> None:
    n = engine.num_envs
    motion, root_pos = plain[0].truth.states(n, generator), 6 * torch.rand(n, 3, generator=generator) - 3
    root_rot = torch.randn(n, 4, generator=generator)  # any attitude and length: its heading counts
    lengths = torch.tensor(ANY_LENGTH)[torch.randint(len(ANY_LENGTH), (n, 1), generator=generator)]
    wanted = None if command is None else rows_for(command, chosen, env_ids)
    forms = [rows_for(value, chosen, env_ids) for value in (motion, root_pos, root_rot * lengths)]
    engine.reset(env_ids, forms[0], wanted, root_pos=forms[1], root_rot=forms[2], command_at_once=at_once)
    for i in chosen:
        w, x, y, z = root_rot[i].double().numpy()
        forward = np.array([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)])  # the turned x axis, on the ground
        plain[i].reset(motion[i].double().numpy(), root_pos[i].numpy(), float(np.arctan2(forward[1], forward[0])))
        if command is not None:
            plain[i].set_command(command[i].numpy())
        plain[i].place_again(at_once)


@pytest.mark.skipif(g1_model() is None, reason="mjlab is not installed")
@pytest.mark.parametrize("device", DEVICES)
def test_a_g1s_kinematics_are_mujocos_whatever_the_caller_switched_on(
    tmp_path: Path, device: str, generator: torch.Generator
) -> None:
    path = g1_model()
    assert path is not None
    chain = RobotModel(path).chain(JOINT_NAMES)
    truth = make_engine_folder(tmp_path, SEED, ("fp32",), chain, JOINT_NAMES, COMPILED, hidden_dim=24)
    names = ("left_knee_link", "right_ankle_roll_link", "left_elbow_link", "torso_link")
    with rough_products(device):
        engine = load_engine(tmp_path, 200, device, "torch", "fp32", horizon=20, key_bodies=names)
        motion, command = truth.states(200, generator), truth.commands(200, generator)
        engine.reset(motion=motion, command=command, root_pos=[1.0, 2.0, 0.3])
        for _ in range(3):
            engine.step()
        frames = engine.future([0, 7, 19])
        pool = engine.make_pool(200, 3, [0.3, 0.0, 0.0], motion).frames(range(200), [2] * 200)
    assert engine.key_body_names == names and frames.key_body_pos.shape == (200, 3, 4, 3)
    kinematics = MujocoKinematics(path, JOINT_NAMES, "pelvis")
    robot = Robot(kinematics, chain)
    for i in range(0, 200, 20):
        looked_at = [(0.3, one_frame(frames, (i, k))) for k in range(3)]
        for ground, seen in [*looked_at, (0.0, one_frame(pool, i))]:
            assert seen["root_pos"][2] == pytest.approx(ground + robot.height(seen["dof_pos"]), abs=1e-5)
            kinematics.set(seen["dof_pos"])
            expected = [kinematics.pose(name)[0] for name in names]
            np.testing.assert_allclose(seen["key_body_pos"], expected, atol=1e-5)
