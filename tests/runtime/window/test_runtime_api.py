"""The engine's contract beyond its numbers: views, commands, counters, wrong arguments, the caller's settings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from devices import DEVICES
from engine_folder import BACKENDS, Truth, state

NUM_ENVS = 11


@pytest.fixture
def engine(made: tuple[Path, Truth], request: pytest.FixtureRequest) -> Engine:
    return load_engine(made[0], NUM_ENVS, getattr(request, "param", "cpu"), "torch", command_ramp_s=0.0)


# What the engine shows


def test_attributes_say_what_the_manifest_says(engine: Engine, truth: Truth) -> None:
    assert engine.num_envs == NUM_ENVS
    assert engine.device == torch.device("cpu")
    assert engine.joint_names == ("joint_0", "joint_1", "joint_2", "joint_3", "joint_4")
    assert engine.fps == 50.0
    low, high = engine.command_range
    assert torch.equal(low, truth.low.float()) and torch.equal(high, truth.high.float())
    assert "torch_fp32" in engine.selection and "torch" in repr(engine)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_resets_write_into_the_same_memory(made: tuple[Path, Truth], backend: str) -> None:
    engine = load_engine(made[0], NUM_ENVS, backend=backend)
    addresses = engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr()
    engine.reset()
    held, copy = engine.step()[0], engine.dof_pos.clone()
    dof_pos, dof_vel = engine.step()
    assert held is dof_pos is engine.dof_pos and dof_vel is engine.dof_vel
    assert not torch.equal(held, copy)
    engine.reset([3])
    engine.set_command(engine.command_range[1])
    assert addresses == (engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr())


@pytest.mark.parametrize("engine", DEVICES, indirect=True)
def test_stepping_before_every_environment_was_reset_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"11 of 11 .* reset\(\)"):
        engine.step()
    engine.reset(range(5))
    engine.reset(torch.arange(5, 10, device=engine.device))
    with pytest.raises(EngineError, match="1 of 11"):
        engine.step()
    mask = torch.zeros(NUM_ENVS, dtype=torch.bool, device=engine.device)
    mask[10] = True
    engine.reset(mask)
    engine.step()


# Reset


def every_form(ids: list[int]) -> list[Any]:
    mask = np.zeros(NUM_ENVS, dtype=bool)
    mask[ids] = True
    return [ids, tuple(ids), np.array(ids, dtype=np.int32), torch.tensor(ids), torch.tensor(ids).int(), mask]


@pytest.mark.parametrize("ids", [[9, 0, 4], []])
@pytest.mark.parametrize("form", range(6))
def test_env_ids_in_every_form(
    engine: Engine, truth: Truth, generator: torch.Generator, ids: list[int], form: int
) -> None:
    env_ids = every_form(ids)[form]
    before, rows = truth.states(NUM_ENVS, generator), truth.states(NUM_ENVS, generator)
    engine.reset(motion=before)
    is_mask = len(env_ids) == NUM_ENVS
    engine.reset(env_ids, motion=rows if is_mask else rows[ids])  # a mask goes with one row per environment
    expected = before.clone()
    expected[ids] = rows[ids]
    assert torch.equal(state(engine), expected)
    engine.set_command([0.1, 0.2, 0.3], env_ids)
    assert engine.command.any(dim=1).nonzero().flatten().tolist() == sorted(ids)  # zero at first
    engine.step()


def test_without_a_motion_states_come_from_the_bank_by_seed(made: tuple[Path, Truth]) -> None:
    one, same, other = (load_engine(made[0], 200, seed=seed, backend="torch") for seed in (5, 5, 6))
    for engine in (one, same, other):
        engine.reset()
    assert torch.equal(state(one), state(same)) and not torch.equal(state(one), state(other))
    drawn = {tuple(row) for row in state(one).tolist()}
    assert drawn <= {tuple(row) for row in one.bank.tolist()} and len(drawn) > 20
    before = state(one)
    one.reset()
    assert not torch.equal(state(one), before)


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.tolist, torch.Tensor.numpy])
def test_motions_and_commands_of_any_real_type(engine: Engine, truth: Truth, generator: Any, convert: Any) -> None:
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    engine.reset(motion=convert(motion), command=convert(command))
    for seen, given in ((state(engine), motion), (engine.command, command)):
        assert torch.allclose(seen, given, rtol=1e-3, atol=1e-7)  # half precision is that far off zero


# Commands


def test_commands_outside_the_range_are_clamped_counted_and_reported_once(engine: Engine) -> None:
    low, high = engine.command_range
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.set_command(low)
        engine.set_command(high)
        assert engine.report().commands_clamped == 0
        engine.set_command(torch.stack([high + 1, low - 1, high * torch.tensor([1.0, 1.0, 2.0])]), [1, 4, 6])
    assert torch.equal(engine.command[[1, 4, 6]], torch.stack([high, low, high]))
    mask = [i == 2 for i in range(NUM_ENVS)]
    engine.set_command((high + 1).expand(NUM_ENVS, 3), mask)  # rows that are not chosen do not count
    engine.reset([0], command=low - 1)
    with pytest.warns(
        RuntimeWarning, match="5 commands were clamped .*; 0 commands and 0 motions .*; 0 lookups .*; 0 generated"
    ):
        report = engine.report()
    assert (report.commands_clamped, report.entries_clamped) == (5, 13)
    assert (report.commands_ignored, report.motions_ignored) == (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beyond = engine.rollout(engine.bank[:2], (high + 1).expand(2, 3), num_frames=4)
        assert engine.report().commands_clamped == 5 + 2 * 4
    assert torch.equal(beyond, engine.rollout(engine.bank[:2], high, num_frames=4))


# Wrong arguments: one line, and the engine stays as it was


def test_what_needs_a_window_or_a_reset_says_so(made: tuple[Path, Truth], engine: Engine) -> None:
    engine.reset()
    for call in (lambda: engine.future([0]), lambda: engine.frames([0], [0]), lambda: engine.reset(root_pos=[0.0] * 3)):
        with pytest.raises(EngineError, match="horizon is 1; load the engine with a horizon of 2 or more"):
            call()
    windowed = load_engine(made[0], 2, backend="torch", horizon=3)
    with pytest.raises(EngineError, match="2 of 2 .* before future"):
        windowed.future([0])


def far(engine: Engine) -> torch.Tensor:
    """Motions on the host, one of them beyond every limit."""
    motion = engine.bank[:NUM_ENVS].cpu().clone()
    motion[1, 2] = 1e4
    return motion


NAN = float("nan")
BEYOND = r"motion has 1e\+04 at \[1, 2\], where no motion of this engine is"
POOL_SHAPES = r"commands has shape \[2, 5, 3\]; expected \[2, 4, 3\] or \[2, 3\] or \[3\]"
WRONG_CALLS = {
    "motion of the wrong width": (
        lambda e: e.reset(motion=np.zeros((NUM_ENVS, 9))),
        r"\[11, 9\].*\[11, 10\] or \[10\]",
    ),
    "motion for too many": (lambda e: e.reset([1, 2], motion=np.zeros((3, 10))), r"\[3, 10\].*\[2, 10\]"),
    "motion for the chosen of a mask": (lambda e: e.reset([True] + [False] * 10, motion=np.zeros((1, 10))), "11, 10"),
    "motion with NaN": (lambda e: e.reset(motion=[NAN] * 10), "motion has entries that are NaN"),
    "motion with infinity": (lambda e: e.reset(motion=[float("inf")] * 10), "motion has entries that are NaN"),
    "motion too large for float32": (lambda e: e.reset(motion=[1e300] * 10), "finite float32"),
    "motion of words": (lambda e: e.reset(motion="walk"), "not an array of numbers"),
    "motion of ragged rows": (lambda e: e.reset(motion=[[1.0], [1.0, 2.0]]), "not an array of numbers"),
    "motion of bools": (lambda e: e.reset(motion=[True] * 10), "real numbers"),
    "motion beyond the limits": (lambda e: e.reset(motion=far(e)), BEYOND),
    "good motion, bad command": (lambda e: e.reset(motion=[0.0] * 10, command=[0.0] * 4), "command has shape"),
    "command of the wrong width": (lambda e: e.set_command([0.0, 0.0]), r"\[2\]; expected \[11, 3\] or \[3\]"),
    "command with NaN": (lambda e: e.set_command([0.0, NAN, 0.0]), "command has entries that are NaN"),
    "complex command": (lambda e: e.set_command(torch.zeros(3, dtype=torch.cfloat)), "real numbers"),
    "command elsewhere": (lambda e: e.set_command(torch.zeros(3, device="meta")), "is on meta; expected"),
    "id too large": (lambda e: e.reset([0, 11]), r"env_ids has 11; expected 0\.\.10"),
    "negative id": (lambda e: e.set_command([0.0] * 3, [-1]), r"env_ids has -1; expected 0\.\.10"),
    "id twice": (lambda e: e.reset([3, 1, 3]), "twice"),
    "ids of floats": (lambda e: e.reset([0.0, 1.0]), "expected integers or bool"),
    "one id": (lambda e: e.reset(3), r"shape \[\]"),
    "mask too short": (lambda e: e.reset([True, False]), "mask of 2; .* 11"),
    "root_pos of the wrong width": (lambda e: e.reset(root_pos=[0.0, 0.0]), r"root_pos has shape \[2\]"),
    "root_rot of the wrong width": (lambda e: e.reset(root_rot=[0.0, 0.0, 1.0]), r"root_rot has shape \[3\]"),
    "root_pos with NaN": (lambda e: e.reset(root_pos=[0.0, NAN, 0.0]), "root_pos has entries that are NaN"),
    "offset too far": (lambda e: e.future([0, 5]), r"offset 5 is outside the window of frames 0\.\.4"),
    "offset before": (lambda e: e.future([-1]), "offset -1"),
    "offsets of floats": (lambda e: e.future([0.5]), "sequence of integers"),
    "one offset": (lambda e: e.future(3), "sequence of integers"),
    "frames of unequal length": (lambda e: e.frames([0, 1], [0]), r"offsets has shape \[1\]; expected \[2\]"),
    "frames of floats": (lambda e: e.frames([0], [0.0]), "expected integers"),
    "frames of another environment": (lambda e: e.frames([11], [0]), r"env_ids has 11; expected 0\.\.10"),
    "rollout without a length": (lambda e: e.rollout(e.bank, [0.0] * 3), "num_frames is None"),
    "rollout of negative length": (lambda e: e.rollout(e.bank, [0.0] * 3, -1), "num_frames is -1"),
    "rollout of two lengths": (lambda e: e.rollout(e.bank, np.zeros((40, 5, 3)), 6), "num_frames is 6 .* 5"),
    "rollout of a single row": (lambda e: e.rollout(e.bank[0], [0.0] * 3, 4), r"expected \[n, 10\]"),
    "rollout with NaN": (lambda e: e.rollout(e.bank, [NAN] * 3, 4), "commands has entries that are NaN"),
    "rollout with NaN on the device": (
        lambda e: e.rollout(e.bank, torch.full((3,), NAN, device=e.device), 4),
        "commands has entries that are NaN",
    ),
    "rollout with commands for others": (lambda e: e.rollout(e.bank, np.zeros((3, 5, 3))), r"\[40, n, 3\]"),
    "rollout beyond the limits": (lambda e: e.rollout(far(e), [0.1, 0.0, 0.1], 2), BEYOND),
    "no pool": (lambda e: e.make_pool(0, 5, [0.0] * 3), "num_trajectories is 0"),
    "pool of bool frames": (lambda e: e.make_pool(2, True, [0.0] * 3), "num_frames is True"),
    "pool with a command too many": (lambda e: e.make_pool(2, 5, np.zeros((2, 5, 3))), POOL_SHAPES),
    "pool with NaN": (lambda e: e.make_pool(2, 5, [NAN] * 3), "commands has entries that are NaN"),
    "pool of other motions": (
        lambda e: e.make_pool(2, 5, [0.0] * 3, np.zeros((3, 10))),
        r"motion has shape \[3, 10\]",
    ),
    "pool beyond the limits": (lambda e: e.make_pool(NUM_ENVS, 4, [0.1, 0.0, 0.1], far(e)), BEYOND),
    "another trajectory": (
        lambda e: e.make_pool(2, 5, [0.0] * 3).frames([2], [0]),
        r"trajectory_ids has 2; expected 0\.\.1",
    ),
    "pool's frames of unequal length": (
        lambda e: e.make_pool(2, 5, [0.0] * 3).frames([0, 1], [0]),
        r"frame_ids has shape \[1\]; expected \[2\]",
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_arguments(made: tuple[Path, Truth], name: str, device: str) -> None:
    call, message = WRONG_CALLS[name]
    engine = load_engine(made[0], NUM_ENVS, device, "torch", horizon=5)
    engine.reset(command=[0.2, 0.0, 0.1])
    before = [state(engine), engine.command.clone(), *engine.future(range(5))]
    with pytest.raises(EngineError, match=message) as caught:
        call(engine)
    assert "\n" not in str(caught.value)
    for value, expected in zip([state(engine), engine.command, *engine.future(range(5))], before):
        assert torch.equal(value, expected)
