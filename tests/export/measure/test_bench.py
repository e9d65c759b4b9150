"""The benchmark: its figures are of what it says, and what it cannot measure it says too."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmg_export.bench import __main__ as bench
from cmg_export.bench.dropin_reference import ReferenceMotionLib, ReferencePregenerated, ReferenceRealtime
from cmg_export.bench.floor import describe, flop_per_env, weight_bytes
from cmg_export.bench.inputs import Inputs
from cmg_export.bench.report import format_table
from cmg_export.bench.results import BenchReport, Call, Machine, Result, Share, TimeShare, TrainingSpeed
from cmg_export.bench.targets import judge
from cmg_export.read.checkpoint import load_checkpoint
from cmg_export.timing import Quantiles, Samples, Timing, interleave, time_block
from CMG_Ref import interrupts
from cmg_runtime.backends import backend_class
from cmg_runtime.backends.torch import TorchBackend
from cmg_runtime.backends.torchscript import TorchScriptBackend
from cmg_runtime.folder.manifest import read_manifest
from dropin_case import g1_case
from engine_folder import SEED, TOLERANCE, shared_engine_folder

Patch = pytest.MonkeyPatch
CPU = torch.device("cpu")
NUM_ENVS, SIZES, STEPS = 16, (3, 16, 20), 12
ON_CPU = {f"{backend}_{precision}" for backend in ("torch", "torchscript", "onnx") for precision in TOLERANCE}
"""The backends that the shared folder has and a CPU runs."""

described = functools.cache(describe)
"""Large products take seconds: once for all runs."""


@pytest.fixture(autouse=True)
def described_once(monkeypatch: Patch) -> None:
    monkeypatch.setattr("cmg_export.bench.run.describe", described)


def run(out: Path, *more: str, status: int = 0) -> dict[str, Any]:
    """The report of a small run."""
    folder = shared_engine_folder()[0]
    files = ["--engine", folder, "--checkpoint", folder / "checkpoint" / "cmg_final.pt", "--out", out]
    numbers = ["--num-envs", NUM_ENVS, "--sizes", *SIZES, "--steps", STEPS, "--horizon", 4, "--seed", SEED]
    assert bench.main([*map(str, [*files, *numbers]), "--device", "cpu", *more]) == status
    return json.loads((out / "bench.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run."""
    folder = tmp_path_factory.mktemp("bench") / "new"
    run(folder)
    return folder


