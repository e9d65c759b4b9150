"""The machine, and the floor: counted operations at the rate of a large matrix product there."""

from __future__ import annotations

import platform

import torch

from cmg_export import machine
from cmg_export.bench.results import Machine
from cmg_export.timing import Samples, time_block
from cmg_runtime.folder.manifest import Sizes


def flop_per_env(sizes: Sizes) -> int:
    """Operations of one frame of one environment: two per weight of the gate and of every expert."""
    gate = sizes.gating_hidden_dim * (_layer_widths(sizes)[0] + sizes.num_experts)
    return 2 * (gate + _expert_weights(sizes))


def weight_bytes(sizes: Sizes, precision: str) -> int:
    """Bytes of the network's parameters: the experts' matrices in ``precision``, gate and biases in float32."""
    widths, experts = _layer_widths(sizes), sizes.num_experts
    gate = sizes.gating_hidden_dim * (widths[0] + 1 + experts) + experts
    return _expert_weights(sizes) * (2 if precision == "fp16" else 4) + 4 * (gate + experts * sum(widths[1:]))


def _layer_widths(sizes: Sizes) -> list[int]:
    return [sizes.motion_dim + sizes.command_dim, *[sizes.hidden_dim] * (sizes.num_layers - 1), sizes.motion_dim]


def _expert_weights(sizes: Sizes) -> int:
    widths = _layer_widths(sizes)
    return sizes.num_experts * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def floor_us(flop: int, tflops: float, num_envs: int) -> float:
    """Time of ``flop`` operations for each of ``num_envs`` environments, us."""
    return flop * num_envs / tflops / 1e6


def describe(device: torch.device) -> Machine:
    """The machine, and the rate of a matrix product on ``device`` in each precision."""
    cuda = device.type == "cuda"
    versions = {"python": platform.python_version(), **machine.versions()}
    if cuda:
        versions["cuda"] = str(torch.version.cuda)
    rates = {"fp32": _tflops(device, torch.float32, 8192 if cuda else 1024)}
    if cuda:  # a CPU's half precision is emulated
        rates["fp16"] = _tflops(device, torch.float16, 8192)
    return Machine(machine.device_name(device), machine.processor(), machine.read_clocks(device), versions, rates)


def _tflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Of the fastest of ten products, since this is for a floor; of random operands, since zeros draw less power."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    samples = Samples()
    time_block(lambda: torch.mm(a, b, out=out), device, 10, samples)
    return 2 * size**3 / min(samples.gpu or samples.wall) / 1e6
