"""What the benchmark runs on, and the floor: counted operations at the rate of a large matrix product."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from cmg_export.bench.results import Machine
from cmg_export.bench.timing import Samples, time_block
from cmg_runtime.folder.manifest import Sizes
from cmg_runtime.folder.sources import installed_versions

_PACKAGES = ("torch", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "numpy")
_CLOCKS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")


def flop_per_env(sizes: Sizes) -> int:
    """Operations of one frame of one environment: two per weight of the gate and of every expert."""
    width = sizes.motion_dim + sizes.command_dim
    widths = [width] + [sizes.hidden_dim] * (sizes.num_layers - 1) + [sizes.motion_dim]
    gate = sizes.gating_hidden_dim * (width + sizes.num_experts)
    experts = sizes.num_experts * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    return 2 * (gate + experts)


def floor_us(flop: int, tflops: float, num_envs: int) -> float:
    """Time of ``flop`` operations for each of ``num_envs`` environments, us."""
    return flop * num_envs / tflops / 1e6


def describe(device: torch.device) -> Machine:
    """The machine, and the rate of a matrix product on ``device`` in each precision."""
    cuda = device.type == "cuda"
    versions = {"python": platform.python_version(), **installed_versions(_PACKAGES)}
    if cuda:
        versions["cuda"] = str(torch.version.cuda)
    rates = {"fp32": _tflops(device, torch.float32, 8192 if cuda else 1024)}
    if cuda:  # a CPU's half precision is emulated
        rates["fp16"] = _tflops(device, torch.float16, 8192)
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    return Machine(name, _processor(), read_clocks(device), versions, rates)


def read_clocks(device: torch.device) -> dict[str, str]:
    """What nvidia-smi says now of the GPU; empty on a CPU, and where nvidia-smi does not answer."""
    if device.type != "cuda":
        return {}
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--query-gpu={','.join(_CLOCKS)}", "--format=csv,noheader"]
    for selection in ([gpu], [f"--id={device.index or 0}"]):  # containers may number or name GPUs otherwise
        try:
            done = subprocess.run([*command, *selection], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return dict(zip(_CLOCKS, (cell.strip() for cell in done.stdout.splitlines()[0].split(",")), strict=True))
    return {}


def _tflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Of the fastest of ten products, since this is for a floor; of random operands, since zeros draw less power."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    samples = Samples()
    time_block(lambda: torch.mm(a, b, out=out), device, 10, samples)
    return 2 * size**3 / min(samples.gpu or samples.wall) / 1e6


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine()
