"""Faults of a running process: no memory, errors in the middle of a call, a deleted folder, errors of the GPU."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import devices
from cmg_runtime import Engine, EngineError
from cmg_runtime.backends import backend_class
from engine_folder import BACKENDS, renamed_copy, state
from python_process import run_python
from window_case import assert_same, everything, random_robot_case

NUM_ENVS, HORIZON = 6, 5
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nand more lines")
NO_MEMORY = (OUT_OF_MEMORY, RuntimeError("CUDA error: out of memory\nCompile with"), MemoryError())
DEVICE_ERROR = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"
DOES_NOT_FIT = r"environments and a horizon of \d+ does not fit into the memory of "


def load(backend: str = "torch", device: str = "cpu", num_envs: int = NUM_ENVS, **more: Any) -> Engine:
    return devices.load(more.pop("folder", random_robot_case()[0]), num_envs, device, backend, horizon=HORIZON, **more)


def live_tensors() -> int:
    """How many tensors there are of those made since ``gc.freeze``."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class Failing(TorchDispatchMode):
    """Inside, the n-th operation of torch fails as one that finds no memory; they are counted."""

    def __init__(self, operation: int, error: Exception) -> None:
        super().__init__()
        self.operation, self.error, self.count = operation, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.count == self.operation:
            raise self.error
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], Any]) -> int:
    with Failing(-1, MemoryError()) as counting:
        work()
    return counting.count


def test_no_memory_at_any_operation_of_a_load(rng: np.random.Generator) -> None:
    truth = random_robot_case()[1]
    expected, count = load(), operations(lambda: load())
    assert count > 100
    gc.freeze()  # what was there before is not looked through every time
    try:
        before = live_tensors()
        for number in sorted({0, 1, 2, count - 1, *rng.choice(count, 60, replace=False).tolist()}):
            error = NO_MEMORY[number % 3]
            with pytest.raises(EngineError, match=DOES_NOT_FIT + "cpu") as e, Failing(number, error):
                load()
            message = str(e.value)
            assert "\n" not in message and "take fewer environments" in message
            assert ("Tried to allocate" in message) == (number % 3 == 0)
            assert e.value.__context__ is None
            error.__traceback__ = None
            assert live_tensors() == before, number  # while the error is still at hand
    finally:
        gc.unfreeze()
    again = load()
    for engine in (expected, again):
        engine.reset(motion=truth.mean.float(), command=[0.1, 0.0, 0.2])
        engine.step()
    assert torch.equal(state(again), state(expected))


USES: dict[str, Callable[[Engine], Any]] = {
    "step": lambda e: e.step(),
    "reset": lambda e: e.reset([0]),
    "set_command": lambda e: e.set_command([0.1, 0.0, 0.1]),
    "future": lambda e: e.future([0, 1]),
    "frames": lambda e: e.frames([0], [0]),
    "rollout": lambda e: e.rollout(e.bank, [0.1, 0.0, 0.1], 2),
    "make_pool": lambda e: e.make_pool(2, 8, [0.1, 0.0, 0.1]),
    "command_in_force": lambda e: e.command_in_force,
}


DEVICE_ERRORS = [(b, c, RuntimeError(DEVICE_ERROR)) for b in BACKENDS for c in ("step", "reset", "set_command")]


@pytest.mark.parametrize("backend, call, error", [*DEVICE_ERRORS, ("torch", "step", KeyboardInterrupt())])
def test_an_engine_that_failed_half_way_says_so_at_every_use(
    monkeypatch: pytest.MonkeyPatch, backend: str, call: str, error: BaseException
) -> None:
    engine = load(backend)
    engine.reset(command=[0.2, 0.0, 0.1])
    view, pool = engine.future_view([0, 2]), engine.make_pool(2, 9, [0.1, 0.0, 0.1])
    view.refresh()
    planned = engine.planned_starts(pool)

    monkeypatch.setattr(backend_class(backend), "step", Mock(side_effect=error))
    with pytest.raises((EngineError, KeyboardInterrupt)) as first:  # which passes as it is
        USES[call](engine)
    assert error in (first.value, first.value.__cause__)
    monkeypatch.undo()  # what failed once may work again: the state is half changed all the same
    reason = "KeyboardInterrupt" if first.value is error else "CUDA error: device-side assert triggered"
    message = f"this engine failed and its frames are not to be used: {reason}; load it again"
    assert first.value is error or str(first.value) == message
    others: list[Callable[[Engine], Any]] = [lambda e: view.refresh(), lambda e: planned.start([1])]
    others += [lambda e: e.start(pool, [0], [0], env_ids=[1]), lambda e: e.planned_starts(pool)]
    others += [lambda e: e.future_view([0]), lambda e: e.report(), *USES.values()]
    for use in others:  # nothing is done any more, on a device that may have failed with it
        with pytest.raises(EngineError) as later, Failing(0, AssertionError("an operation")):
            use(engine)
        assert str(later.value) == message


