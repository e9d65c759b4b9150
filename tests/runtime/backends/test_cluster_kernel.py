"""The cluster kernel's weights, on a CPU: read in the kernel's order, they compute the network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import racecheck_cases
from cluster_case import packed_network
from cmg_runtime.backends.fused import cluster
from cmg_runtime.backends.fused.cluster import fits
from cmg_runtime.backends.fused.cluster_shapes import FEW, MANY, PAIR, RESIDENT, ClusterShape, Shape, plan
from cmg_runtime.backends.fused.cluster_weights import CHUNKS, EXPERTS, WIDTH, weight_stream
from cmg_runtime.backends.fused.packing import Packed
from cmg_runtime.device import nvrtc
from cmg_runtime.guard import Guard
from engine_folder import TOLERANCE, Truth

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHARED_MEMORY = 232_448
"""Bytes that a thread block of a Hopper GPU can have."""

STREAMING, SHAPES = [FEW, MANY, PAIR], [FEW, MANY, PAIR, *RESIDENT]
NAMES = ["few", "many", "pair", "resident of 8", "resident of 16"]
in_every_shape = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)


def unswizzled(block: torch.Tensor) -> torch.Tensor:
    """[n, 64] from the bytes where the matrix unit looks for them."""
    rows = torch.arange(len(block))[:, None]
    columns = torch.arange(WIDTH)[None, :]
    return block[rows, (columns // 8 ^ rows % 8) * 8 + columns % 8].double()


def mixed(products: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """[n, 256] -> [n, 64]: the kernel's accumulator, 16 columns of each expert in turn."""
    return (products.view(len(products), 4, EXPERTS, 16) * c[:, None, :, None]).sum(dim=2).flatten(1)


def elu(x: torch.Tensor) -> torch.Tensor:
    log2e = 1.4426950408889634
    return torch.where(x > 0, x, log2e * torch.exp2(x) - log2e)


