"""The ``trt`` backend's run path against a stand-in that refuses what TensorRT refuses (see fake_tensorrt.py)."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime.backends.trt.backend import MAX_OWN, TrtBackend
from cmg_runtime.backends.trt.context import SharedPlan
from cmg_runtime.device.graphs import can_be_captured
from cmg_runtime.errors import BackendUnavailable, EngineError
from engine_folder import shared_engine_folder
from fake_tensorrt import Context, FakeCuda, FakeTensorRT, Severity, make_plan

CPU = torch.device("cpu")
WIDTHS = {"motion": 10, "command": 3, "next_motion": 10}
HOME = ["profile", "shape", "shape", "memory", "address", "address", "address"]
"""What a context is told when it is made for one batch."""


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def trt(request: pytest.FixtureRequest, cuda: FakeCuda) -> FakeTensorRT:
    return FakeTensorRT(request.param, cuda)


def shared_plan(trt: FakeTensorRT, **plan: Any) -> SharedPlan:
    return SharedPlan(trt, make_plan(shared_engine_folder()[0], **plan), "cmg_fp32.plan", WIDTHS)


def make_backend(trt: FakeTensorRT, cache: Path | None = None, **plan: Any) -> TrtBackend:
    """For 8 environments."""
    return TrtBackend(shared_plan(trt, **plan), 8, CPU, cache)


def place(rows: torch.Tensor, offset: int = 0) -> torch.Tensor:
    """A copy at an address that is aligned to 256 bytes, or ``offset`` bytes past one."""
    memory = torch.empty(4 * rows.numel() + 1024, dtype=torch.uint8)
    first = -memory.data_ptr() % 256 + offset
    return memory[first : first + 4 * rows.numel()].view(torch.float32).view(rows.shape).copy_(rows)


class Call:
    """One step of ``n`` rows, and whether it was right."""

    def __init__(self, n: int, seed: int, offset: int = 0) -> None:
        self.truth, generator = shared_engine_folder()[1], torch.Generator().manual_seed(seed)
        self.motion = place(self.truth.states(n, generator), offset)
        self.command = place(self.truth.commands(n, generator), offset)
        self.out = place(torch.full((n, 10), 7.0), offset)
        self.expected = self.truth.step(self.motion, self.command)

    def __call__(self, backend: TrtBackend) -> None:
        backend.step(self.motion, self.command, self.out)

    def is_right(self, allowed: float = 1e-5) -> bool:
        return self.truth.error(self.out, self.expected) < allowed


@pytest.mark.parametrize("precision, allowed", [("fp32", 1e-5), ("fp16", 2e-3)])
@pytest.mark.parametrize("offset", [0, 4, 128])  # rows of a larger tensor are copied
def test_every_batch_is_right(trt: FakeTensorRT, seed: int, precision: str, allowed: float, offset: int) -> None:
    backend = make_backend(trt, precision=precision)
    for index, n in enumerate((8, 1, 5, 4, 64, 8, 65, 200, *range(1, 40))):  # beyond 64: in parts
        call = Call(n, seed + index, offset)
        copies = call.motion.clone(), call.command.clone()
        call(backend)
        assert call.is_right(allowed)
        assert torch.equal(call.motion, copies[0]) and torch.equal(call.command, copies[1])
    Call(0, seed)(backend)
    assert len(trt.contexts) <= MAX_OWN + 3  # which further sizes share
    addresses = [context._memory[0] for context in trt.contexts]
    for n in (8, 39, 2, 17):
        Call(n, seed)(backend)
    assert [context._memory[0] for context in trt.contexts] == addresses
    assert len(set(addresses)) == len(addresses)


def test_nothing_is_set_twice(trt: FakeTensorRT, seed: int) -> None:
    backend = make_backend(trt)
    *home, own = trt.calls()  # at load, with memory of its own
    assert home == HOME and own.startswith("execute on ")
    call, other = Call(8, seed), Call(8, seed + 1)
    call(backend)
    assert trt.calls() == ["address"] * 3 + [own]
    for _ in range(3):
        call(backend)
    assert trt.calls() == [own] * 3
    backend.step(call.motion, other.command, call.out)
    assert trt.calls() == ["address", own]
    Call(3, seed)(backend)  # a context more, for this size alone
    assert trt.calls() == [*HOME, own]
    call(backend)
    assert trt.calls() == ["address", own]


def test_the_default_stream_is_left_and_joined_again(trt: FakeTensorRT, cuda: FakeCuda, seed: int) -> None:
    backend, call = make_backend(trt), Call(8, seed)
    own = trt.calls()[-1].split()[-1]
    cuda.log.clear()
    call(backend)
    assert trt.calls()[-1] == f"execute on {own}"
    assert cuda.log == [f"stream {own} waits for 0", f"stream 0 waits for {own}"]
    cuda.log.clear()
    cuda.current = cuda.Stream()
    call(backend)
    assert trt.calls() == [f"execute on {cuda.current.cuda_stream}"]
    assert cuda.log == []  # and the host has waited for nothing


def test_capture(trt: FakeTensorRT, cuda: FakeCuda, seed: int) -> None:
    backend, call, small, caller = make_backend(trt), Call(8, seed), Call(3, seed), cuda.current
    assert backend.capturable
    call(backend)
    trt.calls()
    cuda.current, cuda.capturing = cuda.Stream(), True
    call(backend)
    assert trt.calls() == [f"execute on {cuda.current.cuda_stream}"]  # on the stream that is captured
    with pytest.raises(EngineError, match="batch of 3 cannot be captured: call step with it once before"):
        small(backend)
    for cuda.capturing in (False, True):
        small(backend)
    assert small.is_right()
    # Where it is refused: RTX is asked before anything is enqueued, and plain launches go on.
    trt.capturable, told_in_capture = False, trt.__name__ == "tensorrt"
    cuda.current, cuda.capturing = caller, False
    backend = make_backend(trt)
    assert backend.capturable == told_in_capture
    call(backend)
    trt.calls()
    cuda.current, cuda.capturing = cuda.Stream(), True
    with pytest.raises(EngineError) as caught:
        call(backend)
    assert "\n" not in str(caught.value) and len(trt.calls()) == int(told_in_capture)
    cuda.capturing = False
    call.out.fill_(0)
    call(backend)
    assert call.is_right()


@pytest.mark.parametrize("known", [False, True])
def test_after_a_capture_that_cuda_breaks_off(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """torch then leaves the thread on the captured stream, and (before 2.12) its allocator in the capture."""

    class Graph:
        def __init__(self, graph: object, pool: object, stream: Any, capture_error_mode: str) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            cuda.current, cuda.capturing = self.stream, True

        def __exit__(self, *_: object) -> None:
            cuda.capturing = False
            raise RuntimeError("operation failed due to a previous error during capture")

    ended: list[object] = []

    def end(*given: object) -> None:
        ended.append(given)
        if known:
            raise RuntimeError("not currently recording to the pool")

    def step() -> None:
        if cuda.capturing:
            raise EngineError("TensorRT did not run the plan")

    changes = {"graph": Graph, "CUDAGraph": object, "graph_pool_handle": lambda: (0, 7), "synchronize": lambda _: None}
    for name, change in changes.items():
        monkeypatch.setattr(torch.cuda, name, change)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    caller = cuda.current = cuda.Stream()
    assert not can_be_captured(step, torch.device("cuda", 1))
    assert cuda.current is caller and ended == [(1, (0, 7))]


def test_memory_that_would_be_misread_is_refused(trt: FakeTensorRT) -> None:
    backend, good, command = make_backend(trt), torch.zeros(8, 10), torch.zeros(8, 3)
    trt.calls()
    for bad in (torch.zeros(10, 8).T, good.double(), good.half(), torch.zeros(8, 20)[:, ::2], good.to("meta")):
        with pytest.raises(EngineError, match="motion is .*expected contiguous float32 on cpu"):
            backend.step(bad, command, good.clone())
    with pytest.raises(EngineError, match="next_motion is"):
        backend.step(good, command, good.double())
    assert trt.calls() == []


REFUSALS = {
    "runtime": r"does not start \(CUDA initialization failure with error: 35\); install one for",
    "context": r"no execution context \(out of memory\)",
    "shapes": r"did not infer the shapes of a batch of 8 \(.*shapes cannot be inferred\)\)",
    "execute": r"did not run the plan .*API Usage Error",  # at load: another backend may be taken
}


def test_what_the_library_refuses_is_one_line(trt: FakeTensorRT, seed: int) -> None:
    def refused(kind: type[Exception], message: str, use: Any, *given: Any) -> None:
        with pytest.raises(kind, match=message) as caught:
            use(*given)
        assert "\n" not in str(caught.value)

    plan, backend = shared_plan(trt), make_backend(trt)
    plan.logger.log(Severity.WARNING, "something is slow")
    assert plan.logger.said() == "without saying why"
    plan.logger.log(Severity.ERROR, "long ago")
    assert plan.logger.said() == "long ago"
    for reason, message in REFUSALS.items():
        trt.refuse = {reason}
        refused(BackendUnavailable, message, make_backend, trt)
    refused(EngineError, REFUSALS["execute"], Call(8, seed), backend)
    trt.refuse = {"context"}
    refused(BackendUnavailable, r"\(out of memory\)", TrtBackend, plan, 8, CPU)  # not what was said long ago
    for wrong in ({"dtype": "HALF"}, {"output": "logits"}):
        with pytest.raises(EngineError, match="expected float32 motion .* rebuild"):
            shared_plan(trt, **wrong)


def test_the_runtime_cache_is_kept_and_used_again(cuda: FakeCuda, tmp_path: Path) -> None:
    trt, path = FakeTensorRT("tensorrt_rtx", cuda), tmp_path / "plan.cache"
    backend = make_backend(trt, path)
    assert path.read_bytes() == b"compiled 8"
    for n in (3, 3, 20):  # what is compiled for other sizes is kept as well
        Call(n, 0)(backend)
    assert path.read_bytes() == b"compiled 8 3 20"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.cache"]
    before = path.stat().st_mtime_ns
    Call(20, 0)(make_backend(trt, path))
    assert path.read_bytes() == b"compiled 8 3 20" and path.stat().st_mtime_ns == before
    path.write_bytes(b"of another driver")
    make_backend(trt, path)
    assert path.read_bytes() == b"compiled 8"
    make_backend(trt, tmp_path / "not" / "there")  # cannot be written, and is not needed
    make_backend(FakeTensorRT("tensorrt", cuda, "11.4.0.106"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_cache_outlives_its_contexts(cuda: FakeCuda) -> None:
    """As the library asks; with the last of them it goes too."""
    trt = FakeTensorRT("tensorrt_rtx", cuda)
    backend = make_backend(trt)
    Call(3, 0)(backend)
    alive = [weakref.ref(context) for context in trt.contexts] + [weakref.ref(backend._runtime_cache)]
    trt.contexts.clear()
    trt.calls()
    context = backend._own[3]
    del backend
    gc.collect()
    assert [reference() is not None for reference in alive] == [False, True, True]
    del context
    gc.collect()
    assert not any(reference() for reference in alive)
    assert trt.calls() == []  # no cache was gone before its context


def test_a_plan_that_needs_no_scratch_memory_is_given_some(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """One that needs some for another batch is refused without any."""
    monkeypatch.setattr(Context, "_needed", lambda _: 0)
    call = Call(8, seed)
    call(make_backend(trt))
    assert call.is_right() and trt.contexts[-1]._memory[1] > 0
