"""Environments that begin in the middle of a pool's trajectories, against a plain rollout of each in float64."""

from __future__ import annotations

import cmath
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, TrajectoryPool, load_engine
from engine_folder import Truth
from plain_rollout import PlainEnvironment, Robot
from window_case import DEVICES, check_frame, one_frame, random_robot_case

HORIZON = 9


def load(device: str, num_envs: int, ramp_s: float = 0.5) -> Engine:
    folder = random_robot_case()[0]
    return load_engine(folder, num_envs, device, "torch", "fp32", horizon=HORIZON, command_ramp_s=ramp_s)


def plain_start(
    truth: Truth, robot: Robot, ramp_s: float, motion: np.ndarray, command: np.ndarray, frame: int
) -> PlainEnvironment:
    """At frame ``frame`` of a rollout from the world's origin under a ramp from 0 to ``command``."""
    env = PlainEnvironment(truth, robot, ramp_s)
    env.set_command(command)
    env.reset(motion, np.zeros(3), 0.0)
    for _ in range(frame):
        env.step()
    return env


def move(env: PlainEnvironment, root_pos: np.ndarray, yaw: float) -> None:
    """Put the current frame at ``root_pos``, heading ``yaw``."""
    frame = env.frames[0]
    env.ground = float(root_pos[2])
    env.frames = [replace(frame, position=complex(*root_pos[:2]), z=frame.z + env.ground, yaw=yaw)]


def quaternion(yaw: float) -> list[float]:
    half = cmath.exp(0.5j * yaw)
    return [half.real, 0.0, 0.0, half.imag]


@pytest.mark.parametrize("form", ["ids", "mask", "all"])
@pytest.mark.parametrize("ramp_s", [0.5, 0.0])
@pytest.mark.parametrize("device", DEVICES)
def test_windows_go_on_as_the_trajectory_does(
    device: str, ramp_s: float, form: str, generator: torch.Generator, rng: np.random.Generator
) -> None:
    _, truth, robot = random_robot_case()
    engine, num_envs = load(device, 6, ramp_s), 6
    motion, commands = truth.states(5, generator), truth.commands(5, generator)
    pool = engine.make_pool(5, 60, commands, motion)
    engine.reset(command=truth.commands(num_envs, generator))
    for _ in range(int(rng.integers(0, 2 * HORIZON))):  # so that the ring begins anywhere
        engine.step()
    before = engine.future(range(HORIZON))

    chosen = list(range(num_envs)) if form == "all" else sorted(rng.permutation(num_envs)[:3].tolist())
    env_ids = {"all": None, "ids": torch.tensor(chosen, device=device)}.get(form)
    if form == "mask":
        env_ids = torch.zeros(num_envs, dtype=torch.bool, device=device)
        env_ids[chosen] = True
    trajectories, frames = rng.integers(0, 5, num_envs), rng.integers(0, 60 - HORIZON + 1, num_envs)
    root_pos, yaws = rng.normal(size=(num_envs, 3)), rng.uniform(-3, 3, num_envs)
    root_rot = np.array([quaternion(yaw) for yaw in yaws]) * 1.7
    rows = chosen if form == "ids" else slice(None)
    trajectory_ids, frame_ids = (torch.tensor(ids[rows], device=device) for ids in (trajectories, frames))
    engine.start(pool, trajectory_ids, frame_ids, env_ids, root_pos[rows], root_rot[rows])

    plain = {}
    for env in chosen:
        start = motion[trajectories[env]].double().numpy(), commands[trajectories[env]].double().numpy()
        plain[env] = plain_start(truth, robot, ramp_s, *start, int(frames[env]))
        move(plain[env], root_pos[env], yaws[env])
    seen = engine.future(range(HORIZON))
    for env in range(num_envs):
        if env not in chosen:
            assert all(torch.equal(a[env], b[env]) for a, b in zip(before, seen, strict=True))
    wanted = truth.commands(num_envs, generator)
    for when in range(3 * HORIZON):
        for env in chosen:
            for offset in (0, HORIZON - 1):
                check_frame(robot, plain[env], offset, one_frame(engine.future([offset]), (env, 0)))
            np.testing.assert_allclose(
                engine.command_in_force[env].cpu(), plain[env].in_force(plain[env].time), atol=1e-6
            )
        if when == HORIZON + 3:  # the motion goes on from the current frame, the command from what is in force
            engine.set_command(wanted)
            for env in chosen:
                plain[env].set_command(wanted[env].numpy())
        engine.step()
        for env in chosen:
            plain[env].step()
    assert engine.report().motions_ignored == 0 and pool.lookups_clamped() == 0


