"""Which plans are loaded on which machine, and the gate that they pass when they are first loaded."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError, load_engine
from cmg_runtime.backends.proof import FILE_NAME
from cmg_runtime.backends.trt import library as trt_library
from cmg_runtime.backends.trt.backend import TrtBackend
from cmg_runtime.backends.trt.plan import PlanTarget, driver_version
from cmg_runtime.folder.manifest import Artifact, read_manifest
from engine_folder import shared_engine_folder
from fake_tensorrt import PLAN_FILE, TARGET, FakeCuda, FakeTensorRT, add_plan, copied_engine, make_plan
from python_process import run_python


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
def folder(tmp_path: Path) -> Path:
    """An engine whose fp32 plan, of the stand-in's kind, was built and not run."""
    return add_plan(copied_engine(shared_engine_folder()[0], tmp_path / "engine"))


def target(**changes: Any) -> PlanTarget:
    return PlanTarget.of(Artifact("trt_fp32", "trt", "fp32", "x.plan", "0" * 64, {**TARGET, **changes}))


def unavailable(message: str, use: Callable[..., Any], *given: Any) -> None:
    with pytest.raises(BackendUnavailable, match=message) as caught:
        use(*given)
    assert "\n" not in str(caught.value)


OTHER = r"tensorrt_rtx for compute .* 8.6, 8.9, 12.0 and this GPU, NVIDIA H200, has 9.0; for 9.0: .*=--version-compat"
AMPERE: dict[str, Any] = {"compute_capability": ["8.0"], "gpu": "A", "hardware_compatibility": "ampere_plus"}
SAME: dict[str, Any] = {**AMPERE, "hardware_compatibility": "same_compute_capability"}
H200: dict[str, Any] = {"library": "tensorrt", "compute_capability": ["9.0"], "gpu": "NVIDIA H200"}
GPUS = [
    ({}, (8, 9), "NVIDIA L4", None),
    ({}, (9, 0), "NVIDIA H200", OTHER),
    (H200, (9, 0), "NVIDIA H200", None),
    (H200, (9, 0), "NVIDIA H100", "on a NVIDIA H200 and this GPU is a NVIDIA H100; for 9.0: .*tensorrt-lean-cu"),
    (H200, (8, 9), "NVIDIA L4", "for 8.9: `pip install tensorrt-rtx` and `make engine`, or choose another backend"),
    (AMPERE, (12, 0), "B", None),
    (AMPERE, (7, 0), "Tesla V100", "8.0 and newer .* takes compute capability 7.5 and newer, not 7.0; choose another"),
    (SAME, (8, 0), "B", None),
    (SAME, (8, 6), "NVIDIA A10", "capability 8.0 and this GPU"),
]
HERE: dict[str, dict[str, str]] = {  # what is installed: module -> version
    "old": {"tensorrt": "11.3.9.1", "tensorrt_lean": "11.3.9.1"},
    "same": {"tensorrt": "11.4.0.106", "tensorrt_lean": "11.4.0.106"},
    "newer lean": {"tensorrt": "11.3.9.1", "tensorrt_lean": "11.5.0.1", "tensorrt_dispatch": "11.6.0.1"},
    "lean": {"tensorrt_lean": "11.4.0.106"},
    "dispatch": {"tensorrt_lean": "10.16.1.11", "tensorrt_dispatch": "11.4.0.106"},
    "RTX": {"tensorrt_rtx": "11.4.0.106"},
}
RUNS = [  # the plan's builder and version, whether it is version-compatible, what is here, and what runs it or is said
    ("tensorrt", "11.4.0.106", False, "same", "tensorrt"),
    ("tensorrt", "11.4.0.106", False, "lean", "tensorrt cannot be imported .*; `pip install 'tensorrt==11.4.0.106'`"),
    ("tensorrt", "11.4.0.106", False, "newer lean", "tensorrt here is 11.3.9.1; `pip install 'tensorrt==11.4.0.106'`"),
    ("tensorrt", "11.4.0.106", True, "same", "tensorrt"),
    ("tensorrt", "11.4.0.106", True, "newer lean", "tensorrt_lean"),
    ("tensorrt", "11.4.0.106", True, "dispatch", "tensorrt_dispatch"),
    (
        "tensorrt",
        "11.4.0.106",
        True,
        "old",
        "lean here is 11.3.9.1, .*`pip install 'tensorrt-lean-cu.+>=11.4.0.106,<12'`",
    ),
    ("tensorrt", "10.7.0.post1", True, "dispatch", "tensorrt_lean"),
    ("tensorrt", "10.16.1.11", True, "lean", "tensorrt_lean here is 11.4.0.106, .*>=10.16.1.11,<11'`"),
    ("tensorrt", "11.4.0.106", True, "RTX", "tensorrt_lean cannot be imported"),
    ("tensorrt_rtx", "11.4.0.106", False, "RTX", "tensorrt_rtx"),
    ("tensorrt_rtx", "11.4.0.107", False, "RTX", "rtx here is 11.4.0.106; `pip install 'tensorrt-rtx==11.4.0.107'`"),
]