def in_kernel_order(packed: Packed, shape: ClusterShape, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
    """What the kernel computes, CTA by CTA and block by block, in float64."""
    stream, n, tiles = weight_stream(packed, shape.ctas), len(motion), shape.tiles
    units, gate_blocks = tiles * WIDTH, stream.shape[1] - tiles * (CHUNKS + 2)
    padding = torch.zeros(n, packed.shapes.inputs_padded - packed.shapes.inputs)
    x = torch.cat([motion, command, padding], dim=1).double()
    x = (x - packed.shift[:WIDTH].double()) * packed.scale.double()
    logits = packed.gate_out_bias.double()
    for blocks in stream:
        gate, behind = blocks[:gate_blocks].flatten().tensor_split([units * WIDTH])
        out = torch.cat([unswizzled(part) for part in behind[: 8 * units].view(-1, 8, WIDTH)], dim=1)
        logits = logits + elu(x @ unswizzled(gate.view(units, WIDTH)).T) @ (out[:EXPERTS] + out[EXPERTS:]).T
    c = torch.softmax(logits, dim=1)
    first = stream[:, gate_blocks : gate_blocks + tiles].flatten(0, 1)
    x1 = torch.cat([elu(mixed(x @ unswizzled(block).T, c)) for block in first], dim=1)
    bias = torch.nn.functional.pad(packed.layers[1][1], (0, 2048 - len(packed.layers[1][1]))).double()
    result = c @ packed.last_bias.double()
    for rank, blocks in enumerate(stream):
        for tile in range(tiles):
            begin = gate_blocks + tiles + tile * (CHUNKS + 1)
            products = bias[(rank * tiles + tile) * 256 :][:256].expand(n, 256)
            for k in range(CHUNKS):
                chunk = (rank * tiles + k) % CHUNKS
                products = products + x1[:, chunk * WIDTH :][:, :WIDTH] @ unswizzled(blocks[begin + k]).T
            x2 = elu(mixed(products, c))
            result = result + mixed(x2 @ unswizzled(blocks[begin + CHUNKS]).T, c)
    return (result * packed.motion_std.double() + packed.shift[:WIDTH].double())[:, : packed.shapes.motion]


@pytest.mark.parametrize("shape", STREAMING, ids=NAMES[:3])
@pytest.mark.parametrize("sizes", [(512, 4, 512), (320, 3, 200), (64, 4, 512)], ids=str)
def test_weights_in_the_kernels_order_are_the_network(
    shape: ClusterShape, sizes: tuple[int, int, int], seed: int, generator: torch.Generator
) -> None:
    hidden, experts, gate = sizes
    packed, truth = packed_network(seed, CPU, hidden_dim=hidden, num_experts=experts, gating_hidden_dim=gate)
    motion, command = truth.states(37, generator), truth.commands(37, generator)
    seen = in_kernel_order(packed, shape, motion, command)
    assert truth.error(seen.float(), truth.step(motion, command)) < TOLERANCE["fp16"]
    assert shape.shared_bytes <= SHARED_MEMORY and shape.ctas * shape.tiles == CHUNKS


@pytest.mark.parametrize("capacities", [(960, 3840, 384), (512, 1024, 0), (64, 128, 64)], ids=str)
def test_every_row_is_in_one_launch(capacities: tuple[int, int, int], rng: np.random.Generator) -> None:
    few, many, pair = capacities
    for rows in [1, few, few + 1, many, many + 1, many + pair, many + pair + 1, *rng.integers(1, 70_000, 50)]:
        launches = plan(int(rows), *capacities)
        assert [launch.first for launch in launches] == [0, *np.cumsum([launch.rows for launch in launches])[:-1]]
        assert sum(launch.rows for launch in launches) == rows
        for before, launch in zip([None, *launches], launches, strict=False):
            if launch.beside:
                assert before is not None and before.shape is MANY and launch.shape is PAIR and launch.rows <= pair


def test_a_gpu_that_has_no_room_for_its_clusters_is_refused(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def most_clusters(self, ctas: int, threads: int) -> int:
            return int(ctas < MANY.ctas)

    monkeypatch.setattr(cluster, "CudaKernel", lambda *_: Kernel())
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    packed, _ = packed_network(seed, CPU, hidden_dim=64, num_experts=4)
    with pytest.raises(nvrtc.CudaError, match="no room for a cluster of 8 or 4 thread blocks"):
        cluster.ClusterNetwork(packed, CPU)


def test_too_many_experts_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="17 experts"):
        packed_network(seed, CPU, num_experts=17)


@pytest.fixture
def network(seed: int) -> tuple[Any, Truth]:
    """The kernel on the GPU, and the float64 model."""
    packed, truth = packed_network(seed, CUDA, hidden_dim=512, num_experts=4)
    if not fits(packed.shapes, "fp16", CUDA):
        pytest.skip("the kernel is for GPUs of compute capability 9.0")
    return cluster.ClusterNetwork(packed, CUDA), truth


@pytest.mark.gpu
@in_every_shape
@pytest.mark.parametrize("rows, num_frames", [(1, 12), (19, 2), (65, 12), (300, 12), (4097, 12)])
def test_frames_in_one_launch_are_frames_one_by_one(
    network: tuple[Any, Truth], shape: Shape, rows: int, num_frames: int, generator: torch.Generator
) -> None:
    """The same bits, whatever the rows' distances; each frame held to the float64 model."""
    kernel, truth = network
    wide = torch.randn(rows, 71, device="cuda")
    wide[:, 5:63] = truth.states(rows, generator).cuda()
    start = wide[:, 5:63]
    commands = torch.stack([truth.commands(rows, generator) for _ in range(num_frames)]).cuda()
    out = torch.full((num_frames, rows + 1, 61), float("nan"), device="cuda")
    together = out[:, :rows, 1:59]
    kernel.rollout(start, commands, together, shape=shape)
    planned = torch.full_like(together, float("nan"))
    kernel.rollout(start, commands, planned)
    assert truth.error(planned[-1], together[-1].cpu()) < 2e-2  # other shapes, other order of sums
    state = start
    for t in range(num_frames):
        following = torch.full((1, rows, 58), float("nan"), device="cuda")
        kernel.rollout(state, commands[t : t + 1], following, shape=shape)
        assert torch.equal(following[0], together[t]), t
        assert truth.error(following[0], truth.step(state.cpu(), commands[t].cpu())) < TOLERANCE["fp16"], t
        state = following[0]
    assert out[:, rows].isnan().all() and out[..., 0].isnan().all() and out[..., 59:].isnan().all()


@pytest.mark.gpu
@in_every_shape
def test_bad_rows_are_replaced_between_frames(
    network: tuple[Any, Truth], shape: Shape, generator: torch.Generator
) -> None:
    """As the guard does it frame by frame: the same rows, from the same states of the bank, counted once."""
    kernel, truth = network
    rows, num_envs, num_frames, ahead = 200, 300, 9, 4
    motion = truth.states(rows, generator).cuda()
    motion[7, 3] = float("nan")
    commands = truth.commands(rows, generator).cuda().expand(num_frames, rows, 3)
    columns = torch.randperm(num_envs, generator=generator)[:rows].cuda()
    columns[-3:] = num_envs  # the scratch column, which is not counted
    plain = torch.zeros(num_frames, rows, 58, device="cuda")
    kernel.rollout(motion, commands, plain, shape=shape)
    sound = plain[:, torch.arange(rows) != 7].flatten(0, 1)
    low, high = sound.quantile(0.002, dim=0), sound.quantile(0.998, dim=0)
    bank = truth.states(37, generator).cuda()
    counts = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in range(2)]
    guards = [Guard(low, high, bank, num_envs, count) for count in counts]
    for guard in guards:
        guard.frame.copy_(7 * torch.arange(num_envs + 1, device="cuda"))
    seen, expected = torch.zeros_like(plain), torch.zeros_like(plain)
    kernel.rollout(motion, commands, seen, guards[0], columns, ahead, shape=shape)
    for t in range(num_frames):
        kernel.rollout(motion if t == 0 else expected[t - 1], commands[t : t + 1], expected[t : t + 1], shape=shape)
        guards[1].apply(expected[t], columns, ahead + t)
    assert torch.equal(seen, expected)
    assert int(counts[0]) == int(counts[1]) > num_frames


