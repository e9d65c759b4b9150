"""What a process switches on around a whole engine - window, rebuilds, pools, on both devices - changes no bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from window_case import random_robot_case

CHILD = """
import contextlib, hashlib, json, sys
import torch
from cmg_runtime import BackendUnavailable, load_engine

device = sys.argv[4]

@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)

@contextlib.contextmanager
def tf32():
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")

def started():
    return load_engine(sys.argv[1], 300, device, sys.argv[2], sys.argv[3], seed=3, horizon=7)

def life(engine):
    engine.reset(command=[0.3, 0.1, -0.2])
    for _ in range(5):
        engine.step()
    ids = torch.arange(20, device=device)
    engine.set_command(torch.full((20, 3), 0.1, device=device), ids)
    mask = torch.arange(300, device=device) % 7 == 0
    engine.reset(mask, motion=engine.bank[:1].expand(300, -1))
    engine.step()
    rolled = engine.rollout(engine.bank[:5], [0.3, 0.1, -0.2], 3)
    pool = engine.make_pool(5, 9, [0.1, 0.0, 0.2], engine.bank[:5])
    engine.start(pool, ids % 5, ids * 0 + 1, env_ids=ids)
    frames = engine.future(range(7))
    parts = [frames.dof_pos, frames.dof_vel, frames.root_pos, frames.root_rot, frames.key_body_pos, rolled]
    content = torch.cat([part.flatten() for part in parts]).cpu().numpy()
    return hashlib.sha256(content.tobytes()).hexdigest()

settings = {
    "plain": contextlib.nullcontext,
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast(device, dtype=torch.bfloat16),
    "deterministic": deterministic,
    "tf32": tf32,
    "default_device": lambda: torch.device("cuda" if device == "cuda" else "meta"),
}
found = {}
try:
    for name, switched in settings.items():
        with switched():
            found[name + ", inside"] = life(started())
        engine = started()
        with switched():
            found[name + ", around its use"] = life(engine)
        engine.step()
except BackendUnavailable as error:
    found = str(error)
print(json.dumps(found))
"""


ON_CUDA = [
    pytest.param("cuda", backend, precision, marks=pytest.mark.gpu)
    for backend in ("fused", "torch")
    for precision in ("fp32", "fp16")
]


@pytest.mark.parametrize("device, backend, precision", [("cpu", "torch", "fp32"), ("cpu", "onnx", "fp32"), *ON_CUDA])
def test_settings_of_the_process_change_nothing(device: str, backend: str, precision: str) -> None:
    """In a process of its own: torch's deterministic mode needs cuBLAS to be told before its first use."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(random_robot_case()[0]), backend, precision, device],
        env={**environment, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if isinstance(found, str):
        pytest.skip(found)
    assert len(found) == 14 and len(set(found.values())) == 1, found


@pytest.mark.gpu
def test_no_gpu_is_seen_where_none_is_visible() -> None:
    script = "import sys, cmg_runtime; cmg_runtime.load_engine(sys.argv[1], 2, 'cuda')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script, str(random_robot_case()[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "device 'cuda' is not there, torch sees 0 CUDA devices; use device='cpu'" in done.stderr
