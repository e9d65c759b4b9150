"""Plans, really built where tensorrt_rtx is installed, and what ``python -m cmg_export`` says of them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import describe

from cmg_export import verify
from cmg_export.__main__ import main
from cmg_export.build import Options
from cmg_export.compile import plan_layers, tensorrt
from cmg_export.compile.onnx import export_onnx
from cmg_export.compile.tensorrt import (
    TIMING_CACHE,
    Flavour,
    PlanError,
    PlanOptions,
    build_plan,
    find_flavour,
    make_monitor,
)
from cmg_export.compile.weights import one_product_weights
from cmg_export.errors import ExportError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref import command_line
from cmg_runtime.backends.trt import library
from cmg_runtime.backends.trt.plan import PlanTarget
from cmg_runtime.folder.manifest import Artifact, file_sha256, read_manifest
from make_checkpoint import MadeCheckpoint, make_checkpoint

RTX = PlanOptions(library="tensorrt_rtx")
SIZES: list[dict[str, Any]] = [
    {"num_joints": 29, "hidden_dim": 64},
    {"num_joints": 5, "hidden_dim": 37, "num_experts": 3, "num_layers": 2, "gating_hidden_dim": 11},
    {"num_joints": 2, "hidden_dim": 8, "num_experts": 1, "num_layers": 1, "command_dim": 1},
    {"num_joints": 23, "hidden_dim": 96, "num_experts": 6, "num_layers": 4},
]


@pytest.fixture
def rtx() -> Flavour:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    flavour, reason = find_flavour(RTX)
    assert flavour is not None, reason
    return flavour


def graph(folder: Path, made: MadeCheckpoint, precision: str) -> Path:
    path = folder / f"cmg_{precision}.onnx"
    export_onnx(one_product_weights(load_checkpoint(made.path)), precision, describe(made), path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sizes", SIZES)
def test_plans_of_all_sizes(tmp_path: Path, seed: int, rtx: Flavour, sizes: dict[str, Any], precision: str) -> None:
    made = make_checkpoint(tmp_path, seed=seed, **sizes)
    onnx_path, plan = graph(tmp_path, made, precision), tmp_path / "x.plan"
    target = build_plan(rtx, onnx_path, 4096, plan)
    weights = one_product_weights(load_checkpoint(made.path))
    operands = sum(array.size for name, array in weights.items() if name.startswith("layers.") and "weight" in name)
    assert plan.stat().st_size > operands * (2 if precision == "fp16" else 4)
    assert target["batches"] == [[4096, 4096, 4096], [1, 64, 256], [257, 2048, 8192]]
    assert target["onnx_sha256"] == file_sha256(onnx_path)
    assert (target["gpu"], target["driver"]) == (None, None)
    assert not (tmp_path / TIMING_CACHE).exists()
    read = PlanTarget.of(Artifact("trt_fp32", "trt", precision, "x.plan", "0" * 64, target))
    assert (read.library, read.version) == ("tensorrt_rtx", rtx.version)
    assert read.compute_capability == ("8.6", "8.9", "12.0")


@pytest.mark.parametrize("num_envs", [1, 256, 257, 10000])
def test_profiles_cover_every_batch(tmp_path: Path, seed: int, rtx: Flavour, num_envs: int) -> None:
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, num_joints=2, hidden_dim=8), "fp16")
    batches = build_plan(rtx, onnx_path, num_envs, tmp_path / "x.plan")["batches"]
    assert batches[0] == [num_envs] * 3
    assert all(smallest <= usual <= largest for smallest, usual, largest in batches)
    for n in (1, 2, 255, 256, 257, 8192, num_envs):
        assert any(smallest <= n <= largest for smallest, _, largest in batches[1:])


@pytest.mark.parametrize("targets", [("8.9",), ("8.0", "8.6", "8.9", "12.0", "12.1"), ("12.0", "8.6")])
def test_targets(tmp_path: Path, seed: int, targets: tuple[str, ...]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    flavour, _ = find_flavour(replace(RTX, targets=targets))
    assert flavour is not None
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, num_joints=2, hidden_dim=8), "fp32")
    plan = tmp_path / "x.plan"
    assert build_plan(flavour, onnx_path, 64, plan)["compute_capability"] == list(targets)
    with pytest.raises(PlanError, match="cannot build cmg_fp32.onnx .*FP32 GEMM is not supported"):  # RTX 20
        build_plan(replace(flavour, compute_capability=("7.5",)), onnx_path, 64, plan)
    with pytest.raises(PlanError, match=r"target 9.0 is not known to this version; expected one of .*SM89"):
        build_plan(replace(flavour, compute_capability=("9.0",)), onnx_path, 64, plan)


def test_a_limit_of_the_workspace_is_kept(tmp_path: Path, seed: int, rtx: Flavour) -> None:
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, hidden_dim=64), "fp32")
    build_plan(rtx, onnx_path, 4096, tmp_path / "x.plan", PlanOptions(workspace_mib=512))
    with pytest.raises(PlanError, match="cannot build cmg_fp32.onnx") as caught:
        build_plan(rtx, onnx_path, 4096, tmp_path / "y.plan", PlanOptions(workspace_mib=1))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "y.plan").exists()


def test_a_library_that_does_not_start_is_one_line(tmp_path: Path, rtx: Flavour) -> None:
    """What the bindings do where the CUDA driver is too old for the library."""

    class Library:
        ILogger = rtx.trt.ILogger

        @staticmethod
        def Builder(logger: Any) -> Any:
            logger.log(rtx.trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(PlanError, match=r"cannot build x.onnx \(it does not start: CUDA init.* error: 35\)") as caught:
        build_plan(replace(rtx, trt=Library), tmp_path / "x.onnx", 1, tmp_path / "x.plan")
    assert "\n" not in str(caught.value)


def test_no_graph_is_one_line(tmp_path: Path, rtx: Flavour) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(PlanError, match="cannot build x.onnx") as caught:
        build_plan(rtx, tmp_path / "x.onnx", 1, tmp_path / "x.plan")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # RTX's, about just this
def test_the_timing_cache_is_kept_and_used_again(
    tmp_path: Path, seed: int, rtx: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with tensorrt: RTX has the same interface, and nothing to put into it."""
    monkeypatch.setattr(library, "keeps_timing_cache", lambda _: True)
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, num_joints=2, hidden_dim=8), "fp32")
    build_plan(rtx, onnx_path, 64, tmp_path / "x.plan")
    first = (tmp_path / TIMING_CACHE).read_bytes()
    assert first
    build_plan(rtx, onnx_path, 64, tmp_path / "x.plan")
    assert (tmp_path / TIMING_CACHE).read_bytes() == first


