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

in_both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def case() -> Case:
    return g1_case()


def make(case: Case, mode: str, device: str = "cpu") -> CMGMotionGenerator:
    return CMGMotionGenerator(
        str(case.folder), None, NUM_ENVS, device, mode, preload_duration=DURATION, backend="torch", precision="fp32"
    )


def shown(generator: CMGMotionGenerator, env_ids: Any = None, advance: bool = True) -> torch.Tensor:
    """[N, 58]: one look, which goes a frame forward."""
    return torch.cat(generator.get_motion(env_ids, advance=advance), 1)


class Plain:
    """What the generator should give, one environment at a time: the frame shown last, or about to be shown first."""

    def __init__(self, case: Case, mode: str) -> None:
        self.truth, self.mode = case.truth, mode
        self.motion = torch.zeros(NUM_ENVS, 58, dtype=torch.float64)
        self.first = self.motion.clone()  # of the trajectory, to which pregenerated motion comes back
        self.index, self.shown = [0] * NUM_ENVS, [False] * NUM_ENVS
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


@in_both_modes
def test_any_sequence_of_calls_agrees_with_plain_bookkeeping(
    case: Case, seed: int, generator: torch.Generator, mode: str
) -> None:
    """Whatever the caller's inference mode is at each of them, and what he does with the results."""
    rng, plain, start = random.Random(seed), Plain(case, mode), case.truth.states(NUM_ENVS, generator)
    with torch.inference_mode(rng.random() < 0.5):
        one = make(case, mode)
        one.reset(init_motion=start)
    for i in range(NUM_ENVS):
        plain.reset(i, start[i])
    for _ in range(160):
        action = rng.choice(["look", "look", "look", "peek", "reset", "command", "both"])
        everyone = rng.random() < 0.4
        ids = list(range(NUM_ENVS)) if everyone else rng.sample(range(NUM_ENVS), rng.randrange(NUM_ENVS + 1))
        env_ids = None if everyone else rng.choice([ids, torch.tensor(ids, dtype=torch.long)])
        motion, command = case.truth.states(len(ids), generator), 1.5 * case.truth.commands(len(ids), generator)
        with torch.inference_mode(rng.random() < 0.3):
            if action in ("look", "peek"):
                parts = one.get_motion(env_ids, advance=action == "look")
                assert parts[0].shape == parts[1].shape == (len(ids), 29)
                expected = [plain.look(i, action == "look") for i in ids]
                for row, frame in zip(torch.cat(parts, 1).double(), expected):
                    assert torch.allclose(row, frame, atol=2e-3, rtol=1e-3)
                parts[rng.randrange(2)].zero_()  # the caller's own
                continue
            if action == "command":
                one.update_commands(command, env_ids)
            else:
                one.reset(env_ids, motion, command if action == "both" else None)
        for row, i in enumerate(ids):
            if action != "reset":
                plain.set_command(i, command[row])
            if action != "command":
                plain.reset(i, motion[row])
    assert torch.allclose(one.current_commands.double(), plain.command, atol=1e-6)
    if plain.wraps:
        with pytest.warns(RuntimeWarning, match=f"began again {plain.wraps} times"):
            assert one.get_performance_stats()["frames_wrapped"] == plain.wraps


