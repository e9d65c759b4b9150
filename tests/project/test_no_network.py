"""At run time nothing is fetched and nobody is told: an engine's whole life without a network, and without a socket."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "schema_1"

LIFE = """
import json, os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith(("socket.", "urllib.")) else None)
import torch
import cmg_runtime.motion_lib, CMG_Ref.utils.cmg_motion_generator
from cmg_runtime import load_engine
sums = []
for backend in json.loads(sys.argv[2]):
    engine = load_engine(sys.argv[1], 7, backend=backend, horizon=4)
    engine.reset(command=[0.3, 0.1, -0.2])
    for _ in range(5):
        dof_pos, dof_vel = engine.step()
    engine.set_command([0.1, 0.0, 0.1], env_ids=[0])
    engine.rollout(engine.bank[:2], [0.1, 0.0, 0.1], num_frames=3)
    engine.report()
    sums.append(bool(torch.isfinite(dof_pos).all()))
handles = [os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
sockets = [handle for handle in handles if os.path.islink(handle) and os.readlink(handle).startswith("socket:")]
print(json.dumps([sums, opened, sockets]))
"""


def without_network() -> list[str]:
    """What runs a command in a network namespace that has nothing in it, or nothing where that is not allowed."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list a process's open files")
def test_an_engines_life_opens_no_socket() -> None:
    backends = ["torch", "torchscript", *(["onnx"] if importlib.util.find_spec("onnxruntime") else [])]
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", LIFE, str(FOLDER), json.dumps(backends)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    ran, opened, sockets = json.loads(done.stdout.splitlines()[-1])
    assert ran == [True] * len(backends)
    assert opened == [] and sockets == []
