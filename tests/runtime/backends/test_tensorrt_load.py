"""Which plans are loaded on which machine, and the gate that they pass when they are first loaded."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError, load_engine
from cmg_runtime.backends.proof import FILE_NAME, _one_step_error
from cmg_runtime.backends.torch import TorchBackend
from cmg_runtime.backends.trt import library as trt_library
from cmg_runtime.backends.trt.backend import TrtBackend
from cmg_runtime.backends.trt.plan import PlanTarget, driver_version
from cmg_runtime.folder.manifest import Artifact, file_sha256, read_manifest
from engine_folder import make_engine_folder
from fake_tensorrt import FakeCuda, FakeTensorRT, make_plan

TARGET: dict[str, Any] = {
    "device": "cuda",
    "library": "tensorrt_rtx",
    "version": "1.7.1.116",
    "compute_capability": ["8.6", "8.9", "12.0"],
    "gpu": None,
    "driver": None,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "batches": [[8, 8, 8]],
    "onnx_sha256": "0" * 64,
}
GPU = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.fixture
def trt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """The stand-in as the installed library, and the CPU as its GPU."""
    library = FakeTensorRT("tensorrt_rtx", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    monkeypatch.setattr(PlanTarget, "check_device", lambda *_: None)
    monkeypatch.setattr("cmg_runtime.loading.PREFERRED_BACKENDS", {"cpu": ("trt", "torch")})
    return library


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    """An engine whose fp32 plan, of the stand-in's kind, was built and not run."""
    make_engine_folder(tmp_path / "engine", seed, ("fp32",), num_joints=5, hidden_dim=20)
    return add_plan(tmp_path / "engine")


def add_plan(folder: Path, content: bytes | None = None, **target: Any) -> Path:
    (folder / "cmg_fp32.rtx.plan").write_bytes(make_plan(folder) if content is None else content)
    manifest = read_manifest(folder)
    sha256 = file_sha256(folder / "cmg_fp32.rtx.plan")
    plan = Artifact("trt_fp32", "trt", "fp32", "cmg_fp32.rtx.plan", sha256, {**TARGET, **target}, {})
    others = tuple(artifact for artifact in manifest.artifacts if artifact.backend != "trt")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=(*others, plan)).to_json())
    return folder


def artifact(**target: Any) -> Artifact:
    return Artifact("trt_fp32", "trt", "fp32", "x.plan", "0" * 64, {**TARGET, **target})


