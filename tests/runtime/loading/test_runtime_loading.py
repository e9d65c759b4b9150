"""Which artifact an engine runs, what it refuses to load, and that no setting of the process reaches the arithmetic."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import BackendUnavailable, EngineError, load_engine
from cmg_runtime.backends import backend_class
from cmg_runtime.device.precision import full_precision
from cmg_runtime.folder.manifest import file_sha256, read_manifest
from engine_folder import BACKENDS, shared_engine_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shared_engine_folder()[0], tmp_path / "engine"))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_parity(folder: Path, status: str, *names: str) -> None:
    def change(data: dict[str, Any]) -> None:
        for artifact in data["artifacts"]:
            if artifact["name"] in names:
                artifact["parity"]["status"] = status

    edit_manifest(folder, change)


def npy_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 10), np.float32))
    return stream.getvalue()


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_auto_takes_the_preferred_backend_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cmg_runtime"):
        engine = load_engine(str(folder), 2)
    assert (engine.backend_name, engine.precision) == ("onnx", "fp32")
    assert engine.selection.startswith("onnx_fp32 on cpu, parity passed; first that loads of: onnx_fp32, torch_fp32")
    assert engine.selection in caplog.text


def test_auto_passes_over_what_failed_or_was_not_run(folder: Path) -> None:
    set_parity(folder, "failed", "onnx_fp32")
    assert load_engine(folder, 2).backend_name == "torch"
    set_parity(folder, "not_run", "torch_fp32")
    assert load_engine(folder, 2).backend_name == "torchscript"
    set_parity(folder, "failed", "torchscript_fp32")
    engine = load_engine(folder, 2)  # half precision is a CPU's last choice
    assert (engine.backend_name, engine.precision) == ("onnx", "fp16")
    with pytest.raises(
        BackendUnavailable, match=r"nothing that passed.*fp32; it has: torch_fp32 \(parity not_run\)"
    ) as e:
        load_engine(folder, 2, precision="fp32")
    one_line(e)


def test_a_named_backend_takes_the_best_precision_that_passed(folder: Path) -> None:
    assert load_engine(folder, 2, backend="torch").precision == "fp32"
    set_parity(folder, "failed", "torch_fp32")
    assert load_engine(folder, 2, backend="torch").precision == "fp16"
    with pytest.raises(BackendUnavailable, match="failed"):
        load_engine(folder, 2, backend="torch", precision="fp32")


def test_a_named_backend_may_be_untested_but_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_parity(folder, "not_run", "torch_fp32", "torch_fp16")
    assert load_engine(folder, 2, backend="torch").precision == "fp32"
    assert "parity of torch_fp32 is not_run" in caplog.text


def test_a_withheld_artifact_is_not_offered(folder: Path) -> None:
    def withhold(data: dict[str, Any]) -> None:
        for artifact in data["artifacts"]:
            if artifact["backend"] == "onnx":
                artifact.update(file=None, sha256=None, parity={"status": "failed", "reason": "too far off"})

    edit_manifest(folder, withhold)
    assert load_engine(folder, 2).backend_name == "torch"
    with pytest.raises(BackendUnavailable, match=r"onnx_fp32 \(parity failed\)"):
        load_engine(folder, 2, backend="onnx")


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes `import onnxruntime` fail
    monkeypatch.delitem(sys.modules, "cmg_runtime.backends.onnx", raising=False)


def test_without_its_library_a_backend_is_unavailable(folder: Path, no_onnxruntime: None) -> None:
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime") as caught:
        load_engine(folder, 2, backend="onnx")
    one_line(caught)
    engine = load_engine(folder, 2)
    assert engine.backend_name == "torch"
    assert "onnx_fp32 cannot run here: onnxruntime cannot be imported" in engine.selection


def test_importing_the_runtime_imports_no_backend_library(folder: Path) -> None:
    script = f"""