@pytest.mark.parametrize("device", DEVICES)
@in_both_modes
def test_the_first_frame_is_the_initial_state_and_a_command_acts_at_once(
    case: Case, generator: torch.Generator, mode: str, device: str
) -> None:
    """On a GPU the host never waits for it, in realtime."""
    one, truth = make(case, mode, device), case.truth
    start, commands = truth.states(NUM_ENVS, generator).to(device), truth.commands(3 * NUM_ENVS, generator).to(device)
    first, second, third = commands.split(NUM_ENVS)
    some = torch.arange(0, NUM_ENVS, 3, device=device)
    assert one.get_performance_stats()["avg_inference_ms"] == 0
    one.reset(init_motion=start, commands=first)
    assert torch.equal(shown(one), start)
    with no_waiting() if (device, mode) == ("cuda", "realtime") else contextlib.nullcontext():
        under_first = shown(one)
        one.update_commands(second)
        under_second = shown(one)
        one.update_commands(third[: len(some)], some)
        under_third = shown(one, some)
        one.reset(some, start[: len(some)])
        again = shown(one)
    expected = truth.step(start, first)
    assert truth.error(under_first, expected) < 1e-5
    expected = truth.step(expected, second)
    assert truth.error(under_second, expected) < 1e-5
    assert truth.error(under_third, truth.step(expected[some.cpu()], third[: len(some)])) < 1e-5
    assert torch.equal(again[some], start[: len(some)])
    stats = one.get_performance_stats()
    assert 0 < stats["min_inference_ms"] <= stats["avg_inference_ms"] <= stats["max_inference_ms"]
    assert stats["frames_wrapped"] == 0 and (mode == "pregenerated" or stats["num_inferences"] == 4)


@in_both_modes
def test_a_default_reset_draws_from_the_bank(case: Case, mode: str) -> None:
    whole, partial = make(case, mode), make(case, mode)
    whole.reset()
    bank = torch.from_numpy(np.load(case.folder / "bank.npz")["motion"])
    assert all((bank == row).all(1).any() for row in shown(whole))
    assert (whole.current_commands == 0).all()
    partial.reset([2, 5], commands=[0.3, 0.0, 0.0])  # a first reset starts the others too
    assert shown(partial).shape == (NUM_ENVS, 58)
    assert partial.current_commands[:, 0].nonzero().flatten().tolist() == [2, 5]


@in_both_modes
def test_full_data_and_results_that_stay_as_they_are(case: Case, mode: str) -> None:
    one = make(case, mode)
    one.reset()
    dof_pos, _ = one.get_motion()
    kept = dof_pos.clone()
    one.get_motion()
    assert torch.equal(dof_pos, kept)
    data = one.get_full_motion_data(advance=False)
    again = one.get_full_motion_data(torch.arange(NUM_ENVS) < 4)  # a mask: a row for everybody
    assert set(data) == {"dof_pos", "dof_vel", "motion_raw"}
    assert all(torch.equal(data[name], again[name]) for name in data)
    moved = (one.get_full_motion_data(advance=False)["motion_raw"] != data["motion_raw"]).any(1)
    assert moved[:4].all() and not moved[4:].any()


def test_switching_the_mode_goes_on_from_the_same_frame(case: Case, generator: torch.Generator) -> None:
    one, truth = make(case, "realtime"), case.truth
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    one.reset(init_motion=motion, commands=command)
    expected = motion.double()
    for mode in ("realtime", "pregenerated", "pregenerated", "realtime"):
        one.switch_mode(mode)
        assert one.mode == mode
        for _ in range(4):
            assert truth.error(shown(one), expected) < 1e-4
            expected = truth.step(expected, command)


def test_body_transforms_are_the_robots(case: Case, rng: np.random.Generator) -> None:
    one = make(case, "realtime")
    one.reset()
    ids, position, quat = [7, 0, 3], rng.normal(size=(3, 3)), rng.normal(size=(3, 4))
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    plain = one.get_motion_with_body_transforms(ids, advance=False)
    out = one.get_motion_with_body_transforms(ids, position, quat)
    names = case.chain.body_names
    expected, _ = plain_bodies(case.chain, out["dof_positions"].double().numpy(), names)
    np.testing.assert_allclose(plain["body_positions"].numpy(), expected, atol=1e-5)
    world = position[:, None] + expected @ quat_matrix(quat).swapaxes(1, 2)
    np.testing.assert_allclose(out["body_positions"].numpy(), world, atol=1e-5)
    roots = out["body_rotations"][:, 0].double().numpy()
    np.testing.assert_allclose(np.abs((roots * quat).sum(1)), 1, atol=1e-6)
    # A body's orientation takes the way from it to its child in its own frame into the world's.
    child = names.index("left_knee_link")
    parent = case.chain.body_parents[child]
    turned = quat_matrix(out["body_rotations"][:, parent].double().numpy()) @ np.array(case.chain.body_pos[child])
    difference = (out["body_positions"][:, child] - out["body_positions"][:, parent]).numpy()
    np.testing.assert_allclose(difference, turned, atol=1e-5)


