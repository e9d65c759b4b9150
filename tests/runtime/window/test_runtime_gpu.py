"""The engine on CUDA: the same numbers, no waiting for the GPU, no growing memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cmg_runtime import BackendUnavailable, Engine, EngineError, load_engine
from engine_folder import BACKENDS, TOLERANCE, Truth, no_waiting, state

pytestmark = pytest.mark.gpu

NUM_ENVS = 257


def load(folder: Path, backend: str, precision: str | None = None, num_envs: int = NUM_ENVS) -> Engine:
    try:
        return load_engine(folder, num_envs, device="cuda", backend=backend, precision=precision, command_ramp_s=0.0)
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("num_envs", [1, 63, NUM_ENVS])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_step_is_the_reference_step_even_with_tf32_switched_on(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str, precision: str, num_envs: int
) -> None:
    folder, truth = made
    engine = load(folder, backend, precision, num_envs)
    motion, command = truth.states(num_envs, generator), truth.commands(num_envs, generator)
    engine.reset(motion=motion, command=command.cuda())
    torch.set_float32_matmul_precision("high")
    try:
        for _ in range(5):
            before = state(engine)
            engine.step()
            assert truth.error(state(engine), truth.step(before, command)) < TOLERANCE[precision]
        with torch.autocast("cuda", dtype=torch.float16):
            before = state(engine)
            engine.step()
        assert truth.error(state(engine), truth.step(before, command)) < TOLERANCE[precision]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_float32_products_are_not_tf32(generator: torch.Generator) -> None:
    """The guard by itself, on a product large enough that TF32 would show."""
    from cmg_runtime.device.precision import full_precision

    a, b = (torch.randn(512, 512, generator=generator).cuda() for _ in range(2))
    truth = a.double() @ b.double()
    for switch_on in (lambda: torch.set_float32_matmul_precision("high"), _new_flag_on):
        switch_on()
        try:
            with full_precision(torch.device("cuda", 0)):
                inside = a @ b
            outside = a @ b
        finally:
            torch.set_float32_matmul_precision("highest")
        assert float((inside - truth).norm() / truth.norm()) < 1e-6
        if torch.cuda.get_device_capability()[0] >= 8:
            assert float((outside - truth).norm() / truth.norm()) > 1e-5


def _new_flag_on() -> None:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # pyright: ignore
    else:
        torch.backends.cuda.matmul.allow_tf32 = True


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_host_never_waits_and_memory_does_not_grow(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    folder, truth = made
    engine = load(folder, backend)
    engine.reset()
    ids = torch.tensor([0, 5, 256], device="cuda")
    mask = torch.zeros(NUM_ENVS, dtype=torch.bool, device="cuda").index_fill_(0, ids, True)
    rows, command = truth.states(3, generator).cuda(), truth.commands(NUM_ENVS, generator).cuda()

    def frame() -> None:
        engine.step()
        engine.set_command(command)
        engine.set_command(command[0], ids)
        engine.set_command([0.1, 0.1, 0.1], [1, 2, 3])
        engine.reset(ids, motion=rows)
        engine.reset(mask)
        engine.reset([4, 7], command=[0.0, 0.0, 0.0])

    for _ in range(5):
        frame()
    with no_waiting():
        frame()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        for _ in range(200):
            frame()
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before
    assert torch.isfinite(state(engine)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_stepping_alone_reserves_nothing_after_loading(made: tuple[Path, Truth], backend: str) -> None:
    engine = load(made[0], backend)
    engine.reset()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats().get("num_device_alloc")  # older torch does not count them
    reserved = torch.cuda.memory_reserved()
    with no_waiting():
        for _ in range(200):
            engine.step()
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == reserved
    assert torch.cuda.memory_stats().get("num_device_alloc") == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_work_is_ordered_with_the_callers_stream(
    made: tuple[Path, Truth], generator: torch.Generator, backend: str
) -> None:
    """Slow work before and a read after, on a stream of the caller's own: nothing may be read early or late."""
    folder, truth = made
    engine = load(folder, backend, "fp32")
    command = truth.commands(NUM_ENVS, generator)
    engine.reset(command=command)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(10):
        motion = truth.states(NUM_ENVS, generator)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # cycles
            engine.reset(motion=motion)
            engine.step()
            seen = state(engine)
        stream.synchronize()
        assert truth.error(seen, truth.step(motion, command)) < TOLERANCE["fp32"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rollouts_on_the_gpu(made: tuple[Path, Truth], generator: torch.Generator, backend: str) -> None:
    folder, truth = made
    engine = load(folder, backend, "fp32")
    motion, command = truth.states(33, generator), truth.commands(33, generator)
    rolled = engine.rollout(motion, command.cuda(), num_frames=20)
    expected = motion
    for _ in range(20):
        expected = truth.step(expected, command)
    assert rolled.device == engine.device and truth.error(rolled[:, -1], expected) < 1e-4


def test_half_precision_is_the_gpus_first_choice(made: tuple[Path, Truth]) -> None:
    engine = load_engine(made[0], 4, device="cuda")
    assert (engine.backend_name, engine.precision) == ("torch", "fp16")
    assert engine.device == torch.device("cuda", 0)


def test_rows_on_the_gpu_that_are_not_finite_are_ignored_and_counted(
    made: tuple[Path, Truth], generator: torch.Generator
) -> None:
    folder, truth = made
    engine = load(folder, "torch")
    command, motion = truth.commands(NUM_ENVS, generator).cuda(), truth.states(NUM_ENVS, generator).cuda()
    engine.reset(motion=motion, command=command)
    bad_command, bad_motion = command + 10, motion.clone()
    bad_command[3, 1] = bad_command[4, 0] = float("nan")
    bad_motion[6, 2] = float("inf")
    with no_waiting():
        engine.set_command(bad_command)
        engine.reset(motion=bad_motion)
    assert torch.equal(engine.command[3:5], command[3:5])
    assert torch.equal(engine.command[5], engine.command_range[1])
    assert torch.equal(state(engine), motion)
    with pytest.warns(RuntimeWarning, match="2 commands and 1 motions"):
        report = engine.report()
    assert (report.commands_clamped, report.commands_ignored, report.motions_ignored) == (NUM_ENVS - 2, 2, 1)


def test_host_data_is_checked_before_it_goes_to_the_gpu(made: tuple[Path, Truth]) -> None:
    engine = load(made[0], "torch")
    for wrong in (
        lambda: engine.set_command([float("nan"), 0.0, 0.0]),
        lambda: engine.reset([NUM_ENVS]),
        lambda: engine.reset([1, 1]),
        lambda: engine.rollout(engine.bank, torch.full((3,), float("nan"), device="cuda"), 2),
    ):
        with pytest.raises(EngineError):
            wrong()
    cpu_engine = load_engine(made[0], 2)
    with pytest.raises(EngineError, match="is on cuda:0; expected cpu"):
        cpu_engine.set_command(torch.zeros(3, device="cuda"))


def test_resetting_by_gpu_ids_counts_towards_the_first_step(made: tuple[Path, Truth]) -> None:
    engine = load(made[0], "torch", num_envs=4)
    engine.reset(torch.tensor([0, 2], device="cuda"))
    with pytest.raises(EngineError, match="2 of 4"):
        engine.step()
    engine.reset(torch.tensor([False, True, False, True], device="cuda"))
    engine.step()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: `pytest -m gpu` where there are")
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_the_second_gpu(made: tuple[Path, Truth], generator: torch.Generator, backend: str) -> None:
    folder, truth = made
    try:
        engine = load_engine(folder, 9, device="cuda:1", backend=backend, precision="fp32", command_ramp_s=0.0)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    motion, command = truth.states(9, generator), truth.commands(9, generator)
    engine.reset(motion=motion, command=command)
    engine.step()
    assert torch.cuda.current_device() == 0 and engine.dof_pos.device == torch.device("cuda", 1)
    assert truth.error(state(engine), truth.step(motion, command)) < TOLERANCE["fp32"]
