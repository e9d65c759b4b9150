"""The window against plain rollouts of each environment in float64, with MuJoCo's kinematics: all calls, any order."""

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
from cmg_runtime.window.kinematics import ForwardKinematics
from devices import DEVICES, KINDS, rough_products
from engine_folder import COMPILED, SEED, make_engine_folder, state
from mujoco_kinematics import MujocoKinematics
from plain_rollout import PlainEnvironment
from random_robot import random_robot
from window_case import assert_same, check_frame, everything, load, one_frame, quiet_report, random_robot_case

CHANGES = ["reset", "set_command", "same again", "both", "start", "planned"]
OPERATION = st.tuples(
    st.sampled_from(["step", "some step", "steps", "frames", *CHANGES]),
    st.sampled_from(["ids", "mask", "all"]),
    st.integers(0, 2**32 - 1),
)
LENGTHS = np.array([1.0, 3e19, 1e-23, 1e30, 1e-30], dtype=np.float32)
TRAJECTORIES, FRAMES_BEFORE = 5, 30


class Chosen:
    """Some environments, and the data that goes with them in a call; what may be anything is at times spoiled."""

    def __init__(self, engine: Engine, form: str, rng: np.random.Generator) -> None:
        n = engine.num_envs
        self.envs = list(range(n)) if form == "all" else sorted(rng.permutation(n)[: rng.integers(n + 1)].tolist())
        self.others = [env for env in range(n) if env not in self.envs]
        forms = {"ids": np.array(self.envs, dtype=int), "mask": np.isin(np.arange(n), self.envs)}
        self.env_ids = torch.tensor(forms[form], device=engine.device) if form in forms else None
        self._by_ids = form == "ids"
        self._device = str(rng.choice(["cpu", engine.device.type]))
        self._spoils = bool(rng.random() < 0.5)
        self._no_id = int(rng.choice([-1, -(1 << 40), 1 << 40]))

    def mask(self) -> torch.Tensor:
        """[num_envs] bool."""
        return torch.tensor(np.isin(np.arange(len(self.envs) + len(self.others)), self.envs), device=self._device)

    def spoiled(self, values: np.ndarray) -> torch.Tensor:
        """[num_envs, ..], of which the chosen are used."""
        values = values.copy()
        if self._spoils:
            values[self.others] = np.nan if values.dtype.kind == "f" else self._no_id
        return torch.tensor(values, device=self._device)

    def rows(self, values: np.ndarray | None) -> torch.Tensor | None:
        """As a call takes them: with a mask a row for each environment."""
        return values if values is None else self.spoiled(values)[self.envs if self._by_ids else slice(None)]


