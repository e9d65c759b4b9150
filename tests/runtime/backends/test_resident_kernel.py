"""The kernel that keeps the weights on the chip, compiled for a CPU and run there, thread by thread.

Its source is the GPU's. What stands in for the GPU's instructions (``tests/cases/emulated_hopper.hpp``) runs warps in
any order and lets messages between thread blocks arrive late, so that a result does not depend on luck.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster_case import packed_network
from cmg_runtime.backends.fused import cluster
from cmg_runtime.backends.fused.cluster import ClusterNetwork
from cmg_runtime.backends.fused.cluster_shapes import FEW, RESIDENT, ResidentShape, plan
from cmg_runtime.device.nvrtc import CudaError
from cmg_runtime.guard import Guard
from cmg_runtime.window.rebuild import batch_sizes
from engine_folder import TOLERANCE

CPU = torch.device("cpu")
EMULATED = Path(__file__).parents[2] / "cases" / "emulated_hopper.hpp"

THREAD = """
static void emulated_thread() {
    generate_frames(*emulated_arguments);
    emulated::current->done = true;
}
"""


def emulated(shape: ResidentShape, folder: Path, change: tuple[str, str] = ("", "")) -> Any:
    """The kernel of a shape as a library for the CPU; ``change`` is made to its source."""
    source, options = cluster.program(shape)
    _, begin, kernel = source.partition("constexpr int EXPERTS")
    assert change[0] in kernel
    code, library = folder / "kernel.cpp", folder / "kernel.so"
    code.write_text(EMULATED.read_text() + begin + kernel.replace(*change, 1) + THREAD)
    sizes = [option for option in options if option.startswith("-D")]
    command = ["g++", "-std=c++17", "-O2", "-w", "-shared", "-fPIC", *sizes, "-o", str(library), str(code)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def without_a_gpu(monkeypatch: pytest.MonkeyPatch, most_clusters: Any, launch: Any = None) -> None:
    """``ClusterNetwork`` on the CPU; ``launch`` instead of a kernel."""
    kernel = SimpleNamespace(most_clusters=most_clusters, launch=launch)
    device = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(cluster, "CudaKernel", lambda *_: kernel)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))


def emulated_network(
    monkeypatch: pytest.MonkeyPatch, shape: ResidentShape, library: Any, seed: int, sizes: tuple[int, int, int]
) -> Any:
    """A network that runs in the library, every launch in another order; and the float64 model."""
    hidden, experts, gate = sizes
    launches = []

    def launch(grid: int, threads: int, arguments: ctypes.Structure, stream: int, beside: bool) -> None:
        launches.append(grid)
        assert threads == shape.threads and not beside
        assert library.emulate(ctypes.byref(arguments), grid, shape.ctas, seed + len(launches)) == 0

    without_a_gpu(monkeypatch, lambda ctas, threads: 1, launch)
    packed, truth = packed_network(seed, CPU, hidden_dim=hidden, num_experts=experts, gating_hidden_dim=gate)
    return ClusterNetwork(packed, CPU), truth


needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@needs_a_compiler
@pytest.mark.slow
@pytest.mark.parametrize("shape, sizes", [(RESIDENT[0], (512, 4, 512)), (RESIDENT[1], (320, 3, 200))], ids=str)
def test_it_makes_the_networks_frames(
    shape: ResidentShape,
    sizes: tuple[int, int, int],
    seed: int,
    generator: torch.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each frame held to the float64 model; the same bits frame by frame, whatever the order; bad rows replaced."""
    network, truth = emulated_network(monkeypatch, shape, emulated(shape, tmp_path), seed, sizes)
    rows, num_frames = shape.rows + 3, 3
    motion = truth.states(rows, generator)
    commands = torch.stack([truth.commands(rows, generator) for _ in range(num_frames)])
    memory = torch.full((num_frames, rows + 1, 60), float("nan"))
    frames = memory[:, :rows, 1:59]
    network.rollout(motion, commands, frames, shape=shape)
    assert memory[:, rows].isnan().all() and memory[..., 0].isnan().all() and memory[..., 59].isnan().all()

    low, high = frames.flatten(0, 1).quantile(0.01, dim=0), frames.flatten(0, 1).quantile(0.99, dim=0)
    bank, columns = truth.states(7, generator), torch.arange(rows)
    counts = [torch.zeros((), dtype=torch.int64) for _ in range(2)]
    guards = [Guard(low, high, bank, rows, count) for count in counts]
    guarded = torch.empty(num_frames, rows, 58)
    network.rollout(motion, commands, guarded, guards[0], columns, 2, shape=shape)
    state, guarded_state = motion, motion
    for t in range(num_frames):
        one, expected = torch.empty(1, rows, 58), torch.empty(1, rows, 58)
        network.rollout(state, commands[t : t + 1], one, shape=shape)
        network.rollout(guarded_state, commands[t : t + 1], expected, shape=shape)
        guards[1].apply(expected[0], columns, 2 + t)
        assert torch.equal(one[0], frames[t]) and torch.equal(expected[0], guarded[t]), t
        assert truth.error(one[0], truth.step(state, commands[t])) < TOLERANCE["fp16"], t
        state, guarded_state = one[0], expected[0]
    assert int(counts[0]) == int(counts[1]) > num_frames


