"""The soak passes an engine that is sound, its plain rollout is right, and each fault that it looks for is found."""

from __future__ import annotations

import gc
import itertools
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_export.soak import __main__ as soak
from cmg_export.soak.changes import draw_changes, first_reset
from cmg_export.soak.limits import grown, slowed
from cmg_export.soak.run import _Soak
from cmg_export.soak.watch import Latency, Memory
from cmg_runtime import Engine, ReferenceFrames, load_engine
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.limits import limits
from engine_folder import SEED, no_waiting, shared_engine_folder
from window_case import random_robot_case

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
NUM_ENVS, HORIZON, STEPS = 19, 8, 300


@pytest.fixture(autouse=True, scope="module")
def counted_anew() -> Iterator[None]:
    """Only what these tests make is collected and counted: going through all that torch has made takes a second."""
    random_robot_case()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def arguments(out: Path, *more: str) -> list[str]:
    folder = random_robot_case()[0]
    files = ["--engine", folder, "--checkpoint", folder / "checkpoint" / "cmg_final.pt", "--out", out]
    numbers = ["--num-envs", NUM_ENVS, "--horizon", HORIZON, "--steps", STEPS, "--seed", SEED, "--checks", 10]
    return [*map(str, [*files, *numbers, "--sampled", 7, "--change-every", 9]), "--device", "cpu", *more]


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "soak.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("backend, precision", [("torch", "fp16"), ("onnx", "fp32")])
def test_a_sound_engine_passes(tmp_path: Path, capsys: Capture, backend: str, precision: str) -> None:
    status = soak.main(arguments(tmp_path, "--backend", backend, "--precision", precision, "--slowdown", "20"))
    said, report = capsys.readouterr(), found(tmp_path)
    assert status == 0, said
    assert (report["backend"], report["precision"], report["failures"]) == (backend, precision, [])
    assert report["steps"] == report["asked"] == STEPS and len(report["checks"]) == 10
    assert report["environments"] == NUM_ENVS  # 10 times 7 of them, others each time
    counters = report["counters"]
    assert min(counters["commands_clamped"], counters["entries_clamped"], counters["lookups_clamped"]) > 0
    assert counters["frames_replaced"] == counters["commands_ignored"] == counters["motions_ignored"] == 0
    assert report["changes"]["resets"] > 20 and report["changes"]["command changes"] > 10
    assert all(0 <= deviation["value"] < 0.5 for deviation in report["worst"].values())
    assert report["worst"]["one step"]["value"] > 1e-9 and report["worst"]["place"]["env"] in range(NUM_ENVS)
    assert all(latency["p99"] >= latency["p50"] > 0 for latency in report["latency"])
    assert "passed" in said.out and "10 checks, 19 of 19 environments" in said.out and not said.err


def after(steps: int, monkeypatch: Patch, fault: Callable[[Engine], Any]) -> None:
    """Let ``fault`` happen in every step from so many on."""
    step, count = Engine.step, itertools.count(1)

    def faulty(engine: Engine) -> Any:
        result = step(engine)
        if next(count) > steps:
            fault(engine)
        return result

    monkeypatch.setattr(Engine, "step", faulty)


def run(out: Path, capsys: Capture, *more: str) -> list[str]:
    """The lines on stderr of a soak that fails."""
    assert soak.main(arguments(out, "--backend", "torch", *more)) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert "FAILED" in said.out and found(out)["failures"] == [line[len("cmg_export.soak: ") :] for line in lines]
    return lines