@pytest.mark.parametrize("call", sorted(USES))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_error_of_the_device_that_comes_up_anywhere_fails_the_engine(call: str, share: float) -> None:
    """It is of work that was enqueued before, so it may come up in any call, before that has changed anything."""
    engine = load()
    engine.reset(command=[0.2, 0.0, 0.1])
    USES[call](engine)  # whose first call may do more
    count, said = operations(lambda: USES[call](engine)), ""
    errors = DEVICE_ERROR, "cuLaunchKernelEx: an illegal memory access was encountered (700)"
    for operation in range(round(share * (count - 1)), count):
        with pytest.raises(EngineError) as caught, Failing(operation, RuntimeError(errors[share > 0])):
            USES[call](engine)
        said = str(caught.value)
        if "not an array of numbers" not in said:  # that was made on the host of what the caller gave
            break
    failed = "this engine failed and its frames are not to be used: [^\n]*(assert|illegal)[^\n]*; load it again"
    assert re.fullmatch(failed, said)
    for use in USES.values():
        with pytest.raises(EngineError, match="^" + re.escape(said) + "$"):
            use(engine)


def test_an_error_of_the_device_that_the_watch_meets_fails_the_engine() -> None:
    """Every 256 steps, the step ends with a look at the number of bad frames."""
    engine, same = (load() for _ in range(2))
    for one in (engine, same):
        one.reset()
        for _ in range(255):
            one.step()
    looking, without = operations(same.step), operations(same.step)
    assert looking > without
    failed = "this engine failed .*assert triggered; load it again"
    for operation in (looking - 1, -1):
        with pytest.raises(EngineError, match=failed), Failing(operation, RuntimeError(DEVICE_ERROR)):
            engine.step()


def test_another_error_at_load_or_before_anything_has_changed_passes_as_it_is() -> None:
    engine = load()
    engine.reset()
    graphs = RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors")
    for error in (RuntimeError("something else"), NO_MEMORY[1], OUT_OF_MEMORY, graphs):
        with pytest.raises(RuntimeError) as caught, Failing(1, error):
            engine.reset(torch.tensor([0]))
        assert caught.value is error
    engine.step()
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError) as caught, Failing(40, error):
        load()
    assert caught.value is error


@pytest.mark.parametrize("call", sorted(set(USES) - {"step", "reset", "set_command"}))
def test_a_query_that_fails_changes_nothing(call: str) -> None:
    engine, same = (load() for _ in range(2))
    for one in (engine, same):
        one.reset(motion=one.bank[:NUM_ENVS], command=[0.2, 0.0, 0.1])
    with pytest.raises(torch.cuda.OutOfMemoryError), Failing(1, OUT_OF_MEMORY):
        USES[call](engine)
    for one in (engine, same):
        one.step()
    assert_same(everything(engine), everything(same))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_folder_deleted_while_its_engine_runs(tmp_path: Path, backend: str) -> None:
    folder = renamed_copy(tmp_path / "engine", "engine")
    engine, same = (load(backend, folder=folder) for _ in range(2))
    for one in (engine, same):
        one.reset(motion=one.bank[:NUM_ENVS], command=[0.2, 0.0, 0.1])
        one.step()
    seen = []
    for one in (engine, same):
        seen.append(life(one))
        shutil.rmtree(folder, ignore_errors=True)  # for the second
    assert torch.equal(*seen)
    with pytest.raises(EngineError, match="make engine"):
        load(backend, folder=folder)


def life(engine: Engine) -> torch.Tensor:
    """What every kind of call gives, in a row."""
    engine.set_command([0.1, 0.1, 0.0], [1])
    engine.reset([2], motion=engine.bank[3])
    for _ in range(7):
        engine.step()
    rolled = engine.rollout(engine.bank[:3], [0.1, 0.0, 0.1], 4)
    pool = engine.make_pool(2, 9, [0.1, 0.0, 0.1], engine.bank[:2])
    engine.start(pool, [1], [2], env_ids=[0])
    made = *engine.future(range(HORIZON)), *pool.frames([0] * 9 + [1] * 9, [*range(9)] * 2), rolled
    return torch.cat([values.flatten() for values in made])


