"""Plans, really built where tensorrt_rtx is installed, and what ``python -m cmg_export`` says of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from built_case import built_engine
from cmg_export import plan_layers, verify
from cmg_export.build import Options
from cmg_export.compile import tensorrt
from cmg_export.compile.tensorrt import TIMING_CACHE, Flavour, PlanError, PlanOptions, build_plan, find_flavour
from cmg_export.errors import ExportError
from CMG_Ref import command_line
from cmg_runtime.backends.trt import library
from cmg_runtime.backends.trt.plan import PlanTarget
from cmg_runtime.folder.manifest import Artifact, file_sha256, read_manifest
from compile_case import graph, network
from make_checkpoint import make_checkpoint

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

RTX = PlanOptions(library="tensorrt_rtx")
MANUAL = Path(__file__).resolve().parents[3] / "docs" / "tensorrt.md"


@pytest.fixture
def rtx() -> Flavour:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    flavour, reason = find_flavour(RTX)
    assert flavour is not None, reason
    return flavour


PLANS = (
    ("usual", "fp32", 4096, ("8.6", "8.9", "12.0"), 512),
    ("usual", "fp16", 256, ("8.9",), None),
    ("wide gate", "fp32", 10000, ("8.0", "8.6", "8.9", "12.0", "12.1"), None),
    ("wide gate", "fp16", 4096, ("8.6", "8.9", "12.0"), None),
    ("least", "fp32", 257, ("12.0", "8.6"), None),
    ("least", "fp16", 1, ("8.6", "8.9", "12.0"), None),
    ("deep", "fp32", 64, ("8.6", "8.9", "12.0"), None),
    ("deep", "fp16", 4096, ("8.6", "8.9", "12.0"), None),
)
"""Network, precision, environments, compute capabilities and the limit of the workspace."""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "precision", "num_envs", "targets", "workspace"), PLANS)
def test_plans(
    tmp_path: Path, rtx: Flavour, size: str, precision: str, num_envs: int, targets: tuple[str, ...], workspace: int
) -> None:
    """The header of an RTX plan is text in parts; TF32 and what may be captured are among them."""
    options = replace(RTX, targets=targets, workspace_mib=workspace)
    flavour, _ = find_flavour(options)
    assert flavour is not None and flavour.version == rtx.version
    onnx_path, plan = graph(size, precision), tmp_path / "x.plan"
    target = build_plan(flavour, onnx_path, num_envs, plan, options)
    weights = network(size).weights
    operands = sum(array.size for name, array in weights.items() if name.startswith("layers.") and "weight" in name)
    content = plan.read_bytes()
    assert len(content) > operands * (2 if precision == "fp16" else 4)
    assert content.count(b"stream_capturable=1") >= 3  # one for each profile
    assert b"stream_capturable=0" not in content
    assert b"tf32=0" in content and b"tf32=1" not in content
    assert target["batches"] == [[num_envs] * 3, [1, 64, 256], [257, 2048, max(8192, num_envs)]]
    assert target["onnx_sha256"] == file_sha256(onnx_path)
    assert (target["gpu"], target["driver"]) == (None, None)
    assert not (tmp_path / TIMING_CACHE).exists()
    read = PlanTarget.of(Artifact("trt_fp32", "trt", precision, "x.plan", "0" * 64, target))
    assert (read.library, read.version, read.compute_capability) == ("tensorrt_rtx", rtx.version, targets)


def does_not_start(rtx: Flavour) -> Flavour:
    """What the bindings do where the CUDA driver is too old for the library."""

    def builder(logger: Any) -> Any:
        logger.log(rtx.trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    return replace(rtx, trt=SimpleNamespace(ILogger=rtx.trt.ILogger, Builder=builder))


REFUSED: dict[str, tuple[Callable[[Flavour], Flavour], PlanOptions, str]] = {
    "an RTX 20": (lambda rtx: replace(rtx, compute_capability=("7.5",)), RTX, "cmg_fp32.onnx .*GEMM is not supported"),
    "an unknown GPU": (lambda rtx: replace(rtx, compute_capability=("9.0",)), RTX, "9.0 is not known .* of .*SM89"),
    "little workspace": (lambda rtx: rtx, PlanOptions(workspace_mib=1), "cannot build cmg_fp32.onnx"),
    "an old driver": (does_not_start, RTX, r"cannot build cmg_fp32.onnx \(it does not start: CUDA init.* error: 35\)"),
    "no graph": (lambda rtx: rtx, RTX, "cannot build x.onnx"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_one_line(tmp_path: Path, rtx: Flavour, case: str) -> None:
    edit, options, message = REFUSED[case]
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    onnx_path = tmp_path / "x.onnx" if case == "no graph" else graph("usual", "fp32")
    with pytest.raises(PlanError, match=rf"^.*{message}.*\Z"):
        build_plan(edit(rtx), onnx_path, 4096, tmp_path / "x.plan", options)
    assert not (tmp_path / "x.plan").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # RTX's, about just this
def test_the_timing_cache_is_kept_and_used_again(tmp_path: Path, rtx: Flavour, monkeypatch: Patch) -> None:
    """As with tensorrt: RTX has the same interface, and nothing to put into it."""
    monkeypatch.setattr(library, "keeps_timing_cache", lambda _: True)
    build_plan(rtx, graph("least", "fp32"), 64, tmp_path / "x.plan")
    first = (tmp_path / TIMING_CACHE).read_bytes()
    assert first
    build_plan(rtx, graph("least", "fp32"), 64, tmp_path / "x.plan")
    assert (tmp_path / TIMING_CACHE).read_bytes() == first


OPTIONS = (
    (PlanOptions(library="tensorrt"), "tensorrt builds only where its GPU is, and torch sees none"),
    (replace(RTX, version_compatible=True), "tensorrt_rtx builds no version-compatible plans"),
    (replace(RTX, hardware_compatibility="ampere_plus"), "has no hardware compatibility levels"),
    (PlanOptions(workspace_mib=0), "workspace-mib is 0; expected at least 1"),
    (PlanOptions(targets=()), "names one twice; expected each capability once"),
    (PlanOptions(targets=("8.6", "8.6")), "expected each capability once"),
    (PlanOptions(targets=("RTX 4090",)), "'RTX 4090'; expected compute capabilities such as 8.9"),
)


def test_options_that_cannot_be_met(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, message in OPTIONS:
        with pytest.raises(ExportError, match=rf"^.*{message}.*\Z"):
            options.check()
            find_flavour(options)


def test_the_library_that_is_taken(monkeypatch: Patch) -> None:
    """On a GPU tensorrt comes first; without any library there are no plans."""
    assert find_flavour(PlanOptions(library="none")) == (None, "not asked for")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flavour, reason = find_flavour()
    assert flavour is None and "torch sees none; tensorrt_rtx cannot be imported" in reason
    libraries = {"tensorrt": SimpleNamespace(__version__="11.4.0.106")}
    monkeypatch.setattr(library, "import_library", lambda name: libraries[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    flavour, _ = find_flavour()
    assert flavour == Flavour("tensorrt", "11.4.0.106", ("9.0",), "NVIDIA H200", libraries["tensorrt"])
    assert flavour is not None and flavour.suffix == "trt.plan"


def test_progress_is_shown_on_a_terminal(rtx: Flavour, monkeypatch: Patch, capsys: Capture) -> None:
    interrupts: list[int] = []

    def reported() -> tuple[bool, str]:
        monitor = tensorrt.make_monitor(rtx.trt, lambda: bool(interrupts))
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
    tmp_path: Path, rtx: Flavour, monkeypatch: Patch, capfd: Capture, callback: str
) -> None:
    """In whatever of our code TensorRT happens to call at that moment."""

    owner, name = (tensorrt, "make_monitor") if callback == "step_complete" else (library, "make_logger")
    make = getattr(owner, name)

    def interrupting(*args: Any) -> Any:
        instance = make(*args)
        own = getattr(instance, callback)
        setattr(instance, callback, lambda *given: (os.kill(os.getpid(), signal.SIGINT), own(*given))[1])
        return instance

    monkeypatch.setattr(owner, name, interrupting)
    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, graph("least", "fp32"), 64, tmp_path / "y.plan")
    assert not (tmp_path / "y.plan").exists()
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_the_command_line_builds_and_lists_plans(rtx: Flavour) -> None:
    out = built_engine().out
    manifest = read_manifest(out)
    for precision in ("fp32", "fp16"):
        plan = next(artifact for artifact in manifest.artifacts if artifact.name == f"trt_{precision}")
        if not torch.cuda.is_available():
            assert plan.parity == {"status": "not_run", "reason": "built, not run: torch sees no CUDA device here"}
        assert plan.tools == {"tensorrt_rtx": rtx.version}
        assert plan.target["compute_capability"] == ["8.6", "8.9", "12.0"]
        assert plan.target["batches"][0] == [4096, 4096, 4096]
        assert plan.target["onnx_sha256"] == file_sha256(out / f"cmg_{precision}.onnx")
        assert plan.sha256 == file_sha256(out / f"cmg_{precision}.rtx.plan")
    options = manifest.source["options"]["tensorrt"]
    assert (options["library"], options["targets"]) == ("auto", ["8.6", "8.9", "12.0"])
    given = command_line.parse(Options, "cmg_export", ["x.pt", "--tensorrt.targets", "8.9", "12.1"])
    assert given.tensorrt == PlanOptions(targets=("8.9", "12.1"))
    given = command_line.parse(Options, "cmg_export", ["x.pt", "--version-compatible"])
    assert given.tensorrt == PlanOptions(version_compatible=True)


@pytest.mark.slow
def test_verify(rtx: Flavour, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """A plan that cannot run here, then a backend that can."""
    built = built_engine()  # copied, for what running it leaves there
    engine = [
        str(shutil.copytree(built.out, tmp_path / "engine")),
        str(built.made.path),
        "--data",
        str(built.made.data),
    ]
    assert verify.main([*engine, "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "cmg_fp32.rtx.plan is a TensorRT plan; use device='cuda'" in out
    assert err == "cmg_export.verify: trt is not verified on this machine\n"
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        assert verify.main(engine) == 1
    assert capsys.readouterr().out.startswith("torch sees no CUDA device here, so it is the CPU\nengine ")
    assert verify.main([*engine, "--backend", "onnx", "--num-envs", "16", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    for word in ("onnx_fp32: onnx_fp32 on cpu, parity passed", "PASS", "engine.step(), 16 environments", "torch_fp32"):
        assert word in out
    assert err == ""


@pytest.mark.slow
def test_verify_refuses_what_it_cannot_use(tmp_path: Path, seed: int, capsys: Capture) -> None:
    other = make_checkpoint(tmp_path / "other", seed=seed + 1, num_joints=5, hidden_dim=24).path
    engine, path, *data = str(built_engine().out), *built_engine().args[:3]
    for arguments, message in (
        ([engine, path, *data, "--backend", "tensorflow"], "unknown backend 'tensorflow'; expected one of"),
        ([str(tmp_path / "nowhere"), path, *data], "expected an engine folder"),
        ([engine, str(other), "--backend", "onnx"], "was not made from"),
    ):
        assert verify.main(arguments) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_layers_of_a_plan(rtx: Flavour, capsys: Capture) -> None:
    """The first layer's wide operand and the last one's wide result are never a tensor of hidden_dim * num_experts."""
    onnx_path = graph("usual", "fp16")
    layers, scratch = plan_layers.plan_layers(plan_layers.Arguments(onnx_path, num_envs=100))
    tensors = {tensor for layer in layers for tensor in (*layer.reads, *layer.writes)}
    assert {"[100,58] float", "[100,3] float"} <= tensors
    assert len([tensor for tensor in tensors if tensor.startswith("[100,256]")]) == 1  # the middle layer's
    assert all(layer.mega_bytes > 0 for layer in layers) and scratch > 0
    assert plan_layers.main([str(onnx_path), "--num-envs", "100"]) == 0
    *listed, total = capsys.readouterr().out.splitlines()  # TensorRT does not always fuse the same
    assert len(listed) > 5 and total.startswith(f"{len(listed)} kernels, ")
    refused = {str(network("usual").made.path): "expected an ONNX file", "absent.onnx": "absent.onnx is no graph"}
    for path, message in refused.items():
        assert plan_layers.main([path]) == 2
        assert message in capsys.readouterr().err


def test_profiles_are_what_the_manual_says() -> None:
    for smallest, usual, largest in tensorrt.profile_batches(4096):
        assert f"| {smallest} | {usual} | {largest} |" in MANUAL.read_text()


@pytest.mark.slow
def test_layers_are_what_the_manual_says(rtx: Flavour) -> None:
    text = MANUAL.read_text()
    if f"`tensorrt_rtx` {rtx.version.rpartition('.')[0]}, 4096 environments" not in text:
        pytest.skip(f"the manual's table is of another version than {rtx.version}")
    row = r"^\| ([\w./]+) \| (\d+\.\d) \| .*(?:product|softmax|normalisation|coefficients)"
    said = re.findall(row, text, re.MULTILINE)
    for precision in ("fp16", "fp32"):
        layers, scratch = plan_layers.plan_layers(plan_layers.Arguments(graph("trained", precision)))
        assert len(layers) == len(said) == 9
        if precision == "fp16":
            assert [f"{layer.mega_bytes:.1f}" for layer in layers] == [megabytes for _, megabytes in said]
            assert all(layer.name.startswith(name.rstrip(".")) for layer, (name, _) in zip(layers, said, strict=True))
        total = sum(layer.mega_bytes for layer in layers)
        assert f"{total:.0f} MB, {scratch:.0f} MB of scratch memory" in " ".join(text.split())
