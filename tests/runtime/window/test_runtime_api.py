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
NAN = float("nan")


@pytest.fixture
def engine(made: tuple[Path, Truth], request: pytest.FixtureRequest) -> Engine:
    return load_engine(made[0], NUM_ENVS, getattr(request, "param", "cpu"), "torch", command_ramp_s=0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attributes_and_views(made: tuple[Path, Truth], backend: str) -> None:
    engine = load_engine(made[0], NUM_ENVS, backend=backend)
    assert (engine.num_envs, engine.fps, engine.device) == (NUM_ENVS, 50.0, torch.device("cpu"))
    assert engine.joint_names == tuple(f"joint_{i}" for i in range(5))
    low, high = engine.command_range
    assert torch.equal(low, made[1].low.float()) and torch.equal(high, made[1].high.float())
    assert f"{backend}_fp32" in engine.selection and backend in repr(engine)

    addresses = engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr()
    engine.reset()
    held, copy = engine.step()[0], engine.dof_pos.clone()
    dof_pos, dof_vel = engine.step()
    assert held is dof_pos is engine.dof_pos and dof_vel is engine.dof_vel and not torch.equal(held, copy)
    engine.reset([3])
    engine.set_command(high)
    assert addresses == (engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr())


@pytest.mark.parametrize("engine", DEVICES, indirect=True)
def test_stepping_before_every_environment_was_reset_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"11 of 11 .* reset\(\)"):
        engine.step()
    engine.reset(range(5))
    engine.reset(torch.arange(5, 10, device=engine.device))
    with pytest.raises(EngineError, match="1 of 11"):
        engine.step()
    engine.reset(torch.arange(NUM_ENVS, device=engine.device) == 10)
    engine.step()


@pytest.mark.parametrize("ids", [[9, 0, 4], []])
@pytest.mark.parametrize("form", [list, tuple, np.int32, torch.tensor, torch.IntTensor, "mask"])
def test_env_ids_in_every_form(engine: Engine, truth: Truth, generator: torch.Generator, ids: Any, form: Any) -> None:
    before, rows = truth.states(NUM_ENVS, generator), truth.states(NUM_ENVS, generator)
    engine.reset(motion=before)
    env_ids = np.isin(np.arange(NUM_ENVS), ids) if form == "mask" else form(ids)
    engine.reset(env_ids, motion=rows if form == "mask" else rows[ids])  # a mask goes with one row per environment
    before[ids] = rows[ids]
    assert torch.equal(state(engine), before)
    engine.set_command([0.1, 0.2, 0.3], env_ids)
    assert engine.command.any(dim=1).nonzero().flatten().tolist() == sorted(ids)  # zero at first
    engine.step()


def test_without_a_motion_states_come_from_the_bank_by_seed(made: tuple[Path, Truth]) -> None:
    one, same, other = (load_engine(made[0], 200, seed=seed, backend="torch") for seed in (5, 5, 6))
    for engine in (one, same, other):
        engine.reset()
    before = state(one)
    assert torch.equal(before, state(same)) and not torch.equal(before, state(other))
    drawn = {tuple(row) for row in before.tolist()}
    assert drawn <= {tuple(row) for row in one.bank.tolist()} and len(drawn) > 20
    one.reset()
    assert not torch.equal(state(one), before)


