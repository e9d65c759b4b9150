"""CMGMotionGenerator, call by call, against the float64 network and plain bookkeeping."""

from __future__ import annotations

import contextlib
import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.utils.cmg_motion_generator import CMGMotionGenerator
from cmg_runtime import inputs
from cmg_runtime.errors import EngineError
from dropin_case import DEVICES, MODES, Case, g1_case, plain_bodies, quat_matrix
from engine_folder import no_waiting

NUM_ENVS = 11
DURATION = 9


@pytest.fixture
def case() -> Case:
    return g1_case()


@pytest.fixture
def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(case: Case, mode: str, device: str = "cpu") -> CMGMotionGenerator:
    return CMGMotionGenerator(
        str(case.folder), None, NUM_ENVS, device, mode, preload_duration=DURATION, backend="torch", precision="fp32"
    )


def shown(generator: CMGMotionGenerator, env_ids: Any = None) -> torch.Tensor:
    """[N, 58]: one look, which goes a frame forward."""
    return torch.cat(generator.get_motion(env_ids), 1)


class Plain:
    """What the generator should give, one environment at a time: the frame shown last, or about to be shown first."""

    def __init__(self, case: Case, mode: str) -> None:
        self.truth, self.mode = case.truth, mode
        self.motion = torch.zeros(NUM_ENVS, 58, dtype=torch.float64)
        self.first = self.motion.clone()  # of the trajectory, to which pregenerated motion comes back
        self.index = [0] * NUM_ENVS
        self.shown = [False] * NUM_ENVS
        self.command = torch.zeros(NUM_ENVS, 3, dtype=torch.float64)
        self.wraps = 0

    def reset(self, i: int, motion: torch.Tensor) -> None:
        self.motion[i] = self.first[i] = motion.double()
        self.index[i], self.shown[i] = 0, False

    def set_command(self, i: int, command: torch.Tensor) -> None:
        self.command[i] = torch.minimum(torch.maximum(command.double(), self.truth.low), self.truth.high)
        self.first[i], self.index[i] = self.motion[i], 0

    def look(self, i: int, advance: bool) -> torch.Tensor:
        if self.shown[i]:
            if self.mode == "pregenerated" and self.index[i] == DURATION:
                self.motion[i], self.index[i] = self.first[i], 0
                self.wraps += 1
            else:
                self.motion[i] = self.truth.step(self.motion[i : i + 1], self.command[i : i + 1])[0]
                self.index[i] += 1
        self.shown[i] = advance
        return self.motion[i].clone()


@pytest.mark.parametrize("mode", MODES)
def test_any_sequence_of_calls_agrees_with_plain_bookkeeping(
    case: Case, seed: int, draws: torch.Generator, mode: str
) -> None:
    generator, plain, rng = make(case, mode), Plain(case, mode), random.Random(seed)
    start = case.truth.states(NUM_ENVS, draws)
    generator.reset(init_motion=start)
    for i in range(NUM_ENVS):
        plain.reset(i, start[i])
    for _ in range(160):
        action = rng.choice(["look", "look", "look", "peek", "reset", "command", "both"])
        ids = rng.sample(range(NUM_ENVS), rng.randrange(NUM_ENVS + 1))
        everyone = rng.random() < 0.4
        ids = list(range(NUM_ENVS)) if everyone else ids
        env_ids = None if everyone else rng.choice([ids, torch.tensor(ids, dtype=torch.long)])
        if action in ("look", "peek"):
            advance = action == "look"
            dof_pos, dof_vel = generator.get_motion(env_ids, advance=advance)
            assert dof_pos.shape == dof_vel.shape == (len(ids), 29)
            for row, i in enumerate(ids):
                expected = plain.look(i, advance)
                assert torch.allclose(torch.cat([dof_pos[row], dof_vel[row]]).double(), expected, atol=2e-3, rtol=1e-3)
            continue
        motion, command = case.truth.states(len(ids), draws), 1.5 * case.truth.commands(len(ids), draws)
        if action == "command":
            generator.update_commands(command, env_ids)
        else:
            generator.reset(env_ids, motion, command if action == "both" else None)
        for row, i in enumerate(ids):
            if action != "reset":
                plain.set_command(i, command[row])
            if action != "command":
                plain.reset(i, motion[row])
    assert torch.allclose(generator.current_commands.double(), plain.command, atol=1e-6)
    if plain.wraps:
        with pytest.warns(RuntimeWarning, match=f"began again {plain.wraps} times"):
            assert generator.get_performance_stats()["frames_wrapped"] == plain.wraps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", MODES)
