"""Which artifact an engine runs, what it refuses to load, and that no setting of the process reaches the arithmetic."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError, load_engine
from cmg_runtime.backends import backend_class
from cmg_runtime.device.precision import full_precision
from cmg_runtime.folder.manifest import file_sha256, read_manifest
from engine_folder import BACKENDS, Truth, shared_engine_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shared_engine_folder()[0], tmp_path / "engine"))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, message: str, kind: type[EngineError] = EngineError, **asked: Any) -> None:
    """In one line."""
    with pytest.raises(kind, match=message) as caught:
        load_engine(folder, **{"num_envs": 2, **asked})
    assert "\n" not in str(caught.value)


LAST = {"onnx_fp32": "failed", "torch_fp32": "not_run", "torchscript_fp32": "failed"}
UNTESTED = {"torch_fp32": "not_run", "torch_fp16": "not_run"}
WITHHELD = {"onnx_fp32": None, "onnx_fp16": None}
SELECTIONS: list[Any] = [
    ({}, {}, "onnx_fp32"),
    ({"onnx_fp32": "failed"}, {}, "torch_fp32"),
    ({"onnx_fp32": "failed", "torch_fp32": "not_run"}, {}, "torchscript_fp32"),
    (LAST, {}, "onnx_fp16"),  # half precision is a CPU's last choice
    (LAST, {"precision": "fp32"}, r"nothing that passed.*fp32; it has: torch_fp32 \(parity not_run\)"),
    ({}, {"backend": "torch"}, "torch_fp32"),
    ({"torch_fp32": "failed"}, {"backend": "torch"}, "torch_fp16"),
    ({"torch_fp32": "failed"}, {"backend": "torch", "precision": "fp32"}, "nothing that passed.*failed"),
    (UNTESTED, {"backend": "torch"}, "torch_fp32"),  # asked for by name, with a warning
    (WITHHELD, {}, "torch_fp32"),
    (WITHHELD, {"backend": "onnx"}, r"nothing that passed.*onnx_fp32 \(parity failed\)"),
]


@pytest.mark.parametrize("parity, asked, expected", SELECTIONS)
def test_what_failed_or_was_not_run_is_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture, parity: Any, asked: Any, expected: str
) -> None:
    """``parity``: of artifacts by name; None withholds one."""

    def change(data: dict[str, Any]) -> None:
        for artifact in data["artifacts"]:
            status = parity.get(artifact["name"], "passed")
            artifact["parity"].update(status=status or "failed", reason="too far off")
            if status is None:
                artifact.update(file=None, sha256=None)

    edit_manifest(folder, change)
    if expected.startswith("nothing"):
        refused(folder, expected, BackendUnavailable, **asked)
    else:
        with caplog.at_level(logging.INFO, logger="cmg_runtime"):
            engine = load_engine(str(folder), 2, **asked)
        assert f"{engine.backend_name}_{engine.precision}" == expected and engine.selection in caplog.text
        if not (parity or asked):
            said = "onnx_fp32 on cpu, parity passed; first that loads of: onnx_fp32, torch_fp32"
            assert engine.selection.startswith(said)
        assert (f"parity of {expected} is not_run" in caplog.text) == (parity is UNTESTED)


@pytest.mark.gpu
def test_half_precision_is_the_gpus_first_choice(folder: Path) -> None:
    engine = load_engine(folder, 4, device="cuda")
    assert (engine.backend_name, engine.precision) == ("torch", "fp16")
    assert engine.device == torch.device("cuda", 0)


def test_without_its_library_a_backend_is_unavailable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes `import onnxruntime` fail
    monkeypatch.delitem(sys.modules, "cmg_runtime.backends.onnx", raising=False)
    refused(folder, "pip install onnxruntime", BackendUnavailable, backend="onnx")
    engine = load_engine(folder, 2)
    assert engine.backend_name == "torch"
    assert "onnx_fp32 cannot run here: onnxruntime cannot be imported" in engine.selection


@pytest.mark.slow
def test_importing_the_runtime_imports_no_backend_library(folder: Path) -> None:
    script = f"import sys, cmg_runtime; cmg_runtime.load_engine({str(folder)!r}, 2, backend='torch')"
    script += "; assert 'onnxruntime' not in sys.modules"
    runtime = str(Path(__file__).resolve().parents[3] / "runtime")
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": runtime})


WRONG_REQUESTS: list[Any] = [
    ({"backend": "cuda"}, "'cuda'; expected one of auto, torch, torchscript, onnx"),
    ({"backend": None}, "None; expected one of auto"),
    ({"precision": "int8"}, "'int8'; expected fp32 or fp16"),
    ({"device": "gpu"}, "'gpu'; expected cpu, cuda"),
    ({"device": "meta"}, "'meta' is not supported"),
    ({"device": "cuda:99"}, r"cuda:99.* is not there"),
    ({"num_envs": 0}, "num_envs is 0; expected an integer of at least 1"),
    ({"horizon": 0}, "horizon is 0; expected an integer of at least 1"),
    ({"command_ramp_s": -0.1}, "command_ramp_s is -0.1; expected seconds"),
    ({"command_ramp_s": float("nan")}, "command_ramp_s is nan"),
]


def test_wrong_requests(made: tuple[Path, Any]) -> None:
    for asked, message in WRONG_REQUESTS:
        refused(made[0], message, **asked)
    for path in ("nowhere", "a\0b", "weights.npz"):
        refused(made[0] / path, "expected an engine folder")


FILES = {"torch": "weights.npz", "torchscript": "cmg_fp32.ts", "onnx": "cmg_fp32.onnx"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_changed_or_missing_artifact_is_refused(folder: Path, backend: str) -> None:
    path = folder / FILES[backend]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for asked in (backend, "auto") if backend == "onnx" else (backend,):  # which does not step over it
        refused(folder, f"{path.name} does not match the hash", backend=asked)
    path.unlink()
    refused(folder, f"cannot read .*{path.name} \\(No such file", backend=backend)
    path.write_bytes(b"PK\x03\x04 torn")  # with the right hash

    def change(data: dict[str, Any]) -> None:
        for artifact in data["artifacts"]:
            if artifact["file"] == path.name:
                artifact["sha256"] = file_sha256(path)

    edit_manifest(folder, change)
    refused(folder, ".", backend=backend, precision="fp32")


BANKS: list[Any] = [
    ({"motion": np.zeros((4, 9), np.float32)}, r"shape \[4, 9\] .*expected finite float32 \[K, 10\]"),
    ({"motion": np.zeros((0, 10), np.float32)}, r"shape \[0, 10\]"),
    ({"motion": np.full((4, 10), np.nan, np.float32)}, "expected finite"),
    ({"states": np.zeros((4, 10), np.float32)}, r"shape \[0\]"),
    ({"motion": np.array([{}], dtype=object)}, "no .npz file"),
    (b"PK\x03\x04 torn", "no .npz file"),
    (b"", "no .npz file"),
]


def test_a_bank_that_is_none_is_refused(folder: Path) -> None:
    path = folder / "bank.npz"
    for content, message in BANKS:
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        refused(folder, "does not match the hash")
        edit_manifest(folder, lambda data: data["bank"].update(sha256=file_sha256(path)))
        refused(folder, message)


# full_precision


needs_flags = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="torch older than 2.9 has no such flags"
)
CUDA, CPU = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    for flag in (torch.backends, CUDA, CPU):
        flag.fp32_precision = "none"  # pyright: ignore


@needs_flags
@pytest.mark.parametrize("how", ["high", "medium", "new", "new for all"])
@pytest.mark.parametrize("device, flag", [("cuda", CUDA), ("cpu", CPU)])
def test_the_process_wide_precision_is_put_aside_and_put_back(
    settings_of_torch: None, how: str, device: str, flag: Any
) -> None:
    if how == "new":
        CUDA.fp32_precision, CPU.fp32_precision = "tf32", "bf16"  # pyright: ignore
    elif how == "new for all":
        torch.backends.fp32_precision = "tf32"  # pyright: ignore
    else:
        torch.set_float32_matmul_precision(how)
    before = CUDA.fp32_precision, CPU.fp32_precision  # pyright: ignore
    assert flag.fp32_precision in ("tf32", "bf16")
    with pytest.raises(KeyError), full_precision(torch.device(device)):
        with full_precision(torch.device(device)):
            assert flag.fp32_precision == "ieee"
        assert flag.fp32_precision == "ieee"
        raise KeyError
    assert (CUDA.fp32_precision, CPU.fp32_precision) == before  # pyright: ignore
    if not how.startswith("new"):
        assert torch.get_float32_matmul_precision() == how


def test_on_an_older_torch_the_only_flag_there_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", types.SimpleNamespace())
    module = sys.modules[full_precision.__module__]
    monkeypatch.setattr(module, "_PRODUCTS", module._make_products())
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@needs_flags
def test_the_flag_is_put_back_when_the_last_thread_has_left(settings_of_torch: None) -> None:
    CPU.fp32_precision = "bf16"  # pyright: ignore
    both_inside, leave = threading.Barrier(2), threading.Event()

    def stay() -> None:
        with full_precision(torch.device("cpu")):
            both_inside.wait(10)
            leave.wait(10)

    other = threading.Thread(target=stay)
    other.start()
    with full_precision(torch.device("cpu")):
        both_inside.wait(10)
    assert CPU.fp32_precision == "ieee"  # pyright: ignore
    leave.set()
    other.join()
    assert CPU.fp32_precision == "bf16"  # pyright: ignore


# Backends by themselves


def loaded(name: str, num_envs: int) -> Any:
    folder = shared_engine_folder()[0]
    manifest = read_manifest(folder)
    artifact = next(a for a in manifest.artifacts if a.name == f"{name}_fp32")
    return backend_class(name).load(folder, artifact, manifest, num_envs, torch.device("cpu"))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_writes_into_out_and_nowhere_else(truth: Truth, generator: torch.Generator, name: str) -> None:
    backend = loaded(name, 8)
    for n in (8, 3, 8, 700):  # other batches than the one it was loaded for
        motion, command = truth.states(n, generator), truth.commands(n, generator)
        copies, out = (motion.clone(), command.clone()), torch.full((n + 1, 10), 7.0)
        backend.step(motion, command, out[:n])
        assert truth.error(out[:n], truth.step(motion, command)) < 1e-5
        assert torch.equal(motion, copies[0]) and torch.equal(command, copies[1]) and bool((out[n] == 7).all())


def test_onnx_refuses_memory_that_it_would_misread() -> None:
    backend, good, command = loaded("onnx", 4), torch.zeros(4, 10), torch.zeros(4, 3)
    for bad in (torch.zeros(10, 4).T, good.double(), torch.zeros(4, 20)[:, ::2]):
        with pytest.raises(EngineError, match="motion is .*expected contiguous float32 on cpu"):
            backend.step(bad, command, good.clone())
    with pytest.raises(EngineError, match="unknown backend"):
        backend_class("tensorflow")