def test_every_reset_draws_states_that_no_other_one_had(engine: Engine, rng: np.random.Generator) -> None:
    drawn: list[int] = []
    for _ in range(100):
        ids = rng.permutation(NUM_ENVS)[: rng.integers(1, NUM_ENVS + 1)]
        engine.reset(ids)
        same = (state(engine)[ids].unsqueeze(1) == engine.bank).all(dim=2)
        assert same.any(dim=1).all()
        drawn += same.int().argmax(dim=1).tolist()
    parts = [tuple(drawn[i : i + 10]) for i in range(len(drawn) - 9)]
    assert len(set(parts)) == len(parts) and len(set(drawn)) > 0.9 * len(engine.bank)


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.tolist, torch.Tensor.numpy])
def test_motions_and_commands_of_any_real_type(engine: Engine, truth: Truth, generator: Any, convert: Any) -> None:
    motion, command = truth.states(NUM_ENVS, generator), truth.commands(NUM_ENVS, generator)
    engine.reset(motion=convert(motion), command=convert(command))
    for seen, given in ((state(engine), motion), (engine.command, command)):
        assert torch.allclose(seen, given, rtol=1e-3, atol=1e-7)  # half precision is that far off zero


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
    message = "5 commands were clamped .*; 0 commands and 0 motions .*; 0 lookups .*; 0 generated"
    with pytest.warns(RuntimeWarning, match=message):
        report = engine.report()
    assert (report.commands_clamped, report.entries_clamped) == (5, 13)
    assert (report.commands_ignored, report.motions_ignored) == (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beyond = engine.rollout(engine.bank[:2], (high + 1).expand(2, 3), num_frames=4)
        assert engine.report().commands_clamped == 5 + 2 * 4
    assert torch.equal(beyond, engine.rollout(engine.bank[:2], high, num_frames=4))


def test_what_needs_a_window_or_a_reset_says_so(made: tuple[Path, Truth], engine: Engine) -> None:
    engine.reset()
    for call in (lambda: engine.future([0]), lambda: engine.frames([0], [0]), lambda: engine.reset(root_pos=[0.0] * 3)):
        with pytest.raises(EngineError, match="horizon is 1; load the engine with a horizon of 2 or more"):
            call()
    with pytest.raises(EngineError, match="2 of 2 .* before future"):
        load_engine(made[0], 2, backend="torch", horizon=3).future([0])


def far(engine: Engine) -> torch.Tensor:
    """Motions on the host, one of them beyond every limit."""
    motion = engine.bank[:NUM_ENVS].cpu().clone()
    motion[1, 2] = 1e4
    return motion


BEYOND = r"motion has 1e\+04 at \[1, 2\], where no motion of this engine is"
POOL_SHAPES = r"commands has shape \[2, 5, 3\]; expected \[2, 4, 3\] or \[2, 3\] or \[3\]"
WRONG_CALLS: list[tuple[Any, str]] = [
    (lambda e: e.reset(motion=np.zeros((NUM_ENVS, 9))), r"motion has shape \[11, 9\]; expected \[11, 10\] or \[10\]"),
    (lambda e: e.reset([1, 2], motion=np.zeros((3, 10))), r"motion has shape \[3, 10\].*\[2, 10\]"),
    (lambda e: e.reset([True] + [False] * 10, motion=np.zeros((1, 10))), r"shape \[1, 10\]; expected \[11, 10\]"),
    (lambda e: e.reset(motion=[1e300] * 10), "motion has entries that are NaN or infinite; expected finite float32"),
    (lambda e: e.reset(motion="walk"), "motion is not an array of numbers"),
    (lambda e: e.reset(motion=[[1.0], [1.0, 2.0]]), "motion is not an array of numbers"),
    (lambda e: e.reset(motion=[True] * 10), "motion has type torch.bool; expected real numbers"),
    (lambda e: e.reset(motion=far(e)), BEYOND),
    (lambda e: e.reset(motion=[0.0] * 10, command=[0.0] * 4), "command has shape"),  # after a good motion
    (lambda e: e.set_command([0.0, 0.0]), r"command has shape \[2\]; expected \[11, 3\] or \[3\]"),
    (lambda e: e.set_command([0.0, NAN, 0.0]), "command has entries that are NaN"),
    (lambda e: e.set_command(torch.zeros(3, dtype=torch.cfloat)), "expected real numbers"),
    (lambda e: e.set_command(torch.zeros(3, device="meta")), "command is on meta; expected"),
    (lambda e: e.reset([0, 11]), r"env_ids has 11; expected 0\.\.10"),
    (lambda e: e.set_command([0.0] * 3, [-1]), r"env_ids has -1; expected 0\.\.10"),
    (lambda e: e.reset([3, 1, 3]), "env_ids has the same id twice"),
    (lambda e: e.reset([0.0, 1.0]), "env_ids has type .*; expected integers or bool"),
    (lambda e: e.reset(3), r"env_ids has shape \[\]"),
    (lambda e: e.reset([True, False]), "mask of 2; .* 11"),
    (lambda e: e.step([True] * 10), r"moving has shape \[10\] and type torch.bool; expected \[11\] bool"),
    (lambda e: e.step(range(NUM_ENVS)), r"moving has shape \[11\] and type torch.int64; expected \[11\] bool"),
    (lambda e: e.step(torch.ones(NUM_ENVS, dtype=torch.bool, device="meta")), "moving is on meta; expected"),
    (lambda e: e.reset(root_pos=[0.0, NAN, 0.0]), "root_pos has entries that are NaN"),
    (lambda e: e.reset(root_pos=[0.0, 0.0]), r"root_pos has shape \[2\]"),
    (lambda e: e.reset(root_rot=[0.0, 0.0, 1.0]), r"root_rot has shape \[3\]"),
    (lambda e: e.future([0, 5]), r"offset 5 is outside the window of frames 0\.\.4"),
    (lambda e: e.future([-1]), "offset -1"),
    (lambda e: e.future(3), "sequence of integers"),
    (lambda e: e.frames([0, 1], [0]), r"offsets has shape \[1\]; expected \[2\]"),
    (lambda e: e.frames([0], [0.0]), "expected integers"),
    (lambda e: e.frames([11], [0]), r"env_ids has 11; expected 0\.\.10"),
    (lambda e: e.rollout(e.bank, [0.0] * 3, -1), "num_frames is -1"),
    (lambda e: e.rollout(e.bank, np.zeros((40, 5, 3)), 6), "num_frames is 6 .* 5"),
    (lambda e: e.rollout(e.bank[0], [0.0] * 3, 4), r"expected \[n, 10\]"),
    (lambda e: e.rollout(e.bank, torch.full((3,), NAN, device=e.device), 4), "commands has entries that are NaN"),
    (lambda e: e.rollout(e.bank, np.zeros((3, 5, 3))), r"\[40, n, 3\]"),
    (lambda e: e.rollout(far(e), [0.1, 0.0, 0.1], 2), BEYOND),
    (lambda e: e.make_pool(0, 5, [0.0] * 3), "num_trajectories is 0"),
    (lambda e: e.make_pool(2, True, [0.0] * 3), "num_frames is True"),
    (lambda e: e.make_pool(2, 5, np.zeros((2, 5, 3))), POOL_SHAPES),
    (lambda e: e.make_pool(2, 5, [NAN] * 3), "commands has entries that are NaN"),
    (lambda e: e.make_pool(2, 5, [0.0] * 3, np.zeros((3, 10))), r"motion has shape \[3, 10\]"),
    (lambda e: e.make_pool(NUM_ENVS, 4, [0.1, 0.0, 0.1], far(e)), BEYOND),
    (lambda e: e.make_pool(2, 5, [0.0] * 3).frames([2], [0]), r"trajectory_ids has 2; expected 0\.\.1"),
    (lambda e: e.make_pool(2, 5, [0.0] * 3).frames([0, 1], [0]), r"frame_ids has shape \[1\]; expected \[2\]"),
]


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments(made: tuple[Path, Truth], device: str) -> None:
    engine = load_engine(made[0], NUM_ENVS, device, "torch", horizon=5)
    engine.reset(command=[0.2, 0.0, 0.1])
    before = [state(engine), engine.command.clone(), *engine.future(range(5))]
    for call, message in WRONG_CALLS:
        with pytest.raises(EngineError, match=message) as caught:
            call(engine)
        assert "\n" not in str(caught.value)
        for value, expected in zip([state(engine), engine.command, *engine.future(range(5))], before):
            assert torch.equal(value, expected), message
