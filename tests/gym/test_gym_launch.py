"""How a training's processes come about: those that torchrun starts, and what is refused under it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmg_gym.learning.resume import read_trained_with
from cmg_gym.learning.runner import checkpoints
from cmg_gym.train import Options, training_of
from cmg_runtime import EngineError
from gym_case import g1_engine


def test_torchrun_starts_the_processes_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = {"engine": g1_engine()[0], "logs": tmp_path, "num_envs": 5}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("cmg_gym.command_line.require_room", lambda *_: None)  # of GPUs that are not there
    largest = 2**32 - 1
    assert training_of(Options(**options, gpus=1, seed=largest)).agent.seed == largest
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert training_of(Options(**options, gpus=1, seed=7)).gpus == 1
    with pytest.raises(EngineError, match="--seed is .*each of 4 GPUs takes the next"):
        training_of(Options(**options, gpus=1, seed=largest - 2))
    with pytest.raises(EngineError, match="--gpus is 2 under torchrun.*leave it out"):
        training_of(Options(**options, gpus=2))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(EngineError, match="started process 3 here and torch sees 2 GPUs"):
        training_of(Options(**options, gpus=1))


NO_TWO = "needs two CUDA devices: `pytest -m gpu` where there are"
TWO_GPUS = (
    pytest.mark.gpu,
    pytest.mark.xdist_group("gym-gpu"),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason=NO_TWO),
)
ON_CPU = (pytest.mark.slow, pytest.mark.xdist_group("gym"))


@pytest.mark.parametrize(
    "on_gpus", [pytest.param(False, marks=ON_CPU), pytest.param(True, marks=TWO_GPUS)], ids=["cpu", "gpus"]
)
def test_two_nodes_train_one_policy(tmp_path: Path, seed: int, on_gpus: bool) -> None:
    """Two torchruns as on two machines; they are on one, with its CPU, or a GPU each."""
    engine, logs = g1_engine()[0], tmp_path / "logs"
    seed = seed % 2**31
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost", "--master-port", str(port)]
    options = ["--engine", str(engine), "--num-envs", "4", "--iterations", "1", "--logs", str(logs)]
    options += [] if on_gpus else ["--gpus", "0"]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *meeting, "--node-rank", str(rank)]
            + ["-m", "--", "cmg_gym.train", *options, "--seed", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "CUDA_VISIBLE_DEVICES": str(rank)} if on_gpus else environment,
        )
        for rank in range(2)
    ]
    try:
        said = [node.communicate(timeout=580)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    device = "cuda:0" if on_gpus else "cpu"
    for rank, (node, text) in enumerate(zip(nodes, said, strict=True)):
        assert node.returncode == 0, text
        assert f"Training on {device}, process {rank + 1} of 2, seed {seed + rank}" in text
        assert ("Writing to" in text, "Learning iteration" in text) == (rank == 0,) * 2
    (run,) = (logs / "cmg_residual_g1").iterdir()
    (checkpoint,) = checkpoints(run)
    assert read_trained_with(checkpoint)["gpus"] == 2 and (run / "policy" / "policy.onnx").is_file()