class Both:
    """An engine, and plain rollouts of its environments and of a pool's trajectories: each call is made to both."""

    def __init__(self, engine: Engine, ramp_s: float) -> None:
        _, self.truth, self.robot = random_robot_case()
        self.engine, n = engine, engine.num_envs
        self.plain = [PlainEnvironment(self.truth, self.robot, ramp_s) for _ in range(n)]
        self.root_pos, self.yaw = np.zeros((n, 3), dtype=np.float32), np.zeros(n)  # as they were given last
        self.counted, self.clamped = np.zeros(6, dtype=int), 0  # of a report, and of the pool's lookups
        generator = torch.Generator().manual_seed(SEED)
        motion, commands = (draw(TRAJECTORIES, generator) for draw in (self.truth.states, self.truth.commands))
        self.pool = engine.make_pool(TRAJECTORIES, engine.horizon + FRAMES_BEFORE, commands, motion)
        self.trajectories = [PlainEnvironment(self.truth, self.robot, ramp_s) for _ in range(TRAJECTORIES)]
        for env, command, start in zip(self.trajectories, commands, motion, strict=True):
            env.set_command(command.numpy())
            env.reset(start.double().numpy(), np.zeros(3), 0.0)
        engine.reset()
        self.view = self.planned = None
        if engine.horizon > 1:
            with torch.inference_mode():
                self.view, self.planned = engine.future_view([0, engine.horizon // 2]), engine.planned_starts(self.pool)
        for env, start in zip(self.plain, state(engine).double().cpu().numpy(), strict=True):
            env.reset(start, np.zeros(3), 0.0)

    def call(self, action: str, form: str, number: int) -> None:
        rng = np.random.default_rng(number)
        if self.view is None and action in ("frames", "start", "planned"):
            return
        chosen = Chosen(self.engine, form, rng)
        before, viewed = everything(self.engine), None if self.view is None else self.view.frames.dof_pos.clone()
        if action in ("step", "steps"):
            for _ in range(1 if action == "step" else int(rng.integers(self.engine.horizon + 2) % 20)):
                self.engine.step()
                for env in self.plain:
                    env.step()
        elif action == "frames":
            self.look(rng)
        elif action == "some step":
            self.engine.step(chosen.mask())
            for i in chosen.envs:
                self.plain[i].step()
            assert_same(everything(self.engine), before, chosen.others)
        else:
            if action in ("set_command", "same again"):
                self.set_command(action, chosen, rng)
            elif action in ("start", "planned"):
                self.start(action, chosen, rng)
            else:
                self.reset(action, chosen, rng)
            assert_same(everything(self.engine), before, chosen.others)
        self.check_window(action, before, viewed, chosen.envs)
        expected = torch.tensor(np.stack([env.frame(0).motion for env in self.plain]))
        assert self.truth.error(state(self.engine), expected) < 2e-4
        in_force = np.stack([env.in_force(env.time) for env in self.plain])
        np.testing.assert_allclose(self.engine.command_in_force.cpu(), in_force, atol=1e-5)

    def check_window(self, action: str, before: dict[str, torch.Tensor], viewed: Any, envs: list[int]) -> None:
        """To the bit: a step moves the frames on by one, a command leaves the current one, a view is what was ahead at
        its last refresh. Against the rollouts: the current frame of some environments."""
        if self.view is None:
            return
        after = everything(self.engine)
        for name in set(after) - {"current"}:
            if action in ("step", "some step"):
                moved = slice(None) if action == "step" else envs
                assert torch.equal(after[name][moved, :-1], before[name][moved, 1:]), name
            elif action in ("set_command", "same again"):
                assert torch.equal(after[name][:, 0], before[name][:, 0]), name
        frames = self.view.frames
        assert torch.equal(frames.dof_pos, viewed)
        self.view.refresh()
        for seen, expected in zip(frames, self.engine.future([0, self.engine.horizon // 2]), strict=True):
            assert torch.equal(seen, expected)
        assert torch.equal(self.view.command, self.engine.command_in_force)
        for i in envs[:3]:
            check_frame(self.robot, self.plain[i], 0, one_frame(frames, (i, 0)))

    def look(self, rng: np.random.Generator) -> None:
        """Single frames, some of them outside the window, and the same ones of every environment."""
        device, last, count = self.engine.device, self.engine.horizon - 1, int(rng.integers(0, 6))
        ids, offsets = rng.integers(0, self.engine.num_envs, count), rng.integers(-2, last + 3, count)
        inside = offsets.clip(0, last)
        frames = self.engine.frames(torch.tensor(ids, device=device), torch.tensor(offsets, device=device))
        ahead = self.engine.future(inside.tolist())
        for row, offset in enumerate(inside.tolist()):
            check_frame(self.robot, self.plain[ids[row]], offset, one_frame(frames, row))
            assert all(torch.equal(a[ids[row], row], b[row]) for a, b in zip(ahead, frames, strict=True))
        self.counted[4] += np.count_nonzero(inside != offsets)

    def commands(self, chosen: Chosen, rng: np.random.Generator) -> np.ndarray:
        """[num_envs, 3], some of them outside the range."""
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 32)))
        commands = 1.5 * self.truth.commands(self.engine.num_envs, generator)
        outside = ((commands < self.truth.low.float()) | (commands > self.truth.high.float()))[chosen.envs]
        self.counted[:2] += [int(outside.any(dim=1).sum()), int(outside.sum())]
        return commands.numpy()

    def set_command(self, action: str, chosen: Chosen, rng: np.random.Generator) -> None:
        again = action == "same again"
        commands = self.engine.command.cpu().numpy().copy() if again else self.commands(chosen, rng)
        self.engine.set_command(chosen.rows(commands), chosen.env_ids)
        for i in chosen.envs:
            self.plain[i].set_command(commands[i])

    def reset(self, action: str, chosen: Chosen, rng: np.random.Generator) -> None:
        commands = self.commands(chosen, rng) if action == "both" else None
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 32)))
        values = self.truth.states(self.engine.num_envs, generator).numpy(), commands, *self.place(chosen, rng)
        self.engine.reset(chosen.env_ids, *map(chosen.rows, values))
        for i in chosen.envs:
            self.plain[i].reset(values[0][i].astype(float), self.root_pos[i], self.yaw[i])
            if commands is not None:
                self.plain[i].set_command(commands[i])
            self.plain[i].place_again()

    def start(self, action: str, chosen: Chosen, rng: np.random.Generator) -> None:
        n, places = self.engine.num_envs, self.place(chosen, rng)
        ids, frames = rng.integers(0, TRAJECTORIES, n), rng.integers(-2, FRAMES_BEFORE + 3, n)
        if action == "start":
            rows = map(chosen.rows, places)
            self.engine.start(self.pool, chosen.rows(ids), chosen.rows(frames), chosen.env_ids, *rows)
        else:
            planned = self.engine.planned_starts(self.pool)  # its places begin as what was given last
            if self.planned and rng.random() < 0.5:
                half, none = self.yaw / 2, 0 * self.yaw
                planned, places = self.planned, (self.root_pos, np.stack([np.cos(half), none, none, np.sin(half)], 1))
            fields = planned.trajectory_ids, planned.frame_ids, planned.root_pos, planned.root_rot
            for field, values in zip(fields, (ids, frames, *places), strict=True):
                if values is not None:
                    field.copy_(chosen.spoiled(values))
            planned.start(chosen.env_ids)
        inside = frames.clip(0, FRAMES_BEFORE)
        self.clamped += np.count_nonzero((inside != frames)[chosen.envs])
        for i in chosen.envs:
            self.plain[i].start_from(self.trajectories[ids[i]], int(inside[i]), self.root_pos[i], self.yaw[i])

    def place(self, chosen: Chosen, rng: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray | None]:
        """root_pos and root_rot. Either may be None: as it was given last."""
        n, root_pos, root_rot = self.engine.num_envs, None, None
        if self.view is None:
            return None, None
        if rng.random() < 0.7:
            root_pos = rng.uniform(-3, 3, (n, 3)).astype(np.float32)
            self.root_pos[chosen.envs] = root_pos[chosen.envs]
        if rng.random() < 0.7:
            w, x, y, z = quat = rng.normal(size=(4, n))  # any attitude and length: its heading counts
            yaw = np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)  # of the turned x axis, on the ground
            self.yaw[chosen.envs], root_rot = yaw[chosen.envs], quat.T.astype(np.float32) * rng.choice(LENGTHS, (n, 1))
        return root_pos, root_rot

    def check_all(self) -> None:
        offsets = [0, self.engine.horizon // 2, self.engine.horizon - 1]
        if self.view:
            frames = self.engine.future(offsets)
            for i, env in enumerate(self.plain):
                for k, offset in enumerate(offsets):
                    check_frame(self.robot, env, offset, one_frame(frames, (i, k)))
        assert dataclasses.astuple(quiet_report(self.engine)) == tuple(self.counted)
        assert self.pool.lookups_clamped() == self.clamped


@pytest.mark.slow
@pytest.mark.parametrize("device, backend", KINDS)
@seed(SEED)
@settings(max_examples=25, deadline=None, database=None)
@given(
    horizon=st.sampled_from([1, 2, 3, 7, 40]),
    num_envs=st.sampled_from([1, 3, 9]),
    ramp_s=st.sampled_from([0.0, 0.07, 0.5, 3.0]),
    operations=st.lists(OPERATION, min_size=3, max_size=18),
)
def test_random_interleavings_agree_with_plain_rollouts(
    device: str, backend: str, horizon: int, num_envs: int, ramp_s: float, operations: list[tuple[str, str, int]]
) -> None:
    both = Both(load(device, backend, num_envs, "fp32", horizon=horizon, command_ramp_s=ramp_s), ramp_s)
    for action, form, number in operations:
        both.call(action, form, number)
    both.check_all()


@pytest.mark.skipif(g1_model() is None, reason="mjlab is not installed")
@pytest.mark.parametrize("device", DEVICES)
def test_a_g1s_kinematics_are_mujocos_whatever_the_caller_switched_on(
    tmp_path: Path, device: str, generator: torch.Generator
) -> None:
    path = g1_model()
    assert path is not None
    chain = RobotModel(path).chain(JOINT_NAMES)
    truth = make_engine_folder(tmp_path, SEED, ("fp32",), chain, JOINT_NAMES, COMPILED, hidden_dim=24)
    motion, command = truth.states(200, generator), truth.commands(200, generator)
    low, high = torch.tensor(chain.joint_lower), torch.tensor(chain.joint_upper)
    motion[:, :29] = low + (high - low) * torch.rand(200, 29, generator=generator)
    with rough_products(device):
        engine = load_engine(tmp_path, 200, device, "torch", "fp32", horizon=20)
        engine.reset(motion=motion, command=command, root_pos=[1.0, 2.0, 0.3])
        everyone = range(200)
        frames = [(0.3, engine.frames(everyone, [offset] * 200)) for offset in (0, 1, 19)]
        engine.step()
        frames.append((0.3, engine.frames(everyone, [0] * 200)))
        pool = engine.make_pool(200, 3, [0.3, 0.0, 0.0], motion)
        frames += [(0.0, pool.frames(everyone, [time] * 200)) for time in (0, 2)]
    assert engine.key_body_names == chain.body_names
    truth_of = MujocoKinematics(path, JOINT_NAMES, "pelvis")
    model, bodies = truth_of.model, {name: index for index, name in enumerate(chain.body_names)}
    feet = [model.body(f"{side}_ankle_roll_link").id for side in ("left", "right")]
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] in feet and model.geom_contype[g]]
    assert len(geoms) == 14
    for ground, seen in frames:
        for i in range(0, 200, 20):
            one = one_frame(seen, i)
            truth_of.set(one["dof_pos"])
            lowest = min(truth_of.lowest_point(geom) for geom in geoms)
            assert one["root_pos"][2] == pytest.approx(ground - lowest, abs=1e-5)
            for body in range(1, model.nbody):  # the world is none of the chain's
                name = model.body(body).name
                np.testing.assert_allclose(one["key_body_pos"][bodies[name]], truth_of.pose(name)[0], atol=1e-5)
            wrist, rotation = truth_of.pose("left_wrist_yaw_link")
            hand = wrist + rotation @ [0.0415, 0.003, 0]
            np.testing.assert_allclose(one["key_body_pos"][bodies["left_rubber_hand"]], hand, atol=1e-5)


def test_random_trees(tmp_path: Path, rng: np.random.Generator) -> None:
    for case in range(8):
        robot = random_robot(rng, tmp_path / f"robot_{case}.xml", with_references=True)
        names = tuple(rng.permutation(robot.joint_names).tolist())  # the motion state's order is its own
        chain = RobotModel(robot.path).chain(names)
        kinematics = ForwardKinematics(chain, dtype=torch.float64)
        truth = MujocoKinematics(robot.path, names, "root")
        dof_pos = torch.tensor(rng.uniform(-3, 3, (5, len(names))), requires_grad=True)
        positions, rotations = kinematics(dof_pos)
        for row, joints in enumerate(dof_pos.detach().numpy()):
            truth.set(joints)
            for index, body in enumerate(chain.body_names):
                position, rotation = truth.pose(body)
                np.testing.assert_allclose(positions[row, index].detach(), position, atol=1e-7)
                np.testing.assert_allclose(rotations[row, index].detach(), rotation, atol=1e-7)
    assert torch.autograd.gradcheck(lambda q: kinematics(q)[0], (dof_pos[:1],))
