"""ONNX Runtime's own CUDA graphs: the same numbers whatever the tensors' addresses, and the host never waits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError
from cmg_runtime.backends import backend_class
from cmg_runtime.manifest import read_manifest
from engine_folder import TOLERANCE, Truth, shared_engine_folder

gpu = pytest.mark.gpu

CUDA = torch.device("cuda", 0)


@pytest.fixture
def made() -> tuple[Path, Truth]:
    return shared_engine_folder()


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def load(folder: Path, precision: str = "fp32") -> Any:
    manifest = read_manifest(folder)
    artifact = next(a for a in manifest.artifacts if (a.backend, a.precision) == ("onnx", precision))
    try:
        return backend_class("onnx").load(folder, artifact, manifest, 64, CUDA)
    except BackendUnavailable as error:
        pytest.skip(str(error))


class Case:
    """Tensors of fixed addresses with a batch of states, and whether a backend steps them right."""

    def __init__(self, truth: Truth, n: int) -> None:
        self.truth = truth
        self.motion = torch.empty(n, 10, device=CUDA)
        self.command = torch.empty(n, 3, device=CUDA)
        self.out = torch.empty(n, 10, device=CUDA)

    def refill(self, generator: torch.Generator) -> None:
        self.motion.copy_(self.truth.states(len(self.motion), generator))
        self.command.copy_(self.truth.commands(len(self.motion), generator))
        self.out.fill_(float("nan"))

    def check(self, backend: Any, generator: torch.Generator, tolerance: float = TOLERANCE["fp32"]) -> None:
        self.refill(generator)
        backend.step(self.motion, self.command, self.out)
        assert self.truth.error(self.out, self.truth.step(self.motion, self.command)) < tolerance


def needs_graphs(backend: Any) -> None:
    if backend.num_graphs == 0:
        pytest.skip("this onnxruntime captures no graphs that replay without waiting")


@gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_replays_follow_the_tensors(made: tuple[Path, Truth], generator: torch.Generator, precision: str) -> None:
    """Many batches and addresses in turns; new contents at old addresses; each graph replayed several times."""
    folder, truth = made
    backend = load(folder, precision)
    needs_graphs(backend)
    before = backend.num_graphs
    cases = [Case(truth, n) for n in (1, 64, 63, 64, 257, 4097)]  # two of 64, at addresses of their own
    for _ in range(5):
        for case in cases:
            case.check(backend, generator, TOLERANCE[precision])
    assert backend.num_graphs == before + len(cases)


@gpu
def test_views_at_shifted_addresses_are_other_tensors(made: tuple[Path, Truth], generator: torch.Generator) -> None:
    folder, truth = made
    backend = load(folder)
    whole = Case(truth, 128)
    for first in [0, 64, 0, 64, 0, 32, 0]:
        whole.refill(generator)
        part = slice(first, first + 64)
        backend.step(whole.motion[part], whole.command[part], whole.out[part])
        expected = truth.step(whole.motion[part], whole.command[part])
        assert truth.error(whole.out[part], expected) < TOLERANCE["fp32"]
        assert int(whole.out.isnan().any(1).sum()) == 64


@gpu
def test_beside_torchs_own_graphs(made: tuple[Path, Truth], generator: torch.Generator) -> None:
    """A graph of torch's makes the input and another reads the output, on one stream and on another."""
    folder, truth = made
    backend = load(folder)
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
def test_the_host_does_not_wait(made: tuple[Path, Truth], generator: torch.Generator) -> None:
    folder, truth = made
    backend = load(folder)
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


@gpu
def test_it_is_no_part_of_another_graph(made: tuple[Path, Truth], generator: torch.Generator) -> None:
    folder, truth = made
    backend = load(folder)
    case = Case(truth, 64)
    with pytest.raises(EngineError, match="cannot be part of a CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        backend.step(case.motion, case.command, case.out)
    torch.cuda.synchronize()
    case.check(backend, generator)


@gpu
def test_no_more_graphs_than_allowed(
    made: tuple[Path, Truth], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmg_runtime.backends import onnx_backend

    folder, truth = made
    backend = load(folder)
    needs_graphs(backend)
    monkeypatch.setattr(onnx_backend, "MAX_GRAPHS", backend.num_graphs + 2)
    monkeypatch.setattr(onnx_backend, "MAX_SEEN", 3)
    cases = [Case(truth, n) for n in (5, 6, 7, 8, 9)]
    for _ in range(3):
        for case in cases:
            for _ in range(2):
                case.check(backend, generator)
    assert backend.num_graphs == onnx_backend.MAX_GRAPHS


@gpu
def test_without_capture_it_runs_plainly(
    made: tuple[Path, Truth], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmg_runtime.backends import onnx_backend

    def refuse(*_: Any) -> None:
        raise BackendUnavailable("a test's")

    folder, truth = made
    for name, value in (("_try_capture", refuse), ("GRAPHS_SINCE", (10**6, 0))):
        with monkeypatch.context() as patch:
            patch.setattr(onnx_backend, name, value)
            backend = load(folder)
        case = Case(truth, 64)
        for _ in range(4):
            case.check(backend, generator)
        assert backend.num_graphs == 0


class Recorder:
    """Stands for a session and its bindings: what was bound last."""

    def io_binding(self) -> Recorder:
        return Recorder()

    def bind_input(self, name: str, device: str, index: int, kind: type, shape: tuple[int, ...], address: int) -> None:
        self.__dict__[name] = (shape, address)

    bind_output = bind_input


def test_which_graph_runs_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a graph for tensors seen before, one each, and no more than allowed."""
    from cmg_runtime.backends import onnx_backend

    monkeypatch.setattr(onnx_backend, "MAX_GRAPHS", 2)
    stream: Any = object()
    backend = onnx_backend.OnnxBackend(Recorder(), torch.device("cpu"), stream, capture=True)

    def tensors(n: int) -> dict[str, torch.Tensor]:
        return {"motion": torch.zeros(n, 10), "command": torch.zeros(n, 3), "next_motion": torch.zeros(n, 10)}

    cases = [tensors(4), tensors(4), tensors(7)]
    ids = []
    for case in [*cases, *cases, *cases, cases[0]]:
        bound, options = backend._bind(case)
        assert {name: (tuple(t.shape), t.data_ptr()) for name, t in case.items()} == vars(bound)
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        ids.append(options.get_run_config_entry("gpu_graph_id"))
    assert ids == ["-1", "-1", "-1", "0", "1", "-1", "0", "1", "-1", "0"]
    plain = onnx_backend.OnnxBackend(Recorder(), torch.device("cpu"), stream, capture=False)
    assert [plain._bind(cases[0])[1].get_run_config_entry("gpu_graph_id") for _ in range(3)] == ["-1"] * 3
