"""Every count, seed and offset: any integral type is one, a bool or a float is refused in one line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.commands.smoother import CommandSmoother
from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG
from engine_folder import shared_robot_folder


@pytest.fixture(scope="module")
def folder() -> Path:
    return shared_robot_folder()[0]


def load(folder: Path, **given: Any) -> Engine:
    engine = load_engine(folder, **{"num_envs": 3, "backend": "torch", "horizon": 4, **given})
    engine.reset()
    return engine


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_any_integral_type_is_an_integer(folder: Path, kind: Any) -> None:
    engine, plain = load(folder, num_envs=kind(3), horizon=kind(4), seed=kind(7)), load(folder, seed=7)
    assert type(engine.num_envs) is int and engine.num_envs == 3 and engine.horizon == 4
    assert torch.equal(engine.dof_pos, plain.dof_pos)
    assert torch.equal(engine.future([kind(1), kind(3)]).dof_pos, plain.future([1, 3]).dof_pos)
    assert engine.rollout(engine.bank[:1], [0.0] * 3, kind(5)).shape[1] == 6
    sampler = CommandSampler(kind(3), "cpu", seed=kind(7))
    assert torch.equal(sampler.sample_batch(kind(2)), CommandSampler(3, "cpu", seed=7).sample_batch(2))
    assert sampler.sample_sequence(kind(6), kind(2)).shape == (3, 6, 3)
    assert CommandSmoother(kind(255), kind(5), "cpu").get_current().shape == (255, 3)  # the largest of a uint8
    counts = {"num_envs": kind(2), "buffer_size": kind(9), "preload_duration": kind(6), "seed": kind(7)}
    generator = CMGMotionGenerator(folder, device="cpu", backend="torch", **counts)
    generator.reset()
    assert generator.get_motion()[0].shape[0] == 2
    sizes = {"num_motions": kind(5), "motion_length": kind(8), "num_envs": kind(2), "horizon": kind(3)}
    library = MotionLibCMG(folder, device="cpu", dof_dim=kind(5), backend="torch", body_names=("root",), **sizes)
    assert library.sample_motions(kind(4)).shape == (4,)


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), 4.0, np.float32(4), "4", None])
def test_what_is_none_is_refused_in_one_line(folder: Path, value: Any) -> None:
    engine = load(folder)
    refused = {
        "num_envs": lambda: load_engine(folder, value),
        "horizon": lambda: load_engine(folder, 2, horizon=value),
        "seed": lambda: load_engine(folder, 2, seed=value),
        "offsets": lambda: engine.future([value]),
        "num_frames": lambda: engine.rollout(engine.bank[:1], [0.0] * 3, value),
        "n is": lambda: CommandSampler(2, "cpu").sample_batch(value),
        "duration": lambda: CommandSampler(2, "cpu").sample_sequence(value),
        "interpolation_steps": lambda: CommandSmoother(2, value, "cpu"),
        "buffer_size": lambda: CMGMotionGenerator(folder, device="cpu", buffer_size=value),
        "motion_length": lambda: MotionLibCMG(folder, motion_length=value, device="cpu"),
        "dof_dim": lambda: MotionLibCMG(folder, dof_dim=value, device="cpu"),
    }
    for name, ask in refused.items():
        with pytest.raises(EngineError, match=name) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_integers_beyond_what_can_be_are_refused(folder: Path) -> None:
    engine = load(folder)
    endless: list[Any] = [range(10**20), itertools.repeat(0)]
    for offsets in endless:
        with pytest.raises(EngineError, match="more than 1048576 offsets"):
            engine.future(offsets)
    for seed in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(EngineError, match="seed is"):
            load(folder, seed=seed)
    for value in (10**400, -(10**400), 10**9000):  # Python makes no float or text of these
        for name in ("num_envs", "horizon", "seed"):
            with pytest.raises(EngineError, match=f"^{name} is an integer of [0-9]+ bits; expected an integer"):
                load(folder, **{name: value})
