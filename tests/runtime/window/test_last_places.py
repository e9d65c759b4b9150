"""A reset or start that says nothing of the place puts an environment where it was put last; masks and their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_planned_starts import KINDS

from cmg_runtime import Engine, EngineError, load_engine
from window_case import random_robot_case

NUM_ENVS, HORIZON, TRAJECTORIES, FRAMES = 9, 4, 5, 14
NAN = float("nan")


def load(device: str, backend: str = "torch") -> Engine:
    return load_engine(random_robot_case()[0], NUM_ENVS, device, backend, horizon=HORIZON, command_ramp_s=0.1)


class Told:
    """Where each environment was put last, from the calls alone: x, y, height of the ground, and heading."""

    def __init__(self) -> None:
        self.root_pos, self.yaw = np.zeros((NUM_ENVS, 3)), np.zeros(NUM_ENVS)

    def note(self, chosen: list[int], root_pos: np.ndarray | None, yaw: np.ndarray | None) -> None:
        if root_pos is not None:
            self.root_pos[chosen] = root_pos[chosen]
        if yaw is not None:
            self.yaw[chosen] = yaw[chosen]

    def check(self, engine: Engine, envs: list[int]) -> None:
        frames, robot = engine.future([0]), random_robot_case()[2]
        root_pos, root_rot = (field[:, 0].double().cpu().numpy() for field in (frames.root_pos, frames.root_rot))
        for env in envs:
            height = robot.height(frames.dof_pos[env, 0].double().cpu().numpy())
            np.testing.assert_allclose(root_pos[env], self.root_pos[env] + [0, 0, height], atol=1e-5)
            half = np.array([np.cos(self.yaw[env] / 2), np.sin(self.yaw[env] / 2)])
            np.testing.assert_allclose(abs(root_rot[env, [0, 3]] @ half), 1.0, atol=1e-6)


def as_quaternions(yaw: np.ndarray) -> np.ndarray:
    return 1.3 * np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)


@pytest.mark.parametrize("device, backend", KINDS)
def test_what_is_not_given_is_as_given_last(
    device: str, backend: str, rng: np.random.Generator, generator: torch.Generator
) -> None:
    engine, told = load(device, backend), Told()
    pool = engine.make_pool(TRAJECTORIES, FRAMES, random_robot_case()[1].commands(TRAJECTORIES, generator))
    engine.reset()
    told.check(engine, list(range(NUM_ENVS)))
    for _ in range(30):
        chosen = sorted(rng.permutation(NUM_ENVS)[: rng.integers(1, NUM_ENVS)].tolist())
        form, action = rng.choice(["ids", "mask", "all"]), rng.choice(["reset", "start", "planned"])
        env_ids: Any = torch.tensor(chosen, device=device)
        if form == "all":
            chosen, env_ids = list(range(NUM_ENVS)), None
        mask = torch.zeros(NUM_ENVS, dtype=torch.bool, device=device)
        mask[chosen] = True
        rows: Any = chosen
        if form == "mask":
            env_ids, rows = mask, slice(None)
        root_pos = rng.normal(size=(NUM_ENVS, 3)) if rng.random() < 0.5 else None
        yaw = rng.uniform(-3, 3, NUM_ENVS) if rng.random() < 0.5 else None
        told.note(chosen, root_pos, yaw)
        if root_pos is not None:
            root_pos[~mask.cpu().numpy()] = NAN  # so that whoever reads a row that is not chosen shows it
        given_pos = None if root_pos is None else torch.tensor(root_pos[rows], device=device)
        given_rot = None if yaw is None else torch.tensor(as_quaternions(yaw)[rows], device=device)
        if action == "reset":
            engine.reset(env_ids, root_pos=given_pos, root_rot=given_rot)
        elif action == "start":
            trajectories = torch.tensor(rng.integers(0, TRAJECTORIES, NUM_ENVS)[rows], device=device)
            engine.start(pool, trajectories, trajectories + 3, env_ids, given_pos, given_rot)
        else:
            planned = engine.planned_starts(pool)  # its plan begins as what was given last
            if root_pos is not None:
                planned.root_pos.copy_(torch.tensor(root_pos))
            if yaw is not None:
                planned.root_rot.copy_(torch.tensor(as_quaternions(yaw)))
            planned.start(env_ids)
        told.check(engine, chosen)
        for _ in range(int(rng.integers(3))):
            engine.step()
        engine.set_command(0.3 * torch.randn(3, generator=generator))
    assert int(engine._counters.counts[3]) == 0 and pool.lookups_clamped() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_place_that_is_ignored_is_not_kept(backend: str) -> None:
    engine, told = load("cuda", backend), Told()
    engine.reset(root_pos=[1.0, 2.0, 0.5], root_rot=[1.0, 0.0, 0.0, 1.0])
    told.note(list(range(NUM_ENVS)), np.full((NUM_ENVS, 3), [1.0, 2.0, 0.5]), np.full(NUM_ENVS, np.pi / 2))
    root_pos = torch.full((NUM_ENVS, 3), 7.0, device="cuda")
    root_pos[4, 2] = NAN
    motion = engine.bank[:1].expand(NUM_ENVS, -1).clone()
    motion[6, 0] = 1e6
    engine.reset(motion=motion, root_pos=root_pos)
    told.note([env for env in range(NUM_ENVS) if env not in (4, 6)], root_pos.cpu().numpy(), None)
    engine.reset()
    told.check(engine, list(range(NUM_ENVS)))
    with pytest.warns(RuntimeWarning, match="2 motions"):
        assert engine.report().motions_ignored == 2


@pytest.mark.parametrize("device, backend", KINDS)
def test_rows_that_a_mask_does_not_choose_may_be_any(
    device: str, backend: str, rng: np.random.Generator, generator: torch.Generator
) -> None:
    """Every call that takes a mask, against the same call by ids: the same frames, and nothing more is counted."""
    truth = random_robot_case()[1]
    masked, by_ids = load(device, backend), load(device, backend)
    commands, motion = truth.commands(TRAJECTORIES, generator), truth.states(TRAJECTORIES, generator)
    pools = [engine.make_pool(TRAJECTORIES, FRAMES, commands, motion) for engine in (masked, by_ids)]
    plans = [engine.planned_starts(pool) for engine, pool in zip((masked, by_ids), pools, strict=True)]
    for engine in (masked, by_ids):
        engine.reset(motion=truth.mean.float())
    for _ in range(6):
        mask = torch.tensor(rng.random(NUM_ENVS) < 0.5, device=device)
        chosen = mask.nonzero().flatten()
        ids, frames = (torch.tensor(rng.integers(0, end, NUM_ENVS)) for end in (TRAJECTORIES, FRAMES + 9))
        rows = truth.states(NUM_ENVS, generator), 1.5 * truth.commands(NUM_ENVS, generator)
        rows = *rows, torch.randn(NUM_ENVS, 3, generator=generator), torch.randn(NUM_ENVS, 4, generator=generator)
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
        for seen, expected in zip(masked.future(range(HORIZON)), by_ids.future(range(HORIZON)), strict=True):
            assert torch.allclose(seen, expected, atol=1e-5)
        assert torch.allclose(masked.command_in_force, by_ids.command_in_force)
        assert pools[0].lookups_clamped() == pools[1].lookups_clamped()
    counted = masked._counters.counts.tolist(), by_ids._counters.counts.tolist()
    assert counted[0] == counted[1] and counted[0][2] == counted[0][3] == 0 and pools[0].lookups_clamped() > 0


def test_a_chosen_row_that_is_wrong_is_refused(generator: torch.Generator) -> None:
    engine = load("cpu")
    pool = engine.make_pool(TRAJECTORIES, FRAMES, [0.1, 0.0, 0.1])
    engine.reset()
    mask, ids = torch.arange(NUM_ENVS) % 3 == 1, torch.zeros(NUM_ENVS, dtype=torch.int64)
    ids[4] = TRAJECTORIES
    with pytest.raises(EngineError, match=r"trajectory_ids has 5; expected 0\.\.4"):
        engine.start(pool, ids, ids, mask)
    mask[4] = False
    engine.start(pool, ids, ids, mask)