CUDA_ERROR = """
import contextlib, os, sys, time
import torch
from cmg_runtime import EngineError, load_engine
engine = load_engine(sys.argv[1], 300, "cuda", sys.argv[2], horizon=6)
engine.reset(command=[0.2, 0.0, 0.1])
for _ in range(3):
    engine.step()
torch.cuda.synchronize()
env_id = int(sys.argv[4])  # of none: fails an assert on the device
engine.frames(torch.tensor([env_id], device="cuda"), torch.tensor([0], device="cuda"))
if sys.argv[3] == "noticed":
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()
said, calls = [], [engine.step] * 2000 + [lambda: engine.reset([0]), lambda: engine.future([0])]
while calls:
    try:
        time.sleep(1e-3)  # an environment's own work
        calls.pop(0)()
    except EngineError as error:
        said.append(str(error))
        print(said[-1], file=sys.stderr, flush=True)
        if len(said) == 3:
            del calls[:-2]
print(repr(said), flush=True)
os._exit(0)  # with a broken context, what would be freed at the end only complains
"""


@pytest.mark.gpu
@pytest.mark.parametrize("when, env_id", [("noticed", "300"), ("unnoticed", "-1")])
@pytest.mark.parametrize("backend", ["torch", "fused", "torchscript"])
def test_a_cuda_error_is_loud_and_lasting(backend: str, when: str, env_id: str) -> None:
    """In a process of its own: no CUDA call works in one afterwards. Known to the host already, or found by a step."""
    done = run_python("-X", "faulthandler", "-c", CUDA_ERROR, str(random_robot_case()[0]), backend, when, env_id)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    said = eval(done.stdout.splitlines()[-1])
    assert len(said) == 5 and len(set(said)) == 1
    reason = "(device-side assert|unspecified launch failure)"  # CUDA calls a failed assert now this, now that
    assert re.fullmatch(f"this engine failed and its frames are not to be used: .*{reason}.*; load it again", said[0])


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """A function that limits torch to so many bytes of the GPU."""
    total, limit = torch.cuda.get_device_properties(0).total_memory, torch.cuda.set_per_process_memory_fraction
    yield lambda most: limit(min(1.0, most / total))
    limit(1.0)


def allocated() -> int:
    """Bytes of the GPU that torch holds by now, besides what it keeps for each stream that cuBLAS was used on."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_full_gpu_at_load_and_at_capture(backend: str, limited: Callable[[int], None]) -> None:
    """With more and more memory, so that it is short in every part of a load in turn."""
    truth = random_robot_case()[1]
    load(backend, "cuda", 3000, command_ramp_s=0.0).reset()  # what libraries take by themselves
    before, stream = allocated(), torch.cuda.current_stream()
    refused, engine = 0, None
    while engine is None:
        limited(torch.cuda.memory_reserved() + (6 * refused << 20))
        try:
            engine = load(backend, "cuda", 3000, command_ramp_s=0.0)
        except EngineError as error:
            assert "\n" not in str(error) and "does not fit into the memory of cuda:0" in str(error)
            refused += 1
            assert refused < 500
            assert allocated() == before
            assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
    print(f"{refused} sizes were refused")
    assert refused > 3
    limited(1 << 40)
    motion = truth.states(3000, torch.Generator().manual_seed(1))
    engine.reset(motion=motion, command=truth.low.float())
    engine.step()
    assert truth.error(state(engine), truth.step(motion, truth.low.float().expand(3000, 3))) < 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_gpu_without_memory_during_captures(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's n-th step finds none, in warm-ups, in the trial of a capture and in captures, wherever that is."""
    count = 0
    kind = backend_class("torch")
    step = kind.step

    def fail(self: Any, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise OUT_OF_MEMORY
        step(self, motion, command, out)

    load("torch", "cuda", 300)
    stream = torch.cuda.current_stream()
    monkeypatch.setattr(kind, "step", fail)
    with pytest.raises(EngineError, match=DOES_NOT_FIT + "cuda:0 .CUDA out of memory") as caught:
        load("torch", "cuda", 300)
    assert "\n" not in str(caught.value)
    assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
    monkeypatch.undo()
    engine = load("torch", "cuda", 300)
    engine.reset()
    engine.step()
    assert torch.isfinite(state(engine)).all()
