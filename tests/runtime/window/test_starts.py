"""Environments that begin in the middle of a pool's trajectories, at once or as planned, and where they are put; masks
and the rows that go with them.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError
from devices import DEVICES, KINDS
from plain_rollout import PlainEnvironment
from window_case import assert_same, check_frame, everything, load, one_frame, quiet_report, random_robot_case

HORIZON, NAN = 9, float("nan")


def quaternions(yaw: np.ndarray) -> np.ndarray:
    """[n, 4] of any length, turned by ``yaw`` [n]."""
    return 1.7 * np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)


@pytest.mark.parametrize("form", ["ids", "mask", "all"])
@pytest.mark.parametrize("ramp_s", [0.5, 0.0])
@pytest.mark.parametrize("device", DEVICES)
def test_windows_go_on_as_the_trajectory_does(
    device: str, ramp_s: float, form: str, generator: torch.Generator, rng: np.random.Generator
) -> None:
    _, truth, robot = random_robot_case()
    num_envs, horizon, num_frames = 6, HORIZON, 60
    engine = load(device, "torch", num_envs, "fp32", horizon=horizon, command_ramp_s=ramp_s)
    motion, commands = truth.states(5, generator), truth.commands(5, generator)
    pool = engine.make_pool(5, num_frames, commands, motion)
    engine.reset(command=truth.commands(num_envs, generator))
    for _ in range(int(rng.integers(0, 2 * horizon))):  # so that the ring begins anywhere
        engine.step()
    before = everything(engine)

    chosen = list(range(num_envs)) if form == "all" else sorted(rng.permutation(num_envs)[:3].tolist())
    env_ids = {"all": None, "ids": torch.tensor(chosen, device=device)}.get(form)
    if form == "mask":
        env_ids = torch.zeros(num_envs, dtype=torch.bool, device=device)
        env_ids[chosen] = True
    trajectories, frames = rng.integers(0, 5, num_envs), rng.integers(0, num_frames - horizon + 1, num_envs)
    root_pos, yaws = rng.normal(size=(num_envs, 3)), rng.uniform(-3, 3, num_envs)
    rows = chosen if form == "ids" else slice(None)
    trajectory_ids, frame_ids = (torch.tensor(ids[rows], device=device) for ids in (trajectories, frames))
    engine.start(pool, trajectory_ids, frame_ids, env_ids, root_pos[rows], quaternions(yaws)[rows])

    plain = {}
    for env in chosen:  # a rollout from the world's origin under a ramp from 0, put in its place
        plain[env] = PlainEnvironment(truth, robot, ramp_s)
        plain[env].set_command(commands[trajectories[env]].double().numpy())
        plain[env].reset(motion[trajectories[env]].double().numpy(), np.zeros(3), 0.0)
        for _ in range(frames[env]):
            plain[env].step()
        x, y, plain[env].ground = root_pos[env].tolist()
        now = plain[env].frames[0]
        plain[env].frames = [replace(now, position=complex(x, y), z=now.z + plain[env].ground, yaw=yaws[env])]
    others = [env for env in range(num_envs) if env not in chosen]
    assert_same(everything(engine), before, others)
    wanted = truth.commands(num_envs, generator)
    for when in range(3 * horizon):
        for env in chosen:
            for offset in (0, horizon - 1):
                check_frame(robot, plain[env], offset, one_frame(engine.future([offset]), (env, 0)))
            in_force = plain[env].in_force(plain[env].time)
            np.testing.assert_allclose(engine.command_in_force[env].cpu(), in_force, atol=1e-6)
        if when == horizon + 3:  # the motion goes on from the current frame, the command from what is in force
            engine.set_command(wanted)
            for env in chosen:
                plain[env].set_command(wanted[env].numpy())
        engine.step()
        for env in chosen:
            plain[env].step()
    assert engine.report().motions_ignored == 0 and pool.lookups_clamped() == 0


@pytest.mark.parametrize("device, backend", KINDS)
def test_planned_starts_are_starts(device: str, backend: str, generator: torch.Generator) -> None:
    """The same frames to the bit, in the environments that begin and in the others, over many steps; the plans of those
    that do not begin may be any."""
    num_envs, num_frames = 300, 40
    engine, plain = (load(device, backend, num_envs, horizon=HORIZON, command_ramp_s=0.1) for _ in range(2))
    pool = engine.make_pool(20, num_frames, random_robot_case()[1].commands(20, generator))
    with torch.inference_mode():
        planned = engine.planned_starts(pool)
    fields = planned.trajectory_ids, planned.frame_ids, planned.root_pos, planned.root_rot
    for index in range(30):
        if index:
            engine.step()
            plain.step()
        for start in range(1 + index % 2):  # more than one start between two steps
            plan = (
                torch.randint(20, (num_envs,), generator=generator),
                torch.randint(num_frames - HORIZON + 1, (num_envs,), generator=generator),
                torch.randn(num_envs, 3, generator=generator),
                torch.randn(num_envs, 4, generator=generator),
            )
            count = int(torch.randint(0, 9, (1,), generator=generator)) if index else num_envs
            ids = torch.randperm(num_envs, generator=generator)[:count]
            mask = torch.zeros(num_envs, dtype=torch.bool).index_fill_(0, ids, True)
            for field, values in zip(fields, plan, strict=True):
                others = (~mask).view(-1, *[1] * (values.dim() - 1))
                field.copy_(values.masked_fill(others, NAN if values.is_floating_point() else 1 << 40))
            planned.start((mask if start else ids).to(device))
            trajectories, frames, root_pos, root_rot = (values[ids] for values in plan)
            plain.start(pool, trajectories, frames, ids, root_pos, root_rot)
        assert_same(everything(engine), everything(plain))
        assert torch.equal(engine.command_in_force, plain.command_in_force)
    assert engine.report() == plain.report() and pool.lookups_clamped() == 0


@pytest.mark.parametrize("device, backend", KINDS)
def test_starts_count_as_resets(device: str, backend: str) -> None:
    engine = load(device, backend, 5, horizon=HORIZON)
    pool = engine.make_pool(3, 20, [0.1, 0.0, 0.1])
    planned = engine.planned_starts(pool)
    planned.start(torch.arange(3, device=device))
    with pytest.raises(EngineError, match=r"2 of 5 .* reset\(\)"):
        engine.step()
    engine.start(pool, [2, 0], [5, 1], [3, 4])
    engine.step()
    torch.testing.assert_close(engine.dof_pos, pool.frames([0, 0, 0, 2, 0], [1, 1, 1, 6, 2]).dof_pos)


def test_frames_without_enough_after_them_are_clamped_and_counted() -> None:
    engine = load(num_envs=3, horizon=HORIZON)
    pool = engine.make_pool(2, 20, [0.1, 0.0, 0.1])
    engine.start(pool, [0, 1, 0], [-3, 20 - HORIZON, 19])
    assert pool.lookups_clamped() == 2
    expected = pool.frames([0, 1, 0], [0, 20 - HORIZON, 20 - HORIZON])
    assert torch.equal(engine.dof_pos, expected.dof_pos)


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_is_the_future_at_each_refresh(device: str, generator: torch.Generator) -> None:
    engine, truth = load(device, "torch", 5, horizon=HORIZON), random_robot_case()[1]
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


class Told:
    """Where each environment was put last, from the calls alone: x, y, height of the ground, and heading."""

    def __init__(self, num_envs: int) -> None:
        self.root_pos, self.yaw = np.zeros((num_envs, 3)), np.zeros(num_envs)

    def check(self, engine: Engine, envs: list[int]) -> None:
        frames, robot = engine.future([0]), random_robot_case()[2]
        root_pos, root_rot = (field[:, 0].double().cpu().numpy() for field in (frames.root_pos, frames.root_rot))
        for env in envs:
            height = robot.height(frames.dof_pos[env, 0].double().cpu().numpy())
            np.testing.assert_allclose(root_pos[env], self.root_pos[env] + [0, 0, height], atol=1e-5)
            half = cmath.exp(0.5j * self.yaw[env])
            np.testing.assert_allclose(abs(root_rot[env, [0, 3]] @ [half.real, half.imag]), 1.0, atol=1e-6)


@pytest.mark.parametrize("device, backend", KINDS)
def test_a_place_that_is_not_given_is_as_given_last(
    device: str, backend: str, rng: np.random.Generator, generator: torch.Generator
) -> None:
    n, trajectories = 9, 5
    engine, told = load(device, backend, n, horizon=4, command_ramp_s=0.1), Told(n)
    pool = engine.make_pool(trajectories, 14, random_robot_case()[1].commands(trajectories, generator))
    engine.reset()
    told.check(engine, list(range(n)))
    for _ in range(30):
        chosen = sorted(rng.permutation(n)[: rng.integers(1, n)].tolist())
        form, action = rng.choice(["ids", "mask", "all"]), rng.choice(["reset", "start", "planned"])
        env_ids: Any = torch.tensor(chosen, device=device)
        if form == "all":
            chosen, env_ids = list(range(n)), None
        mask = torch.zeros(n, dtype=torch.bool, device=device)
        mask[chosen] = True
        rows: Any = chosen
        if form == "mask":
            env_ids, rows = mask, slice(None)
        given_pos, given_rot = None, None
        if rng.random() < 0.5:
            given_pos = rng.normal(size=(n, 3))
            told.root_pos[chosen] = given_pos[chosen]
            given_pos[~mask.cpu().numpy()] = NAN  # so that whoever reads a row that is not chosen shows it
        if rng.random() < 0.5:
            yaw = rng.uniform(-3, 3, n)
            told.yaw[chosen], given_rot = yaw[chosen], quaternions(yaw)
        if action == "planned":
            planned = engine.planned_starts(pool)  # its plan begins as what was given last
            for field, values in ((planned.root_pos, given_pos), (planned.root_rot, given_rot)):
                if values is not None:
                    field.copy_(torch.tensor(values))
            planned.start(env_ids)
        else:
            places = [None if v is None else torch.tensor(v[rows], device=device) for v in (given_pos, given_rot)]
            ids = torch.tensor(rng.integers(0, trajectories, n)[rows], device=device)
            if action == "reset":
                engine.reset(env_ids, root_pos=places[0], root_rot=places[1])
            else:
                engine.start(pool, ids, ids + 3, env_ids, *places)
        told.check(engine, chosen)
        for _ in range(int(rng.integers(3))):
            engine.step()
        engine.set_command(0.3 * torch.randn(3, generator=generator))
    assert quiet_report(engine).motions_ignored == 0 and pool.lookups_clamped() == 0


@pytest.mark.parametrize("device, backend", KINDS)
def test_rows_that_a_mask_does_not_choose_may_be_any(
    device: str, backend: str, rng: np.random.Generator, generator: torch.Generator
) -> None:
    """Every call that takes a mask, against the same call by ids: the same frames, and nothing more is counted."""
    truth, n, trajectories, num_frames = random_robot_case()[1], 9, 5, 14
    masked, by_ids = (load(device, backend, n, horizon=4, command_ramp_s=0.1) for _ in range(2))
    commands, motion = truth.commands(trajectories, generator), truth.states(trajectories, generator)
    pools = [engine.make_pool(trajectories, num_frames, commands, motion) for engine in (masked, by_ids)]
    plans = [engine.planned_starts(pool) for engine, pool in zip((masked, by_ids), pools, strict=True)]
    for engine in (masked, by_ids):
        engine.reset(motion=truth.mean.float())
    for _ in range(6):
        mask = torch.tensor(rng.random(n) < 0.5, device=device)
        chosen = mask.nonzero().flatten()
        ids, frames = (torch.tensor(rng.integers(0, end, n)) for end in (trajectories, num_frames + 9))
        rows = truth.states(n, generator), 1.5 * truth.commands(n, generator)
        rows = *rows, torch.randn(n, 3, generator=generator), torch.randn(n, 4, generator=generator)
        sound = [values.to(device) for values in (ids, frames, *rows)]
        spoiled = [values.clone() for values in sound]
        for values in spoiled:
            values[~mask] = NAN if values.is_floating_point() else int(rng.choice([-1, -(1 << 40), 1 << 40]))
        for engine, pool, plan, env_ids, given in (
            (masked, pools[0], plans[0], mask, spoiled),
            (by_ids, pools[1], plans[1], chosen, [values[chosen] for values in sound]),
        ):
            ids, frames, motions, wanted, root_pos, root_rot = given
            engine.reset(env_ids, motions, wanted, root_pos, root_rot)
            engine.step()
            engine.set_command(wanted, env_ids)
            engine.step()
            engine.start(pool, ids, frames, env_ids, root_pos, root_rot)
            engine.step()
            planned = (plan.trajectory_ids, plan.frame_ids, plan.root_pos, plan.root_rot)
            for field, values in zip(planned, (ids, frames, root_pos, root_rot), strict=True):
                field[slice(None) if engine is masked else chosen] = values.to(field.dtype)
            plan.start(env_ids)
            engine.step()
        assert_same(everything(masked), everything(by_ids), atol=1e-5)
        assert torch.allclose(masked.command_in_force, by_ids.command_in_force)
        assert pools[0].lookups_clamped() == pools[1].lookups_clamped()
    counted = quiet_report(masked)
    assert counted == quiet_report(by_ids) and pools[0].lookups_clamped() > 0
    assert counted.commands_ignored == counted.motions_ignored == 0


def test_wrong_starts_and_plans() -> None:
    engine = load(num_envs=9, horizon=HORIZON)
    none, nine = [0] * 9, [1] * 9
    pool, short = (engine.make_pool(3, length, [0.1, 0.0, 0.1]) for length in (20, 8))
    other = load(num_envs=2, key_bodies=(), horizon=2).make_pool(2, 20, [0.0] * 3)
    engine.reset()
    planned = engine.planned_starts(pool)
    planned.trajectory_ids[4] = 20
    planned.root_pos[5, 1] = NAN
    mask, ids, bad = torch.arange(9) % 3 == 1, torch.zeros(9, dtype=torch.int64), torch.zeros(9, 10)
    ids[4], bad[4, :] = 3, NAN
    zeros = torch.zeros_like(ids)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: load(horizon=1).start(pool, none, none), "needs a window"),
        (lambda: load(horizon=1).planned_starts(pool), "needs a window"),
        (lambda: engine.start(other, none, none), "other joints or key bodies"),
        (
            lambda: engine.start(engine.make_pool(2, 12, np.zeros((2, 11, 3))), none, none),
            "commands change from frame to frame",
        ),
        (lambda: load(horizon=HORIZON, command_ramp_s=0.1).start(pool, none, none), "another ramp"),
        (lambda: engine.start(short, none, none), "have 8 frames and the window 9"),
        (lambda: engine.planned_starts(short), "make longer"),
        (lambda: engine.start(pool, [3] * 9, nine), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, [0], [0]), r"trajectory_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, nine, [0]), r"frame_ids has shape \[1\]; expected \[9\]"),
        (lambda: engine.start(pool, [0], [0], [9]), "env_ids has 9"),
        (lambda: engine.start(pool, nine, nine, root_pos=[NAN] * 3), "root_pos has entries that are NaN"),
        (lambda: planned.start([1, 1]), "twice"),
        (lambda: planned.start([3, 4]), r"trajectory_ids has 20; expected 0\.\.2"),
        (lambda: planned.start([5, 6]), "root_pos has entries that are NaN or infinite"),
        (lambda: engine.start(pool, ids, zeros, mask), r"trajectory_ids has 3; expected 0\.\.2"),
        (lambda: engine.start(pool, zeros, zeros, mask, bad[:, :3]), "root_pos has entries that are NaN"),
        (lambda: engine.reset(mask, bad), "motion has entries that are NaN"),
        (lambda: engine.reset(mask, root_pos=bad[:, :3]), "root_pos has entries that are NaN"),
        (lambda: engine.set_command(bad[:, :3], mask), "command has entries that are NaN"),
    ]
    before = everything(engine)
    for call, message in calls:
        with pytest.raises(EngineError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert_same(everything(engine), before)
    mask[4] = False
    engine.start(pool, ids, zeros, mask, bad[:, :3])
    planned.start([3])  # whose plan is a good one