@pytest.mark.slow
def test_every_contender_is_timed_at_every_size_and_what_a_cpu_cannot_show_is_said(out: Path) -> None:
    report = json.loads((out / "bench.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    assert set(results) >= {*ON_CPU, "reference_eager"}
    assert report["num_envs"] == NUM_ENVS and report["horizon"] == 4 and report["seed"] == SEED
    for name, result in results.items():
        engines = name != "reference_eager"
        assert set(result["frame"]) == {str(size) for size in SIZES}
        assert set(result["step"]) == ({str(NUM_ENVS), str(max(SIZES))} if engines else set())
        assert set(result["rebuild"]) == ({"16"} if engines else set())
        for timing in [*result["frame"].values(), *result["step"].values(), *result["rebuild"].values()]:
            wall = timing["wall"]
            assert 0 < wall["p50"] <= wall["p99"] <= wall["p999"] <= wall["max"]
            assert timing["gpu"] is None and timing["call"] is None and timing["count"] >= 2
    assert results["torch_fp32"]["step"][str(NUM_ENVS)]["count"] <= STEPS

    assert all(any(what in line for line in report["left_out"]) for what in ("the GPU:", "torch.compile"))
    assert {target["verdict"] for target in report["targets"]} == {"not measured"}
    assert report["machine"]["device"] == "cpu" and report["machine"]["versions"]["torch"] == torch.__version__
    assert report["auto"] in ON_CPU and report["auto"] in report["selection"]
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "distribution.png", "latency.png"]
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.slow
def test_errors_are_those_of_an_independent_reference(out: Path) -> None:
    (folder, truth), report = shared_engine_folder(), json.loads((out / "bench.json").read_text())
    error = {result["name"]: result["error"] for result in report["results"]}
    manifest = read_manifest(folder)
    inputs = Inputs(folder, manifest, load_checkpoint(folder / "checkpoint" / "cmg_final.pt"), SEED)
    motion, command = inputs.draw(NUM_ENVS, CPU)
    for artifact in manifest.artifacts:
        if artifact.name in ON_CPU:
            frame = torch.empty_like(motion)
            loaded = backend_class(artifact.backend).load(folder, artifact, manifest, NUM_ENVS, CPU)
            for _ in range(3):  # TorchScript compiles again in its second call, and then rounds otherwise
                loaded.step(motion, command, frame)
            assert 0 < error[artifact.name] < TOLERANCE[artifact.precision]
            assert error[artifact.name] == pytest.approx(truth.error(frame, truth.step(motion, command)), rel=0.2)
    assert 0 < error["reference_eager"] < TOLERANCE["fp32"] and error["torch_fp16"] > 10 * error["torch_fp32"]


@pytest.mark.slow
def test_a_contender_that_fails_is_a_line_and_the_others_go_on(tmp_path: Path, monkeypatch: Patch) -> None:
    """By an error that no one foresaw, in the middle of being timed, too; and by writing nothing."""
    honest, calls, first = TorchScriptBackend.step, itertools.count(), itertools.count()

    def at_once_or_nothing(self: TorchBackend, *tensors: torch.Tensor) -> None:
        if next(first) == 0:
            raise ValueError("a cable\nwas pulled")

    def later(self: TorchScriptBackend, *tensors: torch.Tensor) -> None:
        if next(calls) > 59:
            raise ValueError("a cable\nwas pulled")
        honest(self, *tensors)

    monkeypatch.setattr(TorchBackend, "step", at_once_or_nothing)
    monkeypatch.setattr(TorchScriptBackend, "step", later)
    report = run(tmp_path, "--backends", "torch", "torchscript", "onnx", "--quick")
    pulled = [line for line in report["left_out"] if "ValueError: a cable" in line]
    assert all(any(name in line for line in pulled) for name in ("torchscript_fp32", "torchscript_fp16"))
    empty = [line for line in report["left_out"] if "not finite, or was not written" in line]
    assert len(empty) == 1 and sum("torch_fp" in line for line in [*pulled, *empty]) == 2
    assert "other implementations: not asked for" in report["left_out"]
    complete = {result["name"]: set(result["rebuild"]) == {"16"} for result in report["results"]}
    assert complete == {name: "onnx" in name for name in ON_CPU if not name.startswith("torch_")}


LOST = "CUDA error: an illegal memory access was encountered"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before anything", "later", "later, in a library", "the device is lost"])
def test_what_cuts_it_short_leaves_what_there_is(
    when: str, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interruption, also one that a library turns into an error; an error after which the device does not answer.
    Also the calls that had been timed when it came are reported. It does not become a contender's failure."""
    blocks, lost = [], []

    def cut_short(*arguments: Any) -> None:
        if when == "the device is lost" and len(blocks) > 2:
            lost.append(LOST)
            wait(CPU)
        elif when == "before anything" or len(blocks) > 2:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                if "library" in when:
                    raise AttributeError("partially initialized module") from None
                raise
        blocks.append(time_block(*arguments))

    def wait(device: torch.device) -> None:
        if lost:
            raise RuntimeError(f"{LOST}\nCompile with")

    monkeypatch.setattr("cmg_export.timing.time_block", cut_short)
    monkeypatch.setattr("cmg_export.timing.synchronise", wait)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts.note_interrupts()
    try:
        if when == "before anything":
            with pytest.raises(FileNotFoundError, match="bench.json"):
                run(tmp_path, "--backends", "torch", "--quick", status=130)
            assert "interrupted" in capsys.readouterr().err
            return
        report = run(tmp_path, "--backends", "torch", "--quick", status=1 if "lost" in when else 130)
        assert interrupts.received() is None  # it has been seen to
    finally:
        interrupts.forget()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    why = f"RuntimeError: {LOST}" if "lost" in when else "interrupted"
    assert report["cut_short"] == why and report["left_out"][-1] == f"step() at 16 and what comes behind: {why}"
    timed = [[bool(result[kind]) for result in report["results"]] for kind in ("frame", "step", "rebuild")]
    assert timed == [[True, True], [True, False], [False, False]] and report["machine"]["tflops"]
    assert f"left out: step() at 16 and what comes behind: {why}" in capsys.readouterr().out
    assert (tmp_path / "latency.png").exists() and (tmp_path / "distribution.png").exists()


@pytest.mark.slow
def test_what_does_not_fit_into_the_time_is_said(tmp_path: Path) -> None:
    report = run(tmp_path, "--backends", "torch", "--quick", "--minutes", "1e-9")
    assert sum("minutes were over" in line for line in report["left_out"]) == 1 + 1 + len(SIZES) - 1
    assert {tuple(result["frame"]) for result in report["results"]} == {(str(NUM_ENVS),)}
    assert not any(result["step"] for result in report["results"])


def test_contenders_take_turns_and_a_slow_one_gets_fewer_calls() -> None:
    calls: list[str] = []
    samples = interleave({name: lambda n=name: calls.append(n) for name in "ab"}, CPU, count=30, seconds=60, block=10)
    assert [len(single.wall) for single in samples.values()] == [30, 30]
    switches = sum(a != b for a, b in zip(calls[:-1], calls[1:], strict=True))
    assert switches == 1 + 2 * 3  # once between the trial calls, and then at every turn

    samples = interleave({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, CPU, count=50, seconds=0.1)
    assert 3 <= len(samples["slow"].wall) <= 5 and len(samples["fast"].wall) == 50
    assert min(samples["slow"].wall) >= 20_000
    found = Samples(gpu=[], wall=[float(value) for value in range(1, 1002)]).timing()
    assert (found.wall.p50, found.wall.p99, found.wall.max) == (501, 991, 1001) and found.cost is found.wall


@pytest.mark.slow
def test_operations_and_bytes_are_the_checkpoints_own() -> None:
    folder = shared_engine_folder()[0]
    state = load_checkpoint(folder / "checkpoint" / "cmg_final.pt").state_dict
    weights = sum(tensor.numel() for tensor in state.values() if tensor.dim() == 2)
    experts = sum(tensor.numel() for name, tensor in state.items() if "expert_weights" in name)
    everything = sum(tensor.numel() for tensor in state.values())
    sizes = read_manifest(folder).sizes
    assert flop_per_env(sizes) == 2 * weights
    assert weight_bytes(sizes, "fp32") == 4 * everything
    assert weight_bytes(sizes, "fp16") == 4 * everything - 2 * experts


def timing(p50: float, p99: float | None = None) -> Timing:
    quantiles = Quantiles(p50, p99 or p50, 2 * p50, 3 * p50)
    return Timing(100, quantiles, Quantiles(9e9, 9e9, 9e9, 9e9), quantiles)


FAST = Result(
    "ours_fp16", "backend", "a test's", 1e-3,
    frame={"4096": timing(19.0)},
    step={"4096": timing(50.0, 60.0), "65536": timing(720.0)},
    rebuild={"64": timing(700.0), "4096": timing(1900.0)},
    frame_memory_mib=5.0, memory_mib=17.0, device_memory_mib=80.0,
)  # fmt: skip
"""A contender on a GPU: a pass, an aim and a miss among its figures."""


def test_bars() -> None:
    slow = Result("slow", "peer", "", 0.0, {"4096": timing(1e6)})
    targets = judge((slow, FAST), "ours_fp16", on_gpu=True)
    assert [target.value for target in targets] == pytest.approx([19.0, 50.0, 1.2, 1.9, 0.7, 17.0, 0.9])
    assert [target.verdict for target in targets] == ["aim", "pass", "MISS", "aim", "pass", "pass", "pass"]
    for results, auto, on_gpu in [((FAST,), "ours_fp16", False), ((slow,), "ours_fp16", True), ((FAST,), "", True)]:
        assert {target.verdict for target in judge(results, auto, on_gpu)} == {"not measured"}


def test_the_table_of_a_gpu() -> None:
    frame = {"4096": timing(67.0), "64": timing(9.0)}
    peer = Result("one_product_max_autotune", "peer", "", 8e-4, frame, frame_memory_mib=3.0)
    results = (FAST, peer)
    step = Timing(60, None, Quantiles(9812.0, 10_300.0, 2e4, 3e4), Quantiles(1404.0, 1900.0, 2e4, 3e4))
    report = BenchReport(
        engine="g1", source_sha256="0" * 64,
        machine=Machine("NVIDIA H200", "cpu x 16", {"clocks.sm": "1980 MHz"}, {"torch": "2.11"}, {"fp16": 768.0}),
        num_envs=4096, horizon=96, seed=0, flop_per_env=2_650_000, floor_us={"fp16": {"64": 0.2, "4096": 14.1}},
        auto="ours_fp16", selection="ours_fp16, first that loads",
        results=results, targets=judge(results, "ours_fp16", True),
        dropin=(Call("get_motion, realtime", "ours_fp16", Timing(3, None, Quantiles(61.0, 70.0, 80.0, 90.0), None)),),
        time_share=TimeShare(
            4096, 40, (Share("fused", 25.0, 0.4, 0.3, 11.5),), 1024, 1.19, 40,
            (TrainingSpeed("captured", step, 4.2, 0.31, 0.25, 0.05, 317_109.7, 903.2, 9.31),),
        ),
        left_out=("trt_fp16: no library", "time share of onnx: no CUDA provider"), seconds=12.0,
    )  # fmt: skip
    lines = format_table(report).splitlines()
    assert max(map(len, lines)) <= 120

    def row(start: str) -> list[str]:
        return next(line for line in lines if line.startswith(start)).removeprefix(start).split()

    assert [row("one_product_max_autotune")[place] for place in (0, -1)] == ["67.0", "100"]
    assert any("p99 / p50" in line and line.endswith("MISS") and " 1.2 " in line for line in lines)
    assert row("arithmetic fp16")[0] == "0.2"
    assert row("get_motion, realtime: ours_fp16") == ["61", "70", "90", "3", "-"]
    assert row("fused") == ["25.00", "0.400", "1.60", "%", "0.300", "11.5"]
    training = ["9.81", "10.30", "1.40", "1.90", "9.31", "903", "4.2", "0.310", "0.250", "0.050", "317110"]
    assert row("captured") == training
    assert "1.19 ms a frame, 48 ms" in " ".join(row("For contrast, the textbook form"))
    assert {f"left out: {left_out}" for left_out in report.left_out} <= set(lines)
    assert json.loads(report.to_json())["time_share"]["shares"][0]["share"] == pytest.approx(0.016)


def network(motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
    return g1_case().truth.step(motion, command).float()


@pytest.mark.slow
def test_the_reference_classes_follow_the_network(generator: torch.Generator) -> None:
    truth, n = g1_case().truth, 5
    bank, command = truth.states(1, generator), truth.commands(n, generator)
    frames = [bank.expand(n, -1)]
    for _ in range(12):
        frames.append(network(frames[-1], command))
    pregenerated = ReferencePregenerated(network, bank, n, 12)
    pregenerated.reset(command)
    for frame in [*frames, frames[0]]:  # wraps round
        assert torch.equal(torch.cat(pregenerated.get_motion(), 1), frame)
    realtime = ReferenceRealtime(network, bank, n, size=6)
    realtime.reset(command)
    for frame in frames[1:]:  # its queues leave the initial state out
        assert torch.equal(torch.cat(realtime.get_motion(), 1), frame)
    lib = ReferenceMotionLib(network, bank, command, 12, 50.0)
    root_vel, root_ang_vel, dof_pos, dof_vel = lib.calc_motion_frame(torch.tensor([4, 0]), torch.tensor([0.051, 0.0]))
    assert torch.equal(root_vel[:, :2], command[[4, 0], :2]) and torch.equal(root_ang_vel[:, 2], command[[4, 0], 2])
    expected = torch.stack([frames[2][4], frames[0][0]])
    bounds = torch.tensor([3.14159] * 29 + [20.0] * 29)
    assert torch.equal(torch.cat([dof_pos, dof_vel], 1), expected.clamp(-bounds, bounds))


@pytest.mark.slow
def test_the_section_measures_everything_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = g1_case()
    checkpoint = next((case.folder / "checkpoint").glob("*.pt"))
    given = ["--sections", "dropin", "--engine", str(case.folder), "--checkpoint", str(checkpoint), "--device", "cpu"]
    numbers = {"num-envs": 3, "dropin.num-motions": 2, "dropin.frames": 4, "dropin.count": 3, "dropin.seconds": 1}
    assert bench.main([*given, *(f"--{name}={n}" for name, n in numbers.items()), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "bench.json").read_text())
    calls = report["dropin"]
    assert (
        all(call["timing"]["wall"]["p50"] > 0 and call["timing"]["count"] >= 3 for call in calls) and len(calls) == 19
    )
    assert [call["contender"] for call in calls].count("reference") == 6
    assert report["results"] == report["targets"] == [] and report["time_share"] is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]  # no pictures of nothing
    assert "get_motion, realtime: reference" in capsys.readouterr().out


@pytest.mark.slow
def test_the_section_cut_short_reports_the_calls_that_were_timed(tmp_path: Path, monkeypatch: Patch) -> None:
    case, count = g1_case(), 0

    def get_motion(self: object) -> None:
        nonlocal count
        count += 1
        if count == 3:  # once the contender before it has been timed
            raise KeyboardInterrupt

    monkeypatch.setattr(ReferencePregenerated, "get_motion", get_motion)
    checkpoint = next((case.folder / "checkpoint").glob("*.pt"))
    given = ["--sections", "dropin", "--engine", str(case.folder), "--checkpoint", str(checkpoint), "--device", "cpu"]
    numbers = ["--num-envs", "3", "--dropin.num-motions", "2", "--dropin.frames", "4", "--dropin.count", "3"]
    assert bench.main([*given, *numbers, "--out", str(tmp_path)]) == 130
    report = json.loads((tmp_path / "bench.json").read_text())
    whats = [call["what"] for call in report["dropin"]]
    assert whats == [*["reset of all, realtime"] * 2, *["get_motion, realtime"] * 2, "reset of all, pregenerated"]
    assert report["left_out"] == ["the drop-in interfaces and what comes behind: interrupted"]


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    report = run(tmp_path, "--device", "cuda", "--backends", "torch", "--num-envs", "64", "--sizes", "64", "257")
    results = {result["name"]: result for result in report["results"]}
    assert {"reference_eager", "reference_compiled", "one_product_max_autotune", "torch_fp16"} <= set(results)
    for name, result in results.items():
        assert 0 < result["error"] < (2e-3 if "fp16" in name or "max" in name else 1e-3)
        figures = result["frame"]["64"]
        assert figures["gpu"]["p50"] > 0 and 0 < figures["call"]["p50"] < figures["wall"]["p50"]
        assert result["frame_memory_mib"] >= 0
    assert results["torch_fp16"]["memory_mib"] is not None and results["torch_fp16"]["device_memory_mib"] is not None
    assert set(report["machine"]["tflops"]) == {"fp32", "fp16"} == set(report["floor_us"])
