"""ONNX Runtime's own CUDA graphs: the same numbers whatever the tensors' addresses, and the host never waits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError
from cmg_runtime.backends import backend_class
from cmg_runtime.backends import onnx as onnx_backend
from cmg_runtime.folder.manifest import read_manifest
from engine_folder import TOLERANCE, Truth

gpu = pytest.mark.gpu

CUDA = torch.device("cuda", 0)


def load(folder: Path, precision: str = "fp32") -> Any:
    manifest = read_manifest(folder)
    artifact = next(a for a in manifest.artifacts if (a.backend, a.precision) == ("onnx", precision))
    try:
        return backend_class("onnx").load(folder, artifact, manifest, 64, CUDA)
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def backend(made: tuple[Path, Truth]) -> Any:
    return load(made[0])


class Case:
    """Tensors of fixed addresses with a batch of states, and whether a backend steps them right."""

    def __init__(self, truth: Truth, n: int) -> None:
        self.truth = truth
        self.motion, self.command, self.out = (torch.empty(n, width, device=CUDA) for width in (10, 3, 10))

    def check(
        self, backend: Any, generator: torch.Generator, tolerance: float = TOLERANCE["fp32"], rows: Any = slice(None)
    ) -> None:
        """With new contents; of these rows alone, beside which nothing may be written."""
        self.motion.copy_(self.truth.states(len(self.motion), generator))
        self.command.copy_(self.truth.commands(len(self.motion), generator))
        motion, command, out = self.motion[rows], self.command[rows], self.out.fill_(float("nan"))[rows]
        backend.step(motion, command, out)
        assert self.truth.error(out, self.truth.step(motion, command)) < tolerance
        assert int(self.out.isnan().any(1).sum()) == len(self.out) - len(out)


def needs_graphs(backend: Any) -> None:
    if backend.num_graphs == 0:
        pytest.skip("this onnxruntime captures no graphs that replay without waiting")


@gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_replays_follow_the_tensors(made: tuple[Path, Truth], generator: torch.Generator, precision: str) -> None:
    """Many batches and addresses in turns; new contents at old addresses; each graph replayed several times."""
    backend, truth = load(made[0], precision), made[1]
    needs_graphs(backend)
    before = backend.num_graphs
    cases = [Case(truth, n) for n in (1, 64, 63, 64, 257, 4097)]  # those of 63 and 64 share a graph; 1 has one already
    for _ in range(5):
        for case in cases:
            case.check(backend, generator, TOLERANCE[precision])
    assert backend.num_graphs == before + 3
    for first in [0, 64, 0, 64, 0, 32, 0]:  # views at shifted addresses are other tensors
        cases[-1].check(backend, generator, TOLERANCE[precision], slice(first, first + 64))


@gpu
def test_beside_torchs_own_graphs(backend: Any, truth: Truth, generator: torch.Generator) -> None:
    """A graph of torch's makes the input and another reads the output, on one stream and on another."""
    case = Case(truth, 65)
    source, result = torch.empty_like(case.motion), torch.empty_like(case.motion)
    for _ in range(3):
        case.check(backend, generator)
    first, last = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first):
        case.motion.copy_(source)
    with torch.cuda.graph(last):
        result.copy_(case.out)
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        for _ in range(5):
            source.copy_(truth.states(65, generator))
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000_000)  # cycles: what does not wait for the stream is then too early
                first.replay()
                backend.step(case.motion, case.command, case.out)
                last.replay()
            stream.synchronize()
            assert truth.error(result, truth.step(source, case.command)) < TOLERANCE["fp32"]


@gpu
def test_the_host_does_not_wait_and_no_other_graph_takes_it_in(
    backend: Any, truth: Truth, generator: torch.Generator
) -> None:
    case = Case(truth, 64)
    for _ in range(3):
        case.check(backend, generator)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # a second, roughly
    start = time.perf_counter()
    for _ in range(20):
        backend.step(case.motion, case.command, case.out)
    assert not torch.cuda.current_stream().query(), f"the host was back after {time.perf_counter() - start:.2f} s"
    torch.cuda.synchronize()
    with pytest.raises(EngineError, match="cannot be part of a CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        backend.step(case.motion, case.command, case.out)
    torch.cuda.synchronize()
    case.check(backend, generator)


@gpu
def test_any_number_of_addresses_runs_by_graphs(backend: Any, truth: Truth, generator: torch.Generator) -> None:
    """A hundred sets of tensors, as rollouts bring them: few graphs, and none of them runs kernel by kernel; made in
    inference mode, and serving outside."""
    needs_graphs(backend)
    cases = [Case(truth, n) for n in torch.randint(1, 3000, (100,), generator=generator).tolist()]
    with torch.inference_mode():
        for case in [*cases, *cases]:
            case.check(backend, generator)
    graphs = backend.num_graphs
    backend._run_plainly = None
    for case in cases:
        case.check(backend, generator)
    assert backend.num_graphs == graphs < 40


@gpu
def test_without_capture_it_runs_plainly(
    made: tuple[Path, Truth], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BackendUnavailable("a test's")

    for name, value in (("_try_capture", refuse), ("GRAPHS_SINCE", (10**6, 0))):
        with monkeypatch.context() as patch:
            patch.setattr(onnx_backend, name, value)
            backend = load(made[0])
        case = Case(made[1], 64)
        for _ in range(4):
            case.check(backend, generator)
        assert backend.num_graphs == 0


def test_how_many_rows_graphs_have() -> None:
    """Without a GPU: enough, at most a quarter more than asked for or 15, and few different ones."""
    graph_rows = onnx_backend.graph_rows
    rows = [graph_rows(n) for n in range(1, 20_000)]
    assert all(n <= made <= max(n + 15, 1.25 * n) for n, made in enumerate(rows, 1))
    assert len(set(rows)) < 45 and rows == sorted(rows)
    assert [graph_rows(n) for n in (16, 64, 256, 1024, 4096, 32768)] == [16, 64, 256, 1024, 4096, 32768]