@needs_a_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "wait",
    [
        "__syncthreads();\n        middle_layer",
        "__syncthreads();\n#pragma unroll",
        "group_sync(tile_of_last);",
        "if (frame) cluster_barrier_wait(shared + X_FULL, (frame - 1) & 1);",
        "cluster_barrier_wait(shared + LOGITS_FULL, frame & 1);",
        "cluster_barrier_wait(shared + SUMS_FULL, frame & 1);",
        "cluster_barrier_wait(shared + PARTS_FULL, frame & 1);",
    ],
)
def test_a_missing_wait_would_be_seen(
    wait: str, seed: int, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = RESIDENT[0]
    without = (wait, wait[wait.index(";") + 1 :])
    network, truth = emulated_network(monkeypatch, shape, emulated(shape, tmp_path, without), seed, (512, 4, 512))
    motion, command = truth.states(8, generator), truth.commands(8, generator)
    frames = torch.empty(3, 8, 58)
    with pytest.raises(AssertionError):  # other values, or the kernel fails
        network.rollout(motion, command.expand(3, 8, 3), frames, shape=shape)
        assert truth.error(frames[0], truth.step(motion, command)) < TOLERANCE["fp16"]


def test_few_rows_go_where_the_weights_stay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest rows a cluster for which all clusters run at once; clusters of 16 rows in two rounds at most."""
    shapes = {
        rows: [launch.shape for launch in plan(rows, 960, 3840, 384, (56, 112))] for rows in (1, 56, 57, 224, 225)
    }
    assert shapes == {1: [RESIDENT[0]], 56: [RESIDENT[0]], 57: [RESIDENT[1]], 224: [RESIDENT[1]], 225: [FEW]}


def test_a_gpu_without_clusters_of_16_takes_the_others(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ctas: int, threads: int) -> int:
        if ctas > 8:
            raise CudaError("cuOccupancyMaxActiveClusters: invalid cluster size")
        return 15

    packed, _ = packed_network(seed, CPU, hidden_dim=64, num_experts=4)
    for most in (refuse, lambda ctas, threads: 15 * (ctas <= 8)):
        without_a_gpu(monkeypatch, most)
        network = ClusterNetwork(packed, CPU)
        assert [launch.shape for launch in plan(5, *network.capacities)] == [FEW]
        assert network.batches == ()


def test_windows_are_rebuilt_in_full_rounds_of_clusters(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one row more, there is a round more or a slower shape."""
    without_a_gpu(monkeypatch, lambda ctas, threads: 7 if ctas == 16 else 15)
    packed, _ = packed_network(seed, CPU, hidden_dim=64, num_experts=4)
    network = ClusterNetwork(packed, CPU)
    assert network.batches == (56, 112, 224)

    def rounds(rows: int) -> tuple[Any, int]:
        (launch,) = plan(rows, *network.capacities)
        held: dict[Any, int] = dict(zip(RESIDENT, network.capacities[3], strict=True))
        return launch.shape, -(-rows // held.get(launch.shape, rows))

    changes = [rows for rows in range(1, 400) if rounds(rows) != rounds(rows + 1)]
    assert changes == [*network.batches]
    assert batch_sizes(4096, network.batches) == (16, 56, 64, 112, 224, 256, 1024, 4096)