@pytest.mark.slow
@in_every_shape
def test_it_compiles(shape: Shape) -> None:
    try:
        nvrtc.compile_source("", ["-arch=sm_90a"])
    except nvrtc.CudaError as error:
        pytest.skip(str(error))
    source, options = cluster.program(shape)
    image = nvrtc.compile_source(source, options)
    assert image.startswith(b"\x7fELF") and b"generate_frames" in image
    with pytest.raises(nvrtc.CudaError, match=r"NVRTC \d+\.\d+: kernel.cu\(\d+\): error: "):
        nvrtc.compile_source(source.replace("rank = cluster_rank();", "rank = cluster_rank(1);"), options)
    # What would be launched with other sizes than the kernel has does not compile.
    for size in (f"SHARED_BYTES={shape.shared_bytes}", f"THREADS={shape.threads}"):
        others = [f"-D{size}8" if option == f"-D{size}" else option for option in options]
        with pytest.raises(nvrtc.CudaError, match="Shape in cluster_shapes.py has other sizes"):
            nvrtc.compile_source(source, others)


@pytest.mark.slow
@pytest.mark.parametrize("case", racecheck_cases.CASES)
def test_what_a_racecheck_is_shown_compiles(case: str) -> None:
    try:
        nvrtc.compile_source("", ["-arch=sm_90a"])
    except nvrtc.CudaError as error:
        pytest.skip(str(error))
    assert b"small_kernel" in nvrtc.compile_source(*racecheck_cases.program(case))


def test_a_kept_kernel_that_is_damaged_is_made_anew(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {source: rng.bytes(1000) for source in ("one", "other")}
    made: list[str] = []

    def compile_source(source: str, options: Any) -> bytes:
        made.append(source)
        return images[source]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    monkeypatch.setattr(nvrtc, "_compiler_version", lambda: (13, 0))

    def compiled(source: str) -> bytes:
        nvrtc.compiled.cache_clear()  # as a new process
        return nvrtc.compiled(source, ("-arch=sm_90a",))

    assert compiled("one") == compiled("one") == images["one"]
    (kept,) = (tmp_path / "cmg_runtime").iterdir()
    whole = kept.read_bytes()
    compiled("other")
    (other,) = {*(tmp_path / "cmg_runtime").iterdir()} - {kept}
    flipped = bytearray(whole)
    flipped[rng.integers(len(whole))] ^= 1 << 3
    assert made == ["one", "other"]
    for damaged in (whole[:-1], bytes(flipped), b"", other.read_bytes()):
        kept.write_bytes(damaged)
        made.clear()
        assert compiled("one") == compiled("one") == images["one"] and made == ["one"]
    nvrtc.compiled.cache_clear()


def test_the_source_is_part_of_what_is_installed() -> None:
    from setuptools.config.pyprojecttoml import read_configuration

    kernels = Path(cluster.__file__).parent
    configuration = read_configuration(kernels.parents[2] / "pyproject.toml", expand=False)
    patterns = configuration["tool"]["setuptools"]["package-data"]["cmg_runtime.backends.fused"]
    installed = {path for pattern in patterns for path in kernels.glob(pattern)}
    assert installed == {path for path in kernels.iterdir() if path.suffix in (".cu", ".cuh")} != set()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "rows, num_frames, launches", [(4096, 1, 20_000), (4096, 8, 2_000), (64, 95, 1_000), (40, 95, 1_000)]
)
def test_every_launch_gives_the_same_bits(
    network: tuple[Any, Truth], rows: int, num_frames: int, launches: int, generator: torch.Generator
) -> None:
    """A race between thread blocks or with the kernel beside would show as other bits, sooner or later."""
    kernel, truth = network
    motion, command = truth.states(rows, generator).cuda(), truth.commands(rows, generator).cuda()
    commands = command.expand(num_frames, rows, 3)
    expected, out = (torch.full((num_frames, rows, 58), float("nan"), device="cuda") for _ in range(2))
    kernel.rollout(motion, commands, expected)
    assert truth.error(expected[0], truth.step(motion.cpu(), command.cpu())) < TOLERANCE["fp16"]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    other = torch.zeros((), dtype=torch.int64, device="cuda")
    with torch.cuda.graph(graph):
        for _ in range(10):
            out.fill_(float("nan"))
            kernel.rollout(motion, commands, out)
            other += (out != expected).any()
    for _ in range(launches // 10):
        graph.replay()
    assert int(other) == 0