def test_a_plan_says_that_it_can_be_captured(tmp_path: Path, seed: int, rtx: Flavour) -> None:
    """The header of an RTX plan is text in parts; TF32 and what may be captured are among them."""
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=16), "fp32")
    plan = tmp_path / "x.plan"
    build_plan(rtx, onnx_path, 64, plan)
    content = plan.read_bytes()
    assert content.count(b"stream_capturable=1") >= 3  # one for each profile
    assert b"stream_capturable=0" not in content
    assert b"tf32=0" in content and b"tf32=1" not in content


OPTIONS = {
    "no GPU": (PlanOptions(library="tensorrt"), "tensorrt builds only where its GPU is, and torch sees none"),
    "versions": (replace(RTX, version_compatible=True), "tensorrt_rtx builds no version-compatible plans"),
    "hardware": (replace(RTX, hardware_compatibility="ampere_plus"), "has no hardware compatibility levels"),
    "workspace": (PlanOptions(workspace_mib=0), "workspace-mib is 0; expected at least 1"),
    "no target": (PlanOptions(targets=()), "names one twice; expected each capability once"),
    "target twice": (PlanOptions(targets=("8.6", "8.6")), "expected each capability once"),
    "no capability": (PlanOptions(targets=("RTX 4090",)), "'RTX 4090'; expected compute capabilities such as 8.9"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_met(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, message = OPTIONS[name]
    with pytest.raises(ExportError, match=message) as caught:
        options.check()
        find_flavour(options)
    assert "\n" not in str(caught.value)


def test_without_any_library_there_are_no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flavour, reason = find_flavour()
    assert flavour is None
    assert "torch sees none; tensorrt_rtx cannot be imported" in reason
    assert find_flavour(PlanOptions(library="none")) == (None, "not asked for")


def test_on_a_gpu_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Library:
        __version__ = "11.4.0.106"

    libraries = {"tensorrt": Library()}
    monkeypatch.setattr(library, "import_library", lambda name: libraries[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    flavour, _ = find_flavour()
    assert flavour == Flavour("tensorrt", "11.4.0.106", ("9.0",), "NVIDIA H200", libraries["tensorrt"])
    assert flavour is not None and flavour.suffix == "trt.plan"


def test_progress_is_shown_on_a_terminal(
    rtx: Flavour, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupts: list[int] = []

    def reported() -> tuple[bool, str]:
        monitor = make_monitor(rtx.trt, lambda: bool(interrupts))
        monitor.phase_start("Building", None, 4)
        goes_on = monitor.step_complete("Building", 1)
        monitor.phase_finish("Building")
        monitor.finish()
        return goes_on, capsys.readouterr().err

    assert reported() == (True, "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    goes_on, shown = reported()
    assert goes_on and "Building: 2 of 4" in shown and shown.endswith("\r\x1b[K")  # and the line is cleared
    interrupts.append(signal.SIGINT)
    assert not reported()[0]  # which asks TensorRT to stop


@pytest.mark.parametrize("callback", ["step_complete", "log"])
def test_a_real_build_can_be_interrupted(
    tmp_path: Path,
    seed: int,
    rtx: Flavour,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    callback: str,
) -> None:
    """In whatever of our code TensorRT happens to call at that moment."""
    onnx_path = graph(tmp_path, make_checkpoint(tmp_path, seed=seed, num_joints=2, hidden_dim=8), "fp32")

    def interrupting(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            instance = make(*args)
            kind = type(instance)
            own = getattr(kind, callback)

            def call(self: Any, *given: Any) -> Any:
                os.kill(os.getpid(), signal.SIGINT)
                return own(self, *given)

            monkeypatch.setattr(kind, callback, call)
            return instance

        return made

    owner, name = (tensorrt, "make_monitor") if callback == "step_complete" else (library, "make_logger")
    monkeypatch.setattr(owner, name, interrupting(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, onnx_path, 64, tmp_path / "y.plan")
    assert not (tmp_path / "y.plan").exists()
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, seed: int) -> tuple[Path, Path]:
    """A small engine, built by the command line as it builds by default, and its checkpoint."""
    folder = tmp_path_factory.mktemp("engine")
    made = make_checkpoint(folder / "in", seed=seed, num_joints=5, hidden_dim=24)
    args = [str(made.path), "--out", str(folder / "engine"), "--num-envs", "64", "--precision", "fp32"]
    assert main(args) == 0
    return folder / "engine", made.path


def test_the_command_line_builds_and_lists_plans(
    engine: tuple[Path, Path], rtx: Flavour, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint = engine
    manifest = read_manifest(folder)
    plan = next(artifact for artifact in manifest.artifacts if artifact.backend == "trt")
    if not torch.cuda.is_available():
        assert plan.parity == {"status": "not_run", "reason": "built, not run: torch sees no CUDA device here"}
    assert plan.tools == {"tensorrt_rtx": rtx.version}
    assert plan.target["compute_capability"] == ["8.6", "8.9", "12.0"]
    assert plan.target["batches"][0] == [64, 64, 64]
    assert plan.target["onnx_sha256"] == file_sha256(folder / "cmg_fp32.onnx")
    assert plan.sha256 == file_sha256(folder / "cmg_fp32.rtx.plan")
    options = manifest.source["options"]["tensorrt"]
    assert (options["library"], options["targets"]) == ("auto", ["8.6", "8.9", "12.0"])
    capsys.readouterr()
    # verify: a plan that cannot run here, then a backend that can
    assert verify.main([str(folder), str(checkpoint), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "cmg_fp32.rtx.plan is a TensorRT plan; use device='cuda'" in out
    assert err == "cmg_export.verify: trt is not verified on this machine\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verify.main([str(folder), str(checkpoint)]) == 1
    assert capsys.readouterr().out.startswith("torch sees no CUDA device here, so it is the CPU\nengine ")
    monkeypatch.undo()
    arguments = [str(folder), str(checkpoint), "--backend", "onnx", "--num-envs", "16", "--device", "cpu"]
    assert verify.main(arguments) == 0
    out, err = capsys.readouterr()
    for word in ("onnx_fp32: onnx_fp32 on cpu, parity passed", "PASS", "engine.step(), 16 environments", "torch_fp32"):
        assert word in out
    assert err == ""


def test_layers_of_a_plan(tmp_path: Path, seed: int, rtx: Flavour, capsys: pytest.CaptureFixture[str]) -> None:
    """The first layer's wide operand and the last one's wide result are never a tensor of hidden_dim * num_experts."""
    made = make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=64, num_experts=4)
    layers, scratch = plan_layers.plan_layers(plan_layers.Arguments(graph(tmp_path, made, "fp16"), num_envs=100))
    tensors = {tensor for layer in layers for tensor in (*layer.reads, *layer.writes)}
    assert {"[100,10] float", "[100,3] float"} <= tensors
    assert len([tensor for tensor in tensors if tensor.startswith("[100,256]")]) == 1  # the middle layer's
    assert all(layer.mega_bytes > 0 for layer in layers) and scratch > 0
    assert plan_layers.main([str(tmp_path / "cmg_fp16.onnx")]) == 0
    assert f"{len(layers)} kernels" in capsys.readouterr().out
    for arguments, message in (
        ([str(made.path)], "expected an ONNX file"),
        (["absent.onnx"], "absent.onnx is no graph"),
    ):
        assert plan_layers.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_layers_are_what_the_manual_says(tmp_path: Path, seed: int, rtx: Flavour) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "tensorrt.md").read_text()
    if f"`tensorrt_rtx` {rtx.version.rpartition('.')[0]}, 4096 environments" not in text:
        pytest.skip(f"the manual's table is of another version than {rtx.version}")
    said = re.findall(
        r"^\| ([\w./]+) \| (\d+\.\d) \| .*(?:product|softmax|normalisation|coefficients)", text, re.MULTILINE
    )
    made = make_checkpoint(tmp_path, seed=seed, num_joints=29, hidden_dim=512, num_experts=4, num_layers=3)
    for precision, megabytes in (("fp16", [mb for _, mb in said]), ("fp32", None)):
        layers, scratch = plan_layers.plan_layers(plan_layers.Arguments(graph(tmp_path, made, precision)))
        assert len(layers) == len(said) == 9
        if megabytes:
            assert [f"{layer.mega_bytes:.1f}" for layer in layers] == megabytes
            assert all(layer.name.startswith(name.rstrip(".")) for layer, (name, _) in zip(layers, said, strict=True))
        total = sum(layer.mega_bytes for layer in layers)
        assert f"{total:.0f} MB, {scratch:.0f} MB of scratch memory" in " ".join(text.split())


def test_verify_refuses_what_it_cannot_use(
    engine: tuple[Path, Path], tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoint = engine
    other = make_checkpoint(tmp_path / "other", seed=seed + 1, num_joints=5, hidden_dim=24)
    cases = [
        ([str(folder), str(checkpoint), "--backend", "tensorflow"], "unknown backend 'tensorflow'; expected one of"),
        ([str(tmp_path / "nowhere"), str(checkpoint)], "expected an engine folder"),
        ([str(folder), str(other.path), "--backend", "onnx"], "was not made from"),
    ]
    for arguments, message in cases:
        capsys.readouterr()
        assert verify.main(arguments) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_targets_on_the_command_line() -> None:
    options = command_line.parse(Options, "cmg_export", ["x.pt", "--tensorrt.targets", "8.9", "12.1"])
    assert options.tensorrt == PlanOptions(targets=("8.9", "12.1"))


def test_unsound_options_are_refused_before_anything_is_built(tmp_path: Path, seed: int, capsys: Any) -> None:
    made = make_checkpoint(tmp_path / "in", seed=seed, num_joints=5, hidden_dim=24)
    arguments = [str(made.path), "--out", str(tmp_path / "engine"), "--tensorrt.targets", "ninety"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "engine").exists()


def test_profiles_are_what_the_manual_says() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "tensorrt.md").read_text()
    for smallest, usual, largest in tensorrt.profile_batches(4096):
        assert f"| {smallest} | {usual} | {largest} |" in text