import sys
import cmg_runtime
cmg_runtime.load_engine({str(folder)!r}, 2, backend="torch")
assert "onnxruntime" not in sys.modules
"""
    runtime = str(Path(__file__).resolve().parents[3] / "runtime")
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": runtime})


WRONG_REQUESTS = {
    "backend": ({"backend": "cuda"}, EngineError, "'cuda'; expected one of auto, torch, torchscript, onnx"),
    "no backend": ({"backend": None}, EngineError, "None; expected one of auto"),
    "precision": ({"precision": "int8"}, EngineError, "'int8'; expected fp32 or fp16"),
    "device": ({"device": "gpu"}, EngineError, "'gpu'; expected cpu, cuda"),
    "another device": ({"device": "meta"}, EngineError, "'meta' is not supported"),
    "no environments": ({"num_envs": 0}, EngineError, "num_envs is 0"),
    "half an environment": ({"num_envs": 1.5}, EngineError, "num_envs is 1.5"),
    "a device too far": ({"device": "cuda:99"}, EngineError, r"cuda:99.* is not there"),
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_wrong_requests(folder: Path, name: str) -> None:
    arguments, error, message = WRONG_REQUESTS[name]
    with pytest.raises(error, match=message) as caught:
        load_engine(folder, **{"num_envs": 2, **arguments})
    one_line(caught)


# Files that are not what the manifest says


@pytest.mark.parametrize(
    "backend, file", [("torch", "weights.npz"), ("torchscript", "cmg_fp32.ts"), ("onnx", "cmg_fp32.onnx")]
)
def test_a_changed_or_missing_artifact_is_refused(folder: Path, backend: str, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(EngineError, match=f"{file} does not match the hash") as caught:
        load_engine(folder, 2, backend=backend)
    one_line(caught)
    (folder / file).unlink()
    with pytest.raises(EngineError, match=f"cannot read .*{file} \\(No such file"):
        load_engine(folder, 2, backend=backend)


def test_auto_does_not_step_over_a_changed_artifact(folder: Path) -> None:
    (folder / "cmg_fp32.onnx").write_bytes(b"something else")
    with pytest.raises(EngineError, match="does not match"):
        load_engine(folder, 2)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"motion": np.zeros((4, 9), np.float32)}, r"shape \[4, 9\] .*expected finite float32 \[K, 10\]"),
        ({"motion": np.zeros((0, 10), np.float32)}, r"shape \[0, 10\]"),
        ({"motion": np.full((4, 10), np.nan, np.float32)}, "expected finite"),
        ({"states": np.zeros((4, 10), np.float32)}, r"shape \[0\]"),
        ({"motion": np.array([{}], dtype=object)}, "no .npz file"),
        (b"PK\x03\x04 torn", "no .npz file"),
        (npy_bytes(), "no .npz file"),
        (b"", "no .npz file"),
    ],
)
def test_a_bank_that_is_none_is_refused(folder: Path, content: Any, message: str) -> None:
    path = folder / "bank.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(EngineError, match="does not match the hash"):
        load_engine(folder, 2)
    edit_manifest(folder, lambda data: data["bank"].update(sha256=file_sha256(path)))
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(folder, 2)
    one_line(caught)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_artifact_with_the_right_hash_that_is_none_is_refused(folder: Path, backend: str) -> None:
    def change(data: dict[str, Any]) -> None:
        for artifact in data["artifacts"]:
            artifact["sha256"] = file_sha256(folder / artifact["file"])

    for file in ("weights.npz", "cmg_fp32.ts", "cmg_fp32.onnx"):
        (folder / file).write_bytes(b"PK\x03\x04 torn")
    edit_manifest(folder, change)
    with pytest.raises(EngineError) as caught:
        load_engine(folder, 2, backend=backend, precision="fp32")
    one_line(caught)


@pytest.mark.parametrize("path", ["nowhere", "a\0b", "weights.npz"])
def test_not_an_engine_folder(folder: Path, path: str) -> None:
    with pytest.raises(EngineError, match="expected an engine folder"):
        load_engine(folder / path, 2)


# full_precision


needs_flags = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="torch older than 2.9 has no such flags"
)


def flags() -> list[Any]:
    return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]  # pyright: ignore


@needs_flags
@pytest.mark.parametrize("how", ["legacy high", "legacy medium", "new", "new for all"])
@pytest.mark.parametrize("device, place", [("cuda", 0), ("cpu", 1)])
def test_the_process_wide_precision_is_put_aside_and_put_back(how: str, device: str, place: int) -> None:
    switch_on = {
        "legacy high": lambda: torch.set_float32_matmul_precision("high"),
        "legacy medium": lambda: torch.set_float32_matmul_precision("medium"),
        "new": lambda: (
            setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
            setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),  # pyright: ignore
        ),
        "new for all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    }
    try:
        switch_on[how]()
        before = flags()
        assert before[place] in ("tf32", "bf16")
        with pytest.raises(KeyError), full_precision(torch.device(device)):
            assert flags()[place] == "ieee"
            with full_precision(torch.device(device)):
                assert flags()[place] == "ieee"
            assert flags()[place] == "ieee"
            raise KeyError
        assert flags() == before
        if how.startswith("legacy"):
            assert torch.get_float32_matmul_precision() == how.split()[1]
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.fp32_precision = "none"  # pyright: ignore
        torch.backends.cuda.matmul.fp32_precision = "none"  # pyright: ignore
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # pyright: ignore


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
def test_the_flag_is_put_back_when_the_last_thread_has_left() -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # pyright: ignore
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with full_precision(torch.device("cpu")):
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    try:
        with full_precision(torch.device("cpu")):
            other.start()
            assert entered.wait(10)  # two threads may be inside at once
        assert flags()[1] == "ieee"
        leave.set()
        other.join()
        assert flags()[1] == "bf16"
    finally:
        leave.set()
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # pyright: ignore


# Backends by themselves


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_writes_into_out_and_nowhere_else(name: str) -> None:
    folder, truth = shared_engine_folder()
    manifest = read_manifest(folder)
    artifact = next(a for a in manifest.artifacts if a.backend == name and a.precision == "fp32")
    backend = backend_class(name).load(folder, artifact, manifest, 8, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for n in (8, 3, 8, 700):  # other batches than the one it was loaded for
        motion, command = truth.states(n, generator), truth.commands(n, generator)
        copies, out = (motion.clone(), command.clone()), torch.full((n + 1, 10), 7.0)
        backend.step(motion, command, out[:n])
        assert truth.error(out[:n], truth.step(motion, command)) < 1e-5
        assert torch.equal(motion, copies[0]) and torch.equal(command, copies[1]) and bool((out[n] == 7).all())


def test_onnx_refuses_memory_that_it_would_misread() -> None:
    engine = load_engine(shared_engine_folder()[0], 4, backend="onnx")
    good, command = torch.zeros(4, 10), torch.zeros(4, 3)
    for bad in (torch.zeros(10, 4).T, good.double(), torch.zeros(4, 20)[:, ::2]):
        with pytest.raises(EngineError, match="motion is .*expected contiguous float32 on cpu"):
            engine._backend.step(bad, command, good.clone())
    with pytest.raises(EngineError, match="unknown backend"):
        backend_class("tensorflow")