def test_which_gpu_a_plan_is_for(cuda: FakeCuda) -> None:
    for changes, cuda.capability, cuda.name, message in GPUS:
        check = target(**changes).check_device
        unavailable(message, check, torch.device("cuda", 0)) if message else check(torch.device("cuda", 0))
        unavailable("use device='cuda'", check, torch.device("cpu"))


@pytest.mark.parametrize("built_by, version, compatible, here, expected", RUNS)
def test_which_library_runs_a_plan(
    built_by: str, version: str, compatible: bool, here: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (name for names in trt_library.RUNNERS.values() for name in names):
        installed = SimpleNamespace(__name__=name, __version__=HERE[here].get(name)) if name in HERE[here] else None
        monkeypatch.setitem(sys.modules, name, installed)
    find = target(library=built_by, version=version, version_compatible=compatible).find_library
    if expected in HERE[here]:
        assert find().__name__ == expected
    else:
        unavailable(expected, find)


@pytest.mark.slow
def test_without_a_gpu_no_library_is_touched(folder: Path) -> None:
    """Whatever is used of the lean runtime without one ends the process."""
    pytest.importorskip("tensorrt_lean", reason="tensorrt_lean is not installed: pip install tensorrt-lean-cu13")
    done = run_python("-c", WITHOUT_GPU, str(folder), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    cpu, cuda, by_hand = done.stdout.splitlines()
    assert "cmg_fp32.rtx.plan is a TensorRT plan; use device='cuda'" in cpu and "cuda" in cuda
    assert re.fullmatch(r"tensorrt_lean .* does not start \(torch sees no CUDA GPU\); .*", by_hand)


WITHOUT_GPU = """
import sys
import tensorrt_lean
from cmg_runtime import EngineError, load_engine
from cmg_runtime.backends.trt.context import SharedPlan
for use in (
    lambda: load_engine(sys.argv[1], 4, "cpu", "trt"),
    lambda: load_engine(sys.argv[1], 4, "cuda", "trt"),
    lambda: SharedPlan(tensorrt_lean, b"a plan", "x.plan", {}),
):
    try:
        use()
    except EngineError as error:
        print(error)
"""


def test_a_folder_without_a_plan_says_what_this_gpu_takes(cuda: FakeCuda) -> None:
    for cuda.capability, message in (((9, 0), "for 9.0: `pip install tensorrt`"), ((12, 0), "for 12.0: .*-rtx`")):
        assert re.match(message, TrtBackend.how_to_get(torch.device("cuda", 0)))
    rebuild = "it has: .*; ask for one of these that passed, or rebuild it"
    unavailable(rebuild, load_engine, shared_engine_folder()[0], 4, "cpu", "trt")


def test_targets_that_describe_no_plan() -> None:
    for lacking in ("library", "version", "compute_capability", "gpu"):
        content = {key: value for key, value in TARGET.items() if key != lacking}
        with pytest.raises(EngineError, match=f"does not describe a plan .*{lacking}.*rebuild"):
            PlanTarget.of(Artifact("trt_fp32", "trt", "fp32", "x.plan", "0" * 64, content))
    with pytest.raises(EngineError, match="library 'tensorflow'; expected tensorrt or tensorrt_rtx"):
        target(library="tensorflow")
    changes: list[dict[str, Any]] = [{"version": 11}, {"version": "new"}, {"compute_capability": [8.9]}]
    for change in [*changes, {"version": "10.x", "version_compatible": True}, {"hardware_compatibility": None}]:
        with pytest.raises(EngineError, match="does not describe a plan; rebuild"):
            target(**change)


# What is refused: by name in one line, and "auto" goes on to the next backend


def refused(folder: Path, num_envs: int, message: str) -> None:
    for _ in range(2):  # a failure is measured anew
        engine = load_engine(folder, num_envs)
        assert engine.backend_name == "torch"
        assert re.search(f"trt_fp32 cannot run here: {message}", engine.selection)
    unavailable(message, load_engine, folder, num_envs, "cpu", "trt")


def test_a_plan_that_does_not_load_here(folder: Path, trt: FakeTensorRT) -> None:
    trt.refuse = {"runtime"}
    refused(folder, 8, "tensorrt_rtx 1.7.1.116 does not start .CUDA initialization failure")
    trt.refuse.clear()
    content = make_plan(folder, host_code=True)
    add_plan(folder, content)
    refused(folder, 8, f"tensorrt_rtx 1.7.1.116 does not load {PLAN_FILE} .engine host code is not allowed")
    add_plan(folder, content, version_compatible=True)  # only such a one may carry code
    assert load_engine(folder, 8).backend_name == "trt"
    (folder / PLAN_FILE).write_bytes(make_plan(folder, scale=2.0))
    with pytest.raises(EngineError, match="does not match the hash"):
        load_engine(folder, 8)
    trt.__version__ = "1.8.0.1"
    refused(add_plan(folder), 8, f"{PLAN_FILE} was built by tensorrt_rtx 1.7.1.116: tensorrt_rtx here is 1.8.0.1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan, num_envs",
    [
        *(({"scale": scale}, 8) for scale in (1.001, float("nan"), float("inf"))),
        *(({"scales": {profile: 1.001}}, n) for profile, n in (("0", 8), ("1", 3), ("2", 64), ("2", 65))),
    ],
)
def test_a_plan_or_a_profile_that_computes_something_else(
    folder: Path, trt: FakeTensorRT, plan: Any, num_envs: int
) -> None:
    add_plan(folder, make_plan(folder, **plan))
    if "scales" in plan:  # the other profiles are right
        assert load_engine(folder, 3 if num_envs != 3 else 8).backend_name == "trt"
    refused(folder, num_envs, "trt_fp32 failed parity on this GPU ")
    assert json.loads((folder / FILE_NAME).read_text())["trt_fp32"]["status"] == "failed"


FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "none": lambda out: None,
    "in the first frame": lambda out: out[0, -1].mul_(1.5),
    "in the second": lambda out: out[1, 0].mul_(1.5),
    "a row unwritten": lambda out: out[1, 3].fill_(float("nan")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_many_frames_in_one_call_are_proved_too(
    folder: Path, trt: FakeTensorRT, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rollout(self: TrtBackend, motion: torch.Tensor, commands: torch.Tensor, out: torch.Tensor, *_: Any) -> None:
        for t in range(len(commands)):
            self.step(motion if t == 0 else out[t - 1], commands[t], out[t])
        FAULTS[fault](out)

    monkeypatch.setattr(TrtBackend, "rollout", rollout)
    if fault == "none":
        assert load_engine(folder, 8).backend_name == "trt"
    else:
        refused(folder, 8, "trt_fp32 failed parity on this GPU ")


def test_without_weights_nothing_is_proved(folder: Path, trt: FakeTensorRT) -> None:
    manifest = read_manifest(folder)
    kept = tuple(a for a in manifest.artifacts if a.backend != "torch")
    (folder / "manifest.json").write_text(replace(manifest, artifacts=kept).to_json())
    unavailable("no weights.npz to check", load_engine, folder, 8, "cpu", "trt")


# The gate


@pytest.mark.slow
def test_a_plan_is_proved_when_it_is_first_loaded(folder: Path, trt: FakeTensorRT) -> None:
    """In each batch: it has other kernels for each of its profiles, which are 8; 1 to 4; 5 to 64."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for num_envs, batches in ((1, [1]), (8, [1, 8]), (3, [1, 3, 8]), (50, [1, 3, 8, 50]), (70, [1, 3, 8, 50, 64, 70])):
        engine = load_engine(folder, num_envs)
        assert engine.backend_name == "trt"
        assert "by tensorrt_rtx 1.7.1.116, parity not_run, one step checked on this GPU" in engine.selection
        record = json.loads((folder / FILE_NAME).read_text())["trt_fp32"]
        assert (record["status"], record["batches"]) == ("passed", batches)
        assert 0 < record["one_step_relative"] < record["one_step_relative_allowed"] == 1e-5
        assert (record["gpu"], record["driver"]) == ("NVIDIA GeForce RTX 4090", driver_version())
    trt.cuda.name = "NVIDIA L4"  # each kind of GPU keeps what it compiled
    load_engine(folder, 8)
    assert {name: (folder / name).read_bytes() for name in files} == files  # nothing that is hashed was touched
    caches = {f"{PLAN_FILE}.{gpu}.cache" for gpu in ("NVIDIA-GeForce-RTX-4090", "NVIDIA-L4")}
    assert {path.name for path in folder.iterdir()} == {*files, FILE_NAME, *caches}


def test_the_gate_is_run_once_for_a_kind_of_gpu(folder: Path, trt: FakeTensorRT) -> None:
    def runs() -> int:
        """Of the plan, 64 rows each."""
        trt.calls()
        load_engine(folder, 1024)
        return len([call for call in trt.calls() if call.startswith("execute")])

    with_gate, without = runs(), runs()
    assert with_gate - without == 6 * 1024 // 64  # 1024 states in batches of 64, and all at once
    trt.cuda.name = "NVIDIA GeForce RTX 5090"
    assert (runs(), runs()) == (with_gate, without)
    record = json.loads((folder / FILE_NAME).read_text())["trt_fp32"]
    changes = ({"sha256": "1" * 64}, {"one_step_relative": "none"}, {"batches": None}, {"batches": ["64", 1024]})
    for torn in ["torn {", *(json.dumps({"trt_fp32": {**record, **change}}) for change in changes)]:
        (folder / FILE_NAME).write_text(torn)
        assert (runs(), runs()) == (with_gate, without), torn


def test_one_engine_serves_all_loads(folder: Path, trt: FakeTensorRT) -> None:
    first = load_engine(folder, 8)
    second = load_engine(folder, 30, backend="trt")
    assert (trt.loads, len(trt.contexts), first.backend_name, second.backend_name) == (1, 2, "trt", "trt")
    gc.disable()
    try:
        del first, second
        load_engine(folder, 8)
    finally:
        gc.enable()
    assert trt.loads == 2  # freed with its last user, at once
