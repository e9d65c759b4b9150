"""Engines and the drop-ins are freed with their last reference, can be closed, and are never copied by halves."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine, read_manifest
from cmg_runtime.backends import backend_class
from cmg_runtime.commands.sampler import STRATEGIES, CommandSampler
from cmg_runtime.commands.smoother import CommandSmoother
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG
from devices import EVERYWHERE, on_gpu
from dropin_case import g1_case
from engine_folder import BACKENDS
from window_case import load, random_robot_case

WITHOUT_ROBOT = Path(__file__).resolve().parents[2] / "golden" / "schema_1"
NUM_ENVS, HORIZON = 5, 6
CLOSED = "^this {} was closed; load it again$"


@pytest.fixture
def no_collector() -> Iterator[None]:
    for make in (random_robot_case, g1_case):
        make()  # now: exporters keep the frames of whoever called them
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def used(device: str, backend: str, horizon: int) -> tuple[Engine, Engine, list[Any]]:
    """An engine after all that it can be asked for, once more, and what it made that refers to it."""
    engine = load(device, backend, NUM_ENVS, horizon=horizon)
    engine.reset(command=[0.3, 0.1, -0.2])
    engine.step()
    pool, made = engine.make_pool(3, 2 * HORIZON, [0.2, 0.0, 0.1]), []
    with pytest.raises(EngineError):
        engine.set_command([1.0, 2.0])
    if horizon > 1:
        made = [engine.future_view([0, 2]), engine.planned_starts(pool)]
        made[0].refresh()
        made[1].start([0, 2])
        engine.start(pool, [1], [2], [3])
        engine.future([0, 1])
        engine.frames([0, 0], [1, 2])
    engine.set_command([0.1, 0.0, 0.0], [1])
    engine.rollout(engine.bank[:3], [0.1, 0.0, 0.0], 2)
    engine.report()
    return engine, engine, made


def motion_lib(mode: str) -> tuple[MotionLibCMG, Engine, list[Any]]:
    """A library that was used, its engine, and nothing else."""
    lib = MotionLibCMG(g1_case().folder, None, 3, 8, NUM_ENVS, "cpu", mode=mode, horizon=4)
    lib.reset([0, 1])
    lib.step()
    lib.calc_motion_frame([0, 2], [0.0, 0.01])
    return lib, lib._engine, []


def motion_generator(mode: str) -> tuple[CMGMotionGenerator, Engine, list[Any]]:
    generator = CMGMotionGenerator(g1_case().folder, None, NUM_ENVS, "cpu", mode, preload_duration=4)
    generator.reset(commands=[0.5, 0.0, 0.0])
    generator.get_motion([1])
    generator.get_motion_with_body_transforms()
    return generator, generator.engine, []


KEPT = [(used, (*on, horizon)) for on in EVERYWHERE[: len(BACKENDS)] for horizon in (1, HORIZON)]
KEPT += [on_gpu(used, ("cuda", backend, h)) for backend in ("fused", "torch", "onnx") for h in (1, HORIZON)]
KEPT += [(make, (mode,)) for make in (motion_lib, motion_generator) for mode in ("pregenerated", "realtime")]


@pytest.mark.slow
@pytest.mark.parametrize("make, arguments", KEPT)
def test_engines_and_drop_ins_are_freed_with_their_last_reference(
    no_collector: None, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    thing, engine, made = make(*arguments)
    # The bank is also held by what steps, so it tells of those parts that could outlive the engine.
    alive = [weakref.ref(part) for part in (thing, engine, engine.bank, *made)]
    del thing, engine, made
    assert [part() for part in alive] == [None] * len(alive)


@pytest.mark.parametrize("make, arguments", KEPT)
def test_closed_engines_and_drop_ins_are_empty_and_say_so_at_every_use(
    no_collector: None, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    thing, engine, made = make(*arguments)
    names = [name for name in dir(thing) if not name.startswith("_") and name not in ("close", "after_fork")]
    bank, dof_pos = weakref.ref(engine.bank), engine.dof_pos
    pool = engine.make_pool(2, 3, [0.0, 0.0, 0.0])
    expected, before = dof_pos.clone(), pool.frames([0, 1], [2, 1]).dof_pos
    with pytest.raises(KeyError), thing as same:
        assert same is thing
        raise KeyError("of the caller")  # passes, and all is freed none the less
    assert bank() is None  # although the engine, its views and its plans are held
    thing.close()
    closed = CLOSED.format(type(thing).__name__)
    assert len(names) > 10
    for name in names:  # what it had while it was open
        with pytest.raises(EngineError, match=closed):
            method = getattr(thing, name)
            required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            method(*[1] * len(required))
    assert not hasattr(thing, "__array__")  # what other libraries look for in anything is an attribute like any other
    with pytest.raises(EngineError, match=closed), thing:
        pass
    for use in [made[0].refresh, lambda: made[1].start([0])] if made else []:
        with pytest.raises(EngineError, match=CLOSED.format("Engine")):
            use()
    assert "closed" in repr(engine)
    assert torch.equal(dof_pos, expected) and torch.equal(pool.frames([0, 1], [2, 1]).dof_pos, before)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "spawn": lambda thing: pickle.loads(bytes(ForkingPickler.dumps(thing))),  # what a spawned worker is given
    "save": lambda thing: torch.save(thing, io.BytesIO()),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_what_lives_in_its_devices_memory_is_not_copied() -> None:
    things: list[Any] = [motion_lib("pregenerated")[0], motion_lib("realtime")[0], motion_generator("realtime")[0]]
    folder, device = random_robot_case()[0], torch.device("cpu")
    manifest = read_manifest(folder)
    for backend in BACKENDS:
        for horizon in (1, HORIZON):
            engine, _, made = used("cpu", backend, horizon)
            things += [engine, *made]
        artifact = next(a for a in manifest.artifacts if a.backend == backend)
        things.append(backend_class(backend).load(folder, artifact, manifest, NUM_ENVS, device))
    for thing in things:
        for how in COPIES.values():
            with pytest.raises(TypeError) as e:
                how(thing)
            message = str(e.value)
            assert message.startswith(f"{type(thing).__name__} cannot be pickled or copied") and "\n" not in message
            assert "for a worker process, in the worker" in message


copied_by = pytest.mark.parametrize("how", sorted(set(COPIES) - {"save"}))


@copied_by
def test_a_copied_sampler_draws_on_and_leaves_the_other_alone(rng: np.random.Generator, how: str) -> None:
    made, twin = (CommandSampler(3, "cpu", (0.1, 1.9), seed=17) for _ in range(2))
    for strategy in rng.choice(STRATEGIES, 5):
        for sampler in (made, twin):
            sampler.sample_batch(5, str(strategy))
    copied = COPIES[how](made)
    drawn = [sampler.sample_sequence(40, 7, "curriculum") for sampler in (twin, copied, made)]
    assert torch.equal(drawn[1], drawn[0]) and torch.equal(drawn[2], drawn[0])


@copied_by
def test_a_copied_smoother_goes_on_and_leaves_the_other_alone(rng: np.random.Generator, how: str) -> None:
    made, targets = CommandSmoother(3, 20, "cpu"), torch.tensor(rng.uniform(-1, 1, (3, 3)), dtype=torch.float32)
    made.set_target(targets)
    made.get_current([0, 2])
    copied, steps = COPIES[how](made), torch.tensor([[1.0], [0.0], [1.0]])
    for step in range(25):
        torch.testing.assert_close(copied.get_current(), targets * ((steps + step) / 20).clamp(max=1))
    torch.testing.assert_close(made.get_current(), targets * steps / 20)


@copied_by
def test_copied_data_is_whole(how: str) -> None:
    engine, _, _ = used("cpu", "torch", HORIZON)
    pool = engine.make_pool(3, 2 * HORIZON, [0.2, 0.0, 0.1])
    copied = COPIES[how](pool)
    assert torch.equal(copied.frames([2, 0], [99, 1]).root_pos, pool.frames([2, 0], [2 * HORIZON - 1, 1]).root_pos)
    assert (copied.lookups_clamped(), pool.lookups_clamped()) == (1, 0)
    engine.start(copied, [2], [3], [4])
    assert torch.equal(engine.dof_pos[4], pool.frames([2], [3]).dof_pos[0])
    without_robot = load_engine(WITHOUT_ROBOT, 2, horizon=3)
    without_robot.reset()
    for source in (engine, without_robot):
        frames = source.future([0, 2])
        again = COPIES[how](frames)
        assert type(again) is type(frames) and all(map(torch.equal, again, frames))
        assert COPIES[how](source.manifest) == source.manifest and COPIES[how](source.report()) == source.report()