def test_the_first_frame_is_the_initial_state_and_a_command_acts_at_once(
    case: Case, draws: torch.Generator, mode: str, device: str
) -> None:
    """On a GPU the host never waits for it, in realtime."""
    generator, truth = make(case, mode, device), case.truth
    start, commands = truth.states(NUM_ENVS, draws).to(device), truth.commands(3 * NUM_ENVS, draws).to(device)
    one, other, third = commands.split(NUM_ENVS)
    some = torch.arange(0, NUM_ENVS, 3, device=device)
    generator.reset(init_motion=start, commands=one)
    assert torch.equal(shown(generator), start)
    with no_waiting() if (device, mode) == ("cuda", "realtime") else contextlib.nullcontext():
        first = shown(generator)
        generator.update_commands(other)
        second = shown(generator)
        generator.update_commands(third[: len(some)], some)
        third_of_some = shown(generator, some)
        generator.reset(some, start[: len(some)])
        again = shown(generator)
    expected = truth.step(start, one)
    assert truth.error(first, expected) < 1e-5
    expected = truth.step(expected, other)
    assert truth.error(second, expected) < 1e-5
    assert truth.error(third_of_some, truth.step(expected[some.cpu()], third[: len(some)])) < 1e-5
    assert torch.equal(again[some], start[: len(some)])
    assert generator.get_performance_stats()["avg_inference_ms"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_default_reset_draws_from_the_bank(case: Case, mode: str) -> None:
    generator = make(case, mode)
    generator.reset()
    bank = torch.from_numpy(np.load(case.folder / "bank.npz")["motion"])
    assert all((bank == row).all(1).any() for row in shown(generator))
    assert (generator.current_commands == 0).all()
    partial = make(case, mode)
    partial.reset([2, 5], commands=[0.3, 0.0, 0.0])  # a first reset starts the others too
    assert shown(partial).shape == (NUM_ENVS, 58)
    assert partial.current_commands[:, 0].nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize("mode", MODES)
def test_results_stay_as_they_are(case: Case, mode: str) -> None:
    generator = make(case, mode)
    generator.reset()
    dof_pos, dof_vel = generator.get_motion()
    kept = dof_pos.clone()
    generator.get_motion()
    assert torch.equal(dof_pos, kept)
    dof_vel.zero_()  # the caller's own
    data = generator.get_full_motion_data(advance=False)
    again = generator.get_full_motion_data(torch.arange(NUM_ENVS) < 4)  # a mask: a row for everybody
    assert set(data) == {"dof_pos", "dof_vel", "motion_raw"}
    for name in data:
        assert torch.equal(data[name], again[name])
    after = generator.get_full_motion_data(advance=False)["motion_raw"]
    moved = (after != data["motion_raw"]).any(1)
    assert moved[:4].all() and not moved[4:].any()


def test_switching_the_mode_goes_on_from_the_same_frame(case: Case, draws: torch.Generator) -> None:
    generator, truth = make(case, "realtime"), case.truth
    motion, command = truth.states(NUM_ENVS, draws), truth.commands(NUM_ENVS, draws)
    generator.reset(init_motion=motion, commands=command)
    expected = motion.double()
    for mode in ("realtime", "pregenerated", "pregenerated", "realtime"):
        generator.switch_mode(mode)
        assert generator.mode == mode
        for _ in range(4):
            assert truth.error(shown(generator), expected) < 1e-4
            expected = truth.step(expected, command)


def test_body_transforms_are_the_robots(case: Case, seed: int) -> None:
    generator, rng = make(case, "realtime"), np.random.default_rng(seed)
    generator.reset()
    ids = [7, 0, 3]
    position, quat = rng.normal(size=(3, 3)), rng.normal(size=(3, 4))
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    plain = generator.get_motion_with_body_transforms(ids, advance=False)
    out = generator.get_motion_with_body_transforms(ids, position, quat)
    names = case.chain.body_names
    expected, _ = plain_bodies(case.chain, out["dof_positions"].double().numpy(), names)
    np.testing.assert_allclose(plain["body_positions"].numpy(), expected, atol=1e-5)
    for row in range(3):
        rotation = quat_matrix(quat[row])
        world = position[row] + expected[row] @ rotation.T
        np.testing.assert_allclose(out["body_positions"][row].numpy(), world, atol=1e-5)
        root = out["body_rotations"][row, 0].double().numpy()
        assert abs(abs(root @ quat[row]) - 1) < 1e-6
    # A body's orientation takes the way from it to its child in its own frame into the world's.
    child = names.index("left_knee_link")
    parent = case.chain.body_parents[child]
    w, *v = out["body_rotations"][:, parent].double().numpy().T
    offset, v = np.array(case.chain.body_pos[child]), np.stack(v, 1)
    turned = offset + 2 * np.cross(v, np.cross(v, offset) + w[:, None] * offset)
    difference = (out["body_positions"][:, child] - out["body_positions"][:, parent]).numpy()
    np.testing.assert_allclose(difference, turned, atol=1e-5)


def test_stats_are_of_inferences(case: Case) -> None:
    generator = make(case, "realtime")
    assert generator.get_performance_stats()["avg_inference_ms"] == 0
    generator.reset()
    for _ in range(4):
        shown(generator)
    stats = generator.get_performance_stats()
    assert stats["num_inferences"] == 3 and stats["frames_wrapped"] == 0
    assert 0 < stats["min_inference_ms"] <= stats["avg_inference_ms"] <= stats["max_inference_ms"]


@pytest.mark.parametrize("mode", MODES)
def test_bad_calls_are_refused_and_change_nothing(case: Case, mode: str) -> None:
    generator = make(case, mode)
    unready = (generator.get_motion, lambda: generator.update_commands([0, 0, 0]))
    for wrong in ({}, {"commands": [math.nan, 0.0, 0.0]}, {"init_motion": torch.zeros(3)}):
        if wrong:
            with pytest.raises(EngineError):
                generator.reset([0], **wrong)  # a first reset that is refused starts nobody
        for call in unready:
            with pytest.raises(EngineError, match="no environment was reset yet"):
                call()
    generator.reset()
    before = torch.cat(generator.get_motion(advance=False), 1)
    refused: list[tuple[Any, str]] = [
        (lambda: generator.get_motion([NUM_ENVS]), f"env_ids has {NUM_ENVS}; expected 0..{NUM_ENVS - 1}"),
        (lambda: generator.get_motion([1, 1]), "same environment twice"),
        (lambda: generator.update_commands([math.nan, 0, 0]), "command has entries that are NaN"),
        (lambda: generator.update_commands(torch.zeros(3, 3)), "command has shape"),
        (lambda: generator.reset(init_motion=torch.zeros(2, 58)), "motion has shape"),
        (lambda: generator.reset([0], init_motion=torch.full((58,), math.inf)), "motion has entries"),
        (lambda: generator.reset([0], torch.zeros(57)), "motion has shape"),
        (lambda: generator.update_commands(torch.zeros(3, device="meta")), "command is on meta"),
        (lambda: generator.get_motion_with_body_transforms([0], [math.nan, 0, 0]), "base_pos"),
        (lambda: generator.switch_mode("both"), "unknown mode 'both'"),
    ]
    for call, message in refused:
        with pytest.raises(EngineError, match=message):
            call()
    assert torch.equal(shown(generator, []), before[:0])
    assert torch.equal(shown(generator), before)


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_nobody_may_use(
    case: Case, draws: torch.Generator, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, motion = make(case, mode), case.truth.states(NUM_ENVS, draws)
    generator.reset()
    spoiled = motion.clone()
    spoiled[2:] = math.nan
    two = torch.arange(NUM_ENVS) < 2  # rows that a mask does not choose may hold anything
    generator.reset(two, spoiled)
    assert torch.equal(shown(generator, [0, 1]), motion[:2])
    positions = torch.zeros(NUM_ENVS, 3).index_fill_(0, torch.arange(2, NUM_ENVS), math.nan)
    generator.get_motion_with_body_transforms(two, positions)

    # One that is ignored leaves the frame. Values on a GPU are not looked at by the host; from here on, nor are these.
    generator.reset(init_motion=motion)
    for _ in range(4):
        before = shown(generator)
    monkeypatch.setattr(inputs, "require_finite", lambda tensor, name: None)
    bad = motion[:2].clone()
    bad[0, 5] = math.nan
    generator.reset([3, 6], bad)
    after = shown(generator, [3, 6])
    assert torch.equal(after[0], before[3]) and torch.equal(after[1], motion[1])
    expected = case.truth.step(before[3:4], torch.zeros(1, 3))
    assert case.truth.error(shown(generator, [3]), expected) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_inference_mode_makes_no_difference(case: Case, draws: torch.Generator, mode: str) -> None:
    motion = case.truth.states(NUM_ENVS, draws)
    plain = make(case, mode)
    with torch.inference_mode():
        generator = make(case, mode)
        generator.reset(init_motion=motion)
        generator.get_motion()
    plain.reset(init_motion=motion)
    plain.get_motion()
    for one in (plain, generator):
        one.get_motion([1])
        one.reset([2], motion[0])
        one.update_commands([0.1, 0.0, 0.0], [3])
    with torch.inference_mode():
        generator.reset([4], motion[4], [0.1, 0.0, 0.1])
        seen = shown(generator)
    plain.reset([4], motion[4], [0.1, 0.0, 0.1])
    assert torch.equal(seen, shown(plain))
    generator.reset([5], motion[4])


def test_bad_settings_are_refused(case: Case) -> None:
    for changes, message in (
        ({"mode": "offline"}, "unknown mode 'offline'"),
        ({"preload_duration": 0}, "preload_duration is 0"),
        ({"buffer_size": -1}, "buffer_size is -1"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"backend": "abacus"}, "unknown backend 'abacus'"),
    ):
        arguments: dict[str, Any] = {"num_envs": 3, "device": "cpu", "backend": "torch", **changes}
        with pytest.raises(EngineError, match=message):
            CMGMotionGenerator(case.folder, **arguments)