@in_both_modes
def test_bad_calls_are_refused_and_change_nothing(case: Case, mode: str) -> None:
    one = make(case, mode)
    for wrong in ({}, {"commands": [math.nan, 0.0, 0.0]}, {"init_motion": torch.zeros(3)}):
        if wrong:
            with pytest.raises(EngineError):
                one.reset([0], **wrong)  # a first reset that is refused starts nobody
        for call in (one.get_motion, lambda: one.update_commands([0, 0, 0])):
            with pytest.raises(EngineError, match="no environment was reset yet"):
                call()
    one.reset()
    before = shown(one, advance=False)
    refused: list[tuple[Any, str]] = [
        (lambda: one.get_motion([1, 1]), "same id twice"),
        (lambda: one.update_commands([math.nan, 0, 0]), "command has entries that are NaN"),
        (lambda: one.update_commands(torch.zeros(3, device="meta")), "command is on meta"),
        (lambda: one.reset(init_motion=torch.zeros(2, 58)), "motion has shape"),
        (lambda: one.reset([0], init_motion=torch.full((58,), math.inf)), "motion has entries"),
        (lambda: one.get_motion_with_body_transforms([0], [math.nan, 0, 0]), "base_pos"),
        (lambda: one.switch_mode("both"), "unknown mode 'both'"),
    ]
    for call, message in refused:
        with pytest.raises(EngineError, match=message):
            call()
    assert torch.equal(shown(one, []), before[:0])
    assert torch.equal(shown(one), before)


@in_both_modes
def test_rows_that_nobody_may_use(
    case: Case, generator: torch.Generator, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, motion = make(case, mode), case.truth.states(NUM_ENVS, generator)
    one.reset()
    two = torch.arange(NUM_ENVS) < 2  # rows that a mask does not choose may hold anything
    one.reset(two, torch.where(two[:, None], motion, math.nan))
    assert torch.equal(shown(one, [0, 1]), motion[:2])
    one.get_motion_with_body_transforms(two, torch.where(two[:, None], torch.zeros(NUM_ENVS, 3), math.nan))

    # One that is ignored leaves the frame. Values on a GPU are not looked at by the host; from here on, nor are these.
    one.reset(init_motion=motion)
    for _ in range(4):
        before = shown(one)
    monkeypatch.setattr(inputs, "require_finite", lambda tensor, name: None)
    bad = motion[:2].clone()
    bad[0, 5] = math.nan
    one.reset([3, 6], bad)
    after = shown(one, [3, 6])
    assert torch.equal(after[0], before[3]) and torch.equal(after[1], motion[1])
    expected = case.truth.step(before[3:4], torch.zeros(1, 3))
    assert case.truth.error(shown(one, [3]), expected) < 1e-5


def test_bad_settings_are_refused(case: Case) -> None:
    for changes, message in (
        ({"mode": "offline"}, "unknown mode 'offline'"),
        ({"preload_duration": 0}, "preload_duration is 0"),
        ({"buffer_size": -1}, "buffer_size is -1"),
        ({"backend": "abacus"}, "unknown backend 'abacus'"),
    ):
        arguments: dict[str, Any] = {"num_envs": 3, "device": "cpu", "backend": "torch", **changes}
        with pytest.raises(EngineError, match=message):
            CMGMotionGenerator(case.folder, **arguments)
