"""The ``fused`` backend: its kernels against the float64 model, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import BackendUnavailable, load_engine
from engine_folder import TOLERANCE, Truth, make_engine_folder, state, with_fused

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_arithmetic_in_tritons_interpreter() -> None:
    files = [str(ROOT / "tests" / "cases" / f"interpreted_{name}.py") for name in ("kernels", "changes")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


def test_on_a_cpu_it_is_unavailable_and_auto_goes_on() -> None:
    folder = ROOT / "tests" / "golden" / "schema_1"
    with pytest.raises(BackendUnavailable, match="fused backend cannot run here: a CUDA device is needed; use"):
        load_engine(folder, 3, backend="fused")
    assert load_engine(folder, 3).backend_name != "fused"


NETWORKS: list[dict[str, Any]] = [
    {"hidden_dim": 512, "num_experts": 4, "num_layers": 3},
    {"hidden_dim": 320, "num_experts": 3, "num_layers": 3},
    {"hidden_dim": 320, "num_experts": 3, "num_layers": 1},
    {"hidden_dim": 128, "num_experts": 4, "num_layers": 2},
    {"hidden_dim": 192, "num_experts": 4, "num_layers": 4},
    {"hidden_dim": 96, "num_experts": 7, "num_layers": 3, "gating_hidden_dim": 200},
    {"hidden_dim": 64, "num_experts": 1, "num_layers": 3, "num_joints": 5, "command_dim": 2},
    {"hidden_dim": 64, "num_experts": 2, "num_layers": 3, "num_joints": 70},
]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sizes", NETWORKS, ids=lambda sizes: "-".join(str(v) for v in sizes.values()))
def test_every_size_on_the_gpu(sizes: dict[str, Any], precision: str, seed: int, generator: torch.Generator) -> None:
    from fused_case import fused_network, poisoned

    network, truth = fused_network(precision, 64, torch.device("cuda"), seed, **sizes)
    for rows in (1, 63, 64, 257, 1000, 4097):
        motion, command = truth.states(rows, generator), truth.commands(rows, generator)
        out = poisoned(motion.cuda())
        network(motion.cuda(), command.cuda(), out)
        assert truth.error(out, truth.step(motion, command)) < TOLERANCE[precision], rows


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sizes", NETWORKS, ids=lambda sizes: "-".join(str(v) for v in sizes.values()))
def test_every_size_with_pointers_as_older_gpus_have_them(
    sizes: dict[str, Any], precision: str, seed: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmg_runtime.backends.fused.capacity import Device
    from fused_case import fused_network, poisoned

    monkeypatch.setattr(Device, "of", lambda _: Device(101_376, (8, 6)))
    network, truth = fused_network(precision, 64, torch.device("cuda"), seed, **sizes)
    for rows in (1, 63, 257, 4097):
        motion, command = truth.states(rows, generator), truth.commands(rows, generator)
        out = poisoned(motion.cuda())
        network(motion.cuda(), command.cuda(), out)
        assert truth.error(out, truth.step(motion, command)) < TOLERANCE[precision], rows


@pytest.mark.gpu
def test_more_rows_than_one_pass_and_rows_apart_in_memory(seed: int, generator: torch.Generator) -> None:
    from fused_case import fused_network

    network, truth = fused_network("fp16", 8, torch.device("cuda"), seed, hidden_dim=64)
    rows = 16384 + 129
    motion, command = truth.states(rows, generator), truth.commands(rows, generator)
    wide = torch.randn(rows, 71, device="cuda")
    wide[:, 5:63] = motion.cuda()
    wide_command, out = torch.randn(rows, 7, device="cuda"), torch.zeros(rows, 61, device="cuda")
    wide_command[:, 1:4] = command.cuda()
    network(wide[:, 5:63], wide_command[:, 1:4], out[:, 2:60])
    assert truth.error(out[:, 2:60], truth.step(motion, command)) < TOLERANCE["fp16"]
    assert not out[:, :2].any() and not out[:, 60].any()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [16, 256, 1500])
def test_a_graph_gives_the_same_bits_and_outlives_larger_calls(
    rows: int, seed: int, generator: torch.Generator
) -> None:
    from fused_case import fused_network, poisoned

    network, truth = fused_network("fp16", rows, torch.device("cuda"), seed, hidden_dim=512)
    motion, command = truth.states(rows, generator).cuda(), truth.commands(rows, generator).cuda()
    expected, out = poisoned(motion), poisoned(motion)
    network(motion, command, expected)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(motion, command, out)
    larger = truth.states(9000, generator).cuda()
    network(larger, truth.commands(9000, generator).cuda(), torch.empty_like(larger))
    for _ in range(20):
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, expected)


@pytest.mark.gpu
def test_long_chains_of_frames_have_no_races(seed: int, generator: torch.Generator) -> None:
    """300 frames in one graph, kernel overlapping kernel: the same bits as frame by frame with waiting between."""
    from fused_case import fused_network

    for rows in (64, 4096):
        network, truth = fused_network("fp16", rows, torch.device("cuda"), seed, hidden_dim=512)
        start, command = truth.states(rows, generator).cuda(), truth.commands(rows, generator).cuda()
        frames = torch.zeros(301, rows, 58, device="cuda")
        frames[0] = start
        plain = frames.clone()
        for t in range(300):
            network(plain[t], command, plain[t + 1])
            torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for t in range(300):
                network(frames[t], command, frames[t + 1])
        for _ in range(3):
            frames[1:].fill_(float("nan"))
            graph.replay()
            assert torch.equal(frames, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_with_it(precision: str, tmp_path: Path, seed: int, generator: torch.Generator) -> None:
    truth: Truth = make_engine_folder(tmp_path, seed, num_joints=29, hidden_dim=320, num_experts=3)
    engine = load_engine(with_fused(tmp_path), 63, device="cuda", precision=precision, command_ramp_s=0.0)
    assert (engine.backend_name, engine.precision) == ("fused", precision)
    motion, command = truth.states(63, generator), truth.commands(63, generator)
    engine.reset(motion=motion, command=command.cuda())
    for _ in range(3):
        before = state(engine)
        engine.step()
        assert truth.error(state(engine), truth.step(before, command)) < TOLERANCE[precision]
    rolled = engine.rollout(motion[:33], command[:33], num_frames=20)
    expected = motion[:33]
    for _ in range(20):
        expected = truth.step(expected, command[:33])
    assert truth.error(rolled[:, -1], expected) < {"fp32": 1e-4, "fp16": 2e-2}[precision]
    assert torch.equal(rolled, engine.rollout(motion[:33], command[:33], num_frames=20))
    pool = engine.make_pool(33, 21, command[:33, None].expand(-1, 20, -1), motion[:33])
    last = pool.frames(range(33), [20] * 33)
    assert torch.equal(torch.cat([last.dof_pos, last.dof_vel], dim=1), rolled[:, -1])


@pytest.mark.gpu
@pytest.mark.parametrize("num_envs", [1, 37, 4096])
def test_rows_of_the_window_on_the_gpu(
    num_envs: int, tmp_path: Path, rng: np.random.Generator, generator: torch.Generator
) -> None:
    from cmg_export.read.robot import RobotModel
    from cmg_runtime.window.plain.rows import FrameWriter
    from cmg_runtime.window.triton.rows import TritonFrameWriter
    from cmg_runtime.window.twins import make_frame_writer
    from fused_case import manifest_of_robot, use_both
    from random_robot import random_robot

    robot = random_robot(rng, tmp_path / "robot.xml", num_bodies=12)
    manifest = manifest_of_robot(RobotModel(robot.path).chain(robot.joint_names))
    writer = make_frame_writer(manifest, range(12), torch.device("cuda"))
    assert isinstance(writer, TritonFrameWriter)
    plain = FrameWriter(manifest, range(12), torch.device("cpu"))
    ids, count = torch.randperm(num_envs, generator=generator), 95 if num_envs < 1000 else 8
    use_both(plain, writer, torch.device("cuda"), num_envs, 96, 25.0, ids, num_envs, count, generator)
