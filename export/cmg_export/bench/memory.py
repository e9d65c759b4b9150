"""What frames and engines take of the GPU's memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from cmg_export.bench.contenders import Contender
from cmg_export.bench.engines import Plan, rebuild, start
from cmg_runtime import Engine
from cmg_runtime.backends import backend_class
from cmg_runtime.folder.manifest import Sizes
from cmg_runtime.window.frames import FrameLayout

T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """What an engine takes of the GPU beyond its weights and its window, MiB: see ``Result``."""

    peak: float
    device: float


def with_peak(make: Callable[[], T], device: torch.device) -> tuple[T, float | None]:
    """What ``make`` returns, and the peak of torch's allocator meanwhile beyond what stayed, MiB; None on a CPU."""
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, (torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)) / 2**20


def measure_engine(contender: Contender, plan: Plan, num_envs: int) -> Memory | None:
    """Load an engine, step it, rebuild some windows and then all. None on a CPU, which has no such counts."""
    device = plan.device
    if device.type != "cuda":
        return None
    weights = _weights_held(contender, plan, num_envs)
    settle(device)
    torch.cuda.reset_peak_memory_stats(device)
    allocated, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    engine = start(contender, plan, num_envs)
    for count in (min(64, num_envs), num_envs):
        again = rebuild(engine, count, plan.seed)
        for _ in range(10):
            engine.step()
            again()
    torch.cuda.synchronize(device)
    known = weights + window_bytes(engine, plan.horizon)
    peak = torch.cuda.max_memory_allocated(device) - allocated - known
    taken = free - torch.cuda.mem_get_info(device)[0] - known
    return Memory(peak / 2**20, taken / 2**20)


def window_bytes(engine: Engine, horizon: int) -> int:
    """Bytes of the window's frames; 0 without one."""
    row = FrameLayout(len(engine.joint_names), len(engine.key_body_names), has_robot=True).width
    return 4 * horizon * engine.num_envs * row if horizon > 1 else 0


def _weights_held(contender: Contender, plan: Plan, num_envs: int) -> int:
    """Bytes that the weights take of torch's allocator: by count, and no more than loading them took."""
    artifact = contender.artifact
    assert artifact is not None
    settle(plan.device)
    before = torch.cuda.memory_allocated(plan.device)
    backend = backend_class(artifact.backend).load(plan.folder, artifact, plan.manifest, num_envs, plan.device)
    taken = torch.cuda.memory_allocated(plan.device) - before
    del backend
    return min(taken, weight_bytes(plan.manifest.sizes, artifact.precision))


def weight_bytes(sizes: Sizes, precision: str) -> int:
    """Bytes of the network's parameters: the experts' matrices in ``precision``, gate and biases in float32."""
    width = sizes.motion_dim + sizes.command_dim
    widths = [width] + [sizes.hidden_dim] * (sizes.num_layers - 1) + [sizes.motion_dim]
    experts = sizes.num_experts * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    gate = sizes.gating_hidden_dim * (width + 1 + sizes.num_experts) + sizes.num_experts
    return experts * (2 if precision == "fp16" else 4) + 4 * (gate + sizes.num_experts * sum(widths[1:]))


def settle(device: torch.device) -> None:
    """Give back to the driver what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