@pytest.mark.slow
def test_leaks_are_found(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    kept: list[Any] = []

    def leak(engine: Engine) -> None:
        pages = mmap.mmap(-1, 300_000)  # from the system: what the process has freed before is not used again
        pages.write(b"x" * len(pages))
        kept.extend([engine.dof_pos.clone(), pages, [[[]], [[]], [[]]]])

    after(0, monkeypatch, leak)
    said = run(tmp_path, capsys, "--slowdown", "20")
    for what in ("the number of live tensors", "the number of Python's objects", "the process's memory"):
        begins, ends = f"{what} grew from", f"in {STEPS} steps; expected a growth of at most"
        assert any(begins in line and ends in line for line in said), said


def from_step_251(monkeypatch: Patch, fault: Callable[[ReferenceFrames, Engine], Any]) -> list[Engine]:
    """Let ``fault`` change the window that the engine gives; what is returned is empty until then."""
    future, late = Engine.future, []
    after(250, monkeypatch, late.append)

    def faulty(engine: Engine, offsets: Any) -> ReferenceFrames:
        frames = future(engine, offsets)
        if late:
            fault(frames, engine)
        return frames

    monkeypatch.setattr(Engine, "future", faulty)
    return late


def shift(frames: ReferenceFrames, engine: Engine) -> None:
    """A joint, a root and a body of three environments are off, and another's current frame stays behind."""
    frames.dof_pos[11, -1, 1] += 2e-2
    frames.root_pos[12, -1, 0] += 1e-2
    frames.key_body_pos[13, -1, -1, 1] += 0.5  # more than the bodies of the joint that is off
    engine.dof_pos[14] = 0.1


def not_a_number(frames: ReferenceFrames, engine: Engine) -> None:
    frames.dof_pos[11, -1, 2] = float("nan")
    frames.root_vel[15, -1, :2] += 0.1  # of a command that was forgotten


DRIFTS = (
    (shift, {"one row": 11, "place": 12, "bodies": 13, "current": 14}),
    (not_a_number, {"one row nan": 11, "velocity": 15}),
)


@pytest.mark.slow
@pytest.mark.parametrize("fault, found_in", DRIFTS)
def test_a_window_that_drifts_is_found(
    tmp_path: Path, capsys: Capture, monkeypatch: Patch, fault: Callable[..., Any], found_in: dict[str, int]
) -> None:
    from_step_251(monkeypatch, fault)
    said = run(tmp_path, capsys, "--sampled", "1000", "--slowdown", "20")
    for kind, env in found_in.items():
        assert any(f"in environment {env}, frame" in line and f": {kind}" in line for line in said), (kind, said)
    assert len(found(tmp_path)["checks"]) < 10  # it ends there
    assert all("off the plain rollout" in line for line in said)


@pytest.mark.slow
def test_an_engine_that_becomes_slow_is_found(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def burn(engine: Engine) -> None:
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass

    after(STEPS // 2, monkeypatch, burn)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several, on a processor that others use too, are busy with waiting for each other
    try:
        said = run(tmp_path, capsys)
    finally:
        torch.set_num_threads(threads)
    assert len(said) == 1 and "busy with half of the steps for more than" in said[0] and "at most 2 times" in said[0]


def test_counters_that_count_what_did_not_happen_are_found(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    report, steps = Engine.report, []
    after(0, monkeypatch, steps.append)
    names = ("entries_clamped", "motions_ignored", "frames_replaced")

    def one_more(engine: Engine) -> Any:
        sound = report(engine)
        return replace(sound, **{name: getattr(sound, name) + bool(steps) for name in names})

    monkeypatch.setattr(Engine, "report", one_more)
    said = run(tmp_path, capsys, "--slowdown", "20")
    for name in names:
        assert any(f"the engine has counted {name} " in line and "; expected " in line for line in said), said


@pytest.mark.slow
def test_frames_that_had_to_be_replaced_are_accounted_for(
    tmp_path: Path, capsys: Capture, monkeypatch: Patch, generator: torch.Generator
) -> None:
    """With a bank close about its mean, and a limit that one generated frame in thirty is beyond."""

    def close(*arguments: Any) -> torch.Tensor:
        bank = load_bank(*arguments)
        return bank.mean(dim=0) + 0.02 * (bank - bank.mean(dim=0))

    monkeypatch.setattr("cmg_runtime.loading.load_bank", close)
    engine = load_engine(random_robot_case()[0], 2000, device="cpu", backend="torch", precision="fp32", seed=SEED)
    low, high = engine.command_range
    engine.reset(command=low + (high - low) * torch.rand(2000, 3, generator=generator))
    engine.step()
    generated = torch.quantile(torch.cat([engine.dof_pos, engine.dof_vel], dim=1), 29 / 30, dim=0)
    value = int((generated - engine.bank.amax(dim=0)).argmax())
    low, high = (bound.clone() for bound in limits(engine.manifest, engine.bank))
    high[value] = generated[value]
    assert bool((engine.bank < high).all())
    for user in ("cmg_runtime.engine", "cmg_export.soak.replaced"):
        monkeypatch.setattr(f"{user}.limits", lambda *_: (low, high))
    chosen = ["--backend", "torch", "--precision", "fp32", "--sampled", "19", "--slowdown", "20"]
    with pytest.warns(RuntimeWarning, match="were replaced from the bank"):
        assert soak.main(arguments(tmp_path, *chosen)) == 0, capsys.readouterr()
    assert found(tmp_path)["counters"]["frames_replaced"] > 10
    assert "The plain rollout leaves the limits too" in capsys.readouterr().out


def test_a_frame_replaced_without_reason_is_found(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """A state of the bank in a window, counted as such, where the plain rollout stays within the limits."""
    report = Engine.report

    def replaced(frames: ReferenceFrames, engine: Engine) -> None:
        if len(frames.dof_pos[0]) == HORIZON:
            frames.dof_pos[3, 5], frames.dof_vel[3, 5] = engine.bank[0].chunk(2)

    late = from_step_251(monkeypatch, replaced)
    monkeypatch.setattr(Engine, "report", lambda engine: replace(report(engine), frames_replaced=int(bool(late))))
    said = run(tmp_path, capsys, "--slowdown", "20")
    expected = "frame 5 of environment 3 had been replaced, and the plain rollout's is within the limits"
    assert any(expected in line for line in said), said


def test_what_holds_on_a_gpu() -> None:
    before = Memory(300.0, 100.0, 128.0, 900.0, 50, 1000)
    assert grown(before, before, 9) == []
    for field, value in {"allocated": 100.001, "reserved": 200.0, "device": 1000.0, "tensors": 51}.items():
        assert len(grown(before, replace(before, **{field: value}), 9)) == 1, field
    assert grown(before, replace(before, reserved=130.0, rss=310.0, objects=1010), 9) == []
    quick = Latency(100, 50.0, 52.0, None)
    assert slowed(quick, Latency(100, 55.0, 70.0, None), 1.25) == []
    assert "half of the steps take more than 70 us" in slowed(quick, Latency(100, 70.0, 70.0, None), 1.25)[0]
    assert "one step in a hundred takes more than 200 us" in slowed(quick, Latency(100, 50.0, 200.0, None), 1.25)[0]


def test_changes_are_of_every_kind(generator: torch.Generator) -> None:
    engine = load_engine(random_robot_case()[0], NUM_ENVS, backend="torch", horizon=3)
    changes = [first_reset(engine, generator), *draw_changes(engine, generator)]
    kinds = {None if change.env_ids is None else change.env_ids.dtype for change in changes}
    assert {change.resets for change in changes} == {True, False} and kinds == {None, torch.bool, torch.int64}


def test_the_engine_needs_a_robot(tmp_path: Path, capsys: Capture) -> None:
    other = shared_engine_folder()[0]
    checkpoint = str(other / "checkpoint" / "cmg_final.pt")
    assert soak.main(arguments(tmp_path, "--engine", str(other), "--checkpoint", checkpoint)) == 2
    said = capsys.readouterr().err
    assert "has no robot" in said and said.count("\n") == 1


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    assert soak.main(arguments(tmp_path, "--minutes", "1e-6", "--slowdown", "20")) == 0
    report = found(tmp_path)
    assert len(report["checks"]) == 1 and report["steps"] == STEPS // 10 and report["asked"] == STEPS


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_on_a_gpu(tmp_path: Path, backend: str, monkeypatch: Patch) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # what other tests take of the GPU at the same time is not its own
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 0))
    more = ["--device", "cuda", "--num-envs", "600", "--steps", "20000", "--backend", backend, "--precision", "fp16"]
    assert soak.main(arguments(tmp_path, *more, "--change-every", "100", "--slowdown", "5")) == 0
    report = found(tmp_path)
    assert report["environments"] >= 70 and report["latency"][0]["p50"] > 1
    assert report["checks"][-1]["memory"]["allocated"] == report["baseline"]["allocated"] > 0


@pytest.mark.gpu
def test_stepping_makes_the_host_wait_for_nothing(tmp_path: Path) -> None:
    given = arguments(tmp_path, "--device", "cuda", "--num-envs", "600", "--backend", "torch")
    options = soak.command_line.parse(soak.Options, soak.MODULE, given)
    soaked = _Soak(soak.settings(options))
    soaked.warm_up()
    for _ in range(100):  # not more at once than the window holds: replaced frames have to be seen
        with no_waiting():
            soaked.run(HORIZON - 1, timed=True)
        soaked._replaced.look(soaked.step)
    assert soaked.check() == []