def test_frames_without_enough_after_them_are_clamped_and_counted() -> None:
    engine = load("cpu", 3)
    pool = engine.make_pool(2, 20, [0.1, 0.0, 0.1])
    engine.start(pool, [0, 1, 0], [-3, 20 - HORIZON, 19])
    assert pool.lookups_clamped() == 2
    expected = pool.frames([0, 1, 0], [0, 20 - HORIZON, 20 - HORIZON])
    assert torch.equal(engine.dof_pos, expected.dof_pos)


@pytest.mark.gpu
def test_places_on_the_gpu_that_are_not_finite_are_ignored() -> None:
    engine = load("cuda", 4)
    pool = engine.make_pool(2, 20, [0.1, 0.0, 0.1])
    engine.reset(command=[0.3, 0.0, 0.0])
    before = engine.future(range(HORIZON))
    root_pos = torch.zeros(4, 3, device="cuda")
    root_pos[2, 1] = float("nan")
    engine.start(pool, [0, 1, 0, 1], [1, 2, 3, 4], root_pos=root_pos)
    seen = engine.future(range(HORIZON))
    assert torch.equal(seen.dof_pos[2], before.dof_pos[2]) and not torch.equal(seen.dof_pos[1], before.dof_pos[1])
    with pytest.warns(RuntimeWarning, match="1 motions"):
        assert engine.report().motions_ignored == 1


def test_wrong_pools_and_arguments() -> None:
    engine = load("cpu", 2)
    pool = engine.make_pool(3, 20, [0.1, 0.0, 0.0])
    other = load_engine(random_robot_case()[0], 2, key_bodies=(), horizon=2)
    changing = engine.make_pool(2, 12, np.zeros((2, 11, 3)))
    wrong = [
        (lambda: load_engine(random_robot_case()[0], 2).start(pool, [0, 1], [0, 1]), "needs a window"),
        (lambda: engine.start(other.make_pool(2, 20, [0.0] * 3), [0, 1], [0, 1]), "other joints or key bodies"),
        (lambda: engine.start(changing, [0, 1], [0, 1]), "commands change from frame to frame"),
        (lambda: load("cpu", 2, 0.1).start(pool, [0, 1], [0, 1]), "another ramp"),
        (lambda: engine.start(engine.make_pool(3, 8, [0.0] * 3), [0, 1], [0, 1]), "have 8 frames and the window 9"),
        (lambda: engine.start(pool, [0, 3], [0, 1]), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, [0], [0]), r"trajectory_ids has shape \[1\]; expected \[2\]"),
        (lambda: engine.start(pool, [0, 1], [0]), r"frame_ids has shape \[1\]; expected \[2\]"),
        (lambda: engine.start(pool, [0], [0], [5]), "env_ids has 5"),
        (lambda: engine.start(pool, [0, 1], [0, 1], root_pos=[float("nan")] * 3), "root_pos has entries that are NaN"),
    ]
    for call, message in wrong:
        with pytest.raises(EngineError, match=message) as caught:
            call()
        assert not re.search("\n", str(caught.value))
    with pytest.raises(EngineError, match="never reset"):
        engine.step()


def test_a_start_counts_as_the_first_reset() -> None:
    engine = load("cpu", 2)
    pool: TrajectoryPool = engine.make_pool(3, 20, [0.1, 0.0, 0.0])
    engine.start(pool, [2, 0], [5, 1])
    engine.step()
    torch.testing.assert_close(engine.dof_pos, pool.frames([2, 0], [6, 2]).dof_pos)


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_is_the_future_at_each_refresh(device: str, generator: torch.Generator) -> None:
    engine, truth = load(device, 5), random_robot_case()[1]
    with torch.inference_mode():
        view = engine.future_view([0, 4, HORIZON - 1])
    addresses = [field.data_ptr() for field in view.frames]
    with pytest.raises(EngineError, match="never reset"):
        view.refresh()
    pool = engine.make_pool(3, 30, truth.commands(3, generator))
    engine.reset(command=truth.commands(5, generator))
    for change in (
        engine.step,
        lambda: engine.set_command(truth.commands(2, generator), [1, 3]),
        lambda: engine.start(pool, [2, 0], [20, 3], [4, 0]),
        engine.step,
    ):
        change()
        view.refresh()
        for seen, expected in zip(view.frames, engine.future([0, 4, HORIZON - 1]), strict=True):
            assert torch.equal(seen, expected)
        assert torch.equal(view.command, engine.command_in_force)
        kept = view.frames.dof_pos.clone()
        engine.step()
        assert torch.equal(view.frames.dof_pos, kept)  # until the next refresh
    assert addresses == [field.data_ptr() for field in view.frames]
    with pytest.raises(EngineError, match="outside the window"):
        engine.future_view([HORIZON])