REFUSED = {
    "another capability": (
        {},
        (9, 0),
        "NVIDIA H200",
        r"tensorrt_rtx for compute capability 8.6, 8.9, 12.0 and this GPU, NVIDIA H200, has 9.0; rebuild it",
    ),
    "another GPU": (
        {"library": "tensorrt", "compute_capability": ["9.0"], "gpu": "NVIDIA H100"},
        (9, 0),
        "NVIDIA H200",
        "measured on a NVIDIA H100 and this GPU is a NVIDIA H200; rebuild it",
    ),
    "too old for any": (
        {"library": "tensorrt", "compute_capability": ["8.0"], "hardware_compatibility": "ampere_plus"},
        (7, 5),
        "Tesla T4",
        "8.0 and newer",
    ),
    "same capability only": (
        {"library": "tensorrt", "compute_capability": ["8.0"], "hardware_compatibility": "same_compute_capability"},
        (8, 6),
        "NVIDIA A10",
        "capability 8.0 and this GPU",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_gpu_is_refused_in_one_line(cuda: FakeCuda, name: str) -> None:
    target, cuda.capability, cuda.name, message = REFUSED[name]
    with pytest.raises(BackendUnavailable, match=message) as caught:
        PlanTarget.of(artifact(**target)).check_device(GPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target, capability, gpu",
    [
        ({}, (8, 9), "NVIDIA L4"),
        ({"library": "tensorrt", "compute_capability": ["9.0"], "gpu": "NVIDIA H200"}, (9, 0), "NVIDIA H200"),
        ({"compute_capability": ["8.0"], "gpu": "A", "hardware_compatibility": "ampere_plus"}, (12, 0), "B"),
        ({"compute_capability": ["8.0"], "gpu": "A", "hardware_compatibility": "same_compute_capability"}, (8, 0), "B"),
    ],
)
def test_a_gpu_that_the_plan_is_for(cuda: FakeCuda, target: dict[str, Any], capability: Any, gpu: str) -> None:
    cuda.capability, cuda.name = capability, gpu
    PlanTarget.of(artifact(**target)).check_device(GPU)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="use device='cuda'"):
        PlanTarget.of(artifact()).check_device(torch.device("cpu"))


@pytest.mark.parametrize(
    "built, here, compatible, loads",
    [
        ("11.4.0.106", "11.4.0.106", False, True),
        ("11.4.0.106", "11.4.0.107", False, False),
        ("11.4.0.106", "11.5.0.1", True, True),
        ("11.4.0.106", "11.3.9.1", True, False),
        ("10.7.0.post1", "10.16.1.11", True, True),
        ("10.16.1.11", "11.4.0.106", True, False),
    ],
)
def test_versions(cuda: FakeCuda, built: str, here: str, compatible: bool, loads: bool) -> None:
    target = PlanTarget.of(artifact(version=built, version_compatible=compatible))
    library = FakeTensorRT("tensorrt_rtx", cuda, here)
    if loads:
        target.check_version(library)
        return
    with pytest.raises(BackendUnavailable, match=f"{built} and {here} is installed; install that version, or") as e:
        target.check_version(library)
    assert "\n" not in str(e.value)


def test_targets_that_describe_no_plan() -> None:
    for lacking in ("library", "version", "compute_capability", "gpu"):
        target = {key: value for key, value in TARGET.items() if key != lacking}
        with pytest.raises(EngineError, match=f"does not describe a plan .*{lacking}.*rebuild"):
            PlanTarget.of(replace(artifact(), target=target))
    with pytest.raises(EngineError, match="library 'tensorflow'; expected tensorrt or tensorrt_rtx"):
        PlanTarget.of(artifact(library="tensorflow"))
    changes: list[dict[str, Any]] = [{"version": 11}, {"version": "new"}, {"compute_capability": [8.9]}]
    for change in [*changes, {"version": "10.x", "version_compatible": True}, {"hardware_compatibility": None}]:
        with pytest.raises(EngineError, match="does not describe a plan; rebuild"):
            PlanTarget.of(artifact(**change))


@pytest.mark.parametrize("library, package", [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, library: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendUnavailable, match=rf"pip install {package}==1\.2`") as caught:
        trt_library.import_library(library, "1.2")
    assert "\n" not in str(caught.value)


def test_auto_goes_on_where_a_plan_does_not_load(folder: Path, trt: FakeTensorRT) -> None:
    trt.__version__ = "1.8.0.1"
    engine = load_engine(folder, 8)
    assert engine.backend_name == "torch"
    assert "trt_fp32 cannot run here: cmg_fp32.rtx.plan was built by tensorrt_rtx 1.7.1.116" in engine.selection
    with pytest.raises(BackendUnavailable, match="1.8.0.1 is installed") as caught:
        load_engine(folder, 8, backend="trt")
    assert "\n" not in str(caught.value)


def test_a_changed_plan_is_not_loaded(folder: Path, trt: FakeTensorRT) -> None:
    (folder / "cmg_fp32.rtx.plan").write_bytes(make_plan(folder, scale=2.0))
    with pytest.raises(EngineError, match="does not match the hash"):
        load_engine(folder, 8)
    assert trt.loads == 0


# The gate


@pytest.mark.parametrize("num_envs", [1, 8, 50])
def test_a_plan_is_proved_when_it_is_first_loaded(folder: Path, trt: FakeTensorRT, num_envs: int) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    engine = load_engine(folder, num_envs)
    assert engine.backend_name == "trt"
    assert "parity not_run, one step proved on this GPU" in engine.selection
    record = json.loads((folder / FILE_NAME).read_text())["trt_fp32"]
    assert record["status"] == "passed"
    assert 0 < record["one_step_relative"] < record["one_step_relative_allowed"] == 1e-5
    assert (record["gpu"], record["driver"]) == ("NVIDIA GeForce RTX 4090", driver_version())
    assert {name: (folder / name).read_bytes() for name in files} == files  # nothing that is hashed was touched
    assert {path.name for path in folder.iterdir()} - {"checkpoint"} == {
        *files,
        FILE_NAME,
        "cmg_fp32.rtx.plan.NVIDIA-GeForce-RTX-4090.cache",
    }


def test_rollouts_are_proved_too(folder: Path) -> None:
    manifest = read_manifest(folder)
    artifact = next(a for a in manifest.artifacts if (a.backend, a.precision) == ("torch", "fp32"))
    cpu, batches = torch.device("cpu"), (7, 1024)
    backend: Any = TorchBackend.load(folder, artifact, manifest, 1024, cpu)
    faults: dict[str, Callable[[torch.Tensor], object]] = {
        "none": lambda out: None,
        "first": lambda out: out[0, -1].mul_(1.5),
        "second": lambda out: out[1, 0].mul_(1.5),
        "unwritten": lambda out: out[1, 3].fill_(float("nan")),
    }
    errors = {}
    for name, fault in faults.items():

        def rollout(
            motion: torch.Tensor, commands: torch.Tensor, out: torch.Tensor, fault: Callable[..., object] = fault
        ) -> None:
            for t in range(len(commands)):
                backend.step(motion if t == 0 else out[t - 1], commands[t], out[t])
            fault(out)

        backend.rollout = rollout
        errors[name] = _one_step_error(backend, folder, manifest, batches, cpu)
    assert errors["none"] < 1e-5 < min(errors["first"], errors["second"]) and errors["unwritten"] == float("inf")


def test_the_gate_is_run_once_for_a_kind_of_gpu(
    folder: Path, trt: FakeTensorRT, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = TrtBackend.step

    def counted(*args: Any) -> None:
        steps.append(1)
        step(*args)

    monkeypatch.setattr(TrtBackend, "step", counted)

    def count() -> int:
        steps.clear()
        load_engine(folder, 1024)
        return len(steps)

    warm_up, gate = 3, 3 * (1024 // 64 + 1024 // 1024)  # one step, and two frames of a rollout
    assert count() == warm_up + gate
    assert count() == warm_up
    cuda.name = "NVIDIA GeForce RTX 5090"
    assert count() == warm_up + gate
    (folder / FILE_NAME).write_text("torn {")
    assert count() == warm_up + gate
    assert count() == warm_up
    record = json.loads((folder / FILE_NAME).read_text())["trt_fp32"]
    for change in ({"sha256": "1" * 64}, {"one_step_relative": "none"}, {"batches": None}, {"batches": ["64", 1024]}):
        (folder / FILE_NAME).write_text(json.dumps({"trt_fp32": {**record, **change}}))
        assert count() == warm_up + gate, change
        assert count() == warm_up


def test_each_batch_is_proved(folder: Path, trt: FakeTensorRT) -> None:
    """The plan has other kernels for each of its profiles: 8; 1 to 4; 5 to 64."""
    for num_envs, batches in ((8, [8]), (3, [3, 8]), (70, [3, 8, 64, 70])):
        assert load_engine(folder, num_envs).backend_name == "trt"
        assert json.loads((folder / FILE_NAME).read_text())["trt_fp32"]["batches"] == batches


@pytest.mark.parametrize("profile, num_envs", [("0", 8), ("1", 3), ("2", 64), ("2", 65)])
def test_a_profile_that_computes_something_else_is_refused(
    folder: Path, trt: FakeTensorRT, profile: str, num_envs: int
) -> None:
    add_plan(folder, make_plan(folder, scales={profile: 1.001}))
    other = {"0": 3, "1": 8, "2": 8}[profile]
    assert load_engine(folder, other).backend_name == "trt"
    engine = load_engine(folder, num_envs)
    assert engine.backend_name == "torch"
    assert "trt_fp32 failed parity on this GPU" in engine.selection


def test_one_engine_serves_all_loads(folder: Path, trt: FakeTensorRT) -> None:
    first = load_engine(folder, 8)
    second = load_engine(folder, 30, backend="trt")
    assert trt.loads == 1
    assert len(trt.contexts) == 2
    assert (first.backend_name, second.backend_name) == ("trt", "trt")
    gc.disable()
    try:
        del first, second
        load_engine(folder, 8)
    finally:
        gc.enable()
    assert trt.loads == 2  # freed with its last user, at once


@pytest.mark.parametrize("scale", [1.001, float("nan"), float("inf")])
def test_a_plan_that_computes_something_else_is_refused(folder: Path, trt: FakeTensorRT, scale: float) -> None:
    add_plan(folder, make_plan(folder, scale=scale))
    for _ in range(2):  # a failure is measured anew
        engine = load_engine(folder, 8)
        assert engine.backend_name == "torch"
        assert "trt_fp32 failed parity on this GPU" in engine.selection
        assert json.loads((folder / FILE_NAME).read_text())["trt_fp32"]["status"] == "failed"
    with pytest.raises(BackendUnavailable, match="failed parity on this GPU .*rebuild it") as caught:
        load_engine(folder, 8, backend="trt")
    assert "\n" not in str(caught.value)


def test_a_version_compatible_plan_may_carry_code(folder: Path, trt: FakeTensorRT) -> None:
    content = make_plan(folder, host_code=True)
    add_plan(folder, content)
    assert load_engine(folder, 8).backend_name == "torch"
    add_plan(folder, content, version_compatible=True)
    assert load_engine(folder, 8).backend_name == "trt"


def test_a_library_that_does_not_start_is_passed_over(folder: Path, trt: FakeTensorRT) -> None:
    trt.refuse = {"runtime"}
    engine = load_engine(folder, 8)
    assert engine.backend_name == "torch"
    assert "tensorrt_rtx 1.7.1.116 does not start (CUDA initialization failure" in engine.selection


def test_each_kind_of_gpu_keeps_what_it_compiled(folder: Path, trt: FakeTensorRT, cuda: FakeCuda) -> None:
    for cuda.name in ("NVIDIA GeForce RTX 4090", "NVIDIA L4"):
        load_engine(folder, 8)
    caches = {path.name for path in folder.glob("*.cache")}
    assert caches == {f"cmg_fp32.rtx.plan.{name}.cache" for name in ("NVIDIA-GeForce-RTX-4090", "NVIDIA-L4")}


def test_without_weights_nothing_is_proved(folder: Path, trt: FakeTensorRT) -> None:
    manifest = read_manifest(folder)
    kept = tuple(a for a in manifest.artifacts if a.backend != "torch")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=kept).to_json())
    with pytest.raises(BackendUnavailable, match=r"no weights.npz to prove"):
        load_engine(folder, 8, backend="trt")


# On a GPU


@pytest.mark.gpu
def test_a_plan_for_other_gpus_is_refused_and_auto_goes_on(tmp_path: Path, seed: int) -> None:
    """Whatever GPU and libraries are here: no plan is for compute capability 3.7, and this one is torn as well."""
    make_engine_folder(tmp_path, seed, ("fp32",), num_joints=5, hidden_dim=20)
    add_plan(tmp_path, b"torn", compute_capability=["3.7"])
    with pytest.raises(BackendUnavailable, match="for compute capability 3.7 and this GPU, .*rebuild it") as caught:
        load_engine(tmp_path, 16, device="cuda", backend="trt")
    assert "\n" not in str(caught.value)
    engine = load_engine(tmp_path, 16, device="cuda")
    assert engine.backend_name != "trt"
    assert "trt_fp32 cannot run here" in engine.selection
    engine.reset()
    engine.step()


@pytest.mark.gpu
def test_what_a_plan_of_the_library_says_here(tmp_path: Path, seed: int) -> None:
    """A torn plan that claims to be for this GPU: without the library, and with it, one line."""
    make_engine_folder(tmp_path, seed, ("fp32",), num_joints=5, hidden_dim=20)
    major, minor = torch.cuda.get_device_capability()
    try:
        version = trt_library.import_library("tensorrt_rtx").__version__
    except BackendUnavailable:
        version = "1.7.1.116"
    add_plan(tmp_path, b"torn", compute_capability=[f"{major}.{minor}"], version=version)
    with pytest.raises(BackendUnavailable, match="does not load|cannot be imported") as caught:
        load_engine(tmp_path, 16, device="cuda", backend="trt")
    assert "\n" not in str(caught.value)
    assert load_engine(tmp_path, 16, device="cuda").backend_name != "trt"
