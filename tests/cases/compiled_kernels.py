"""The ``fused`` kernels compiled for GPUs that are not here, with the arguments that launches would give them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.tools.tensor_descriptor import TensorDescriptor

from cmg_runtime.backends.fused import layers
from cmg_runtime.backends.fused.capacity import Device
from cmg_runtime.backends.fused.launch import OPERANDS, FrameNetwork
from cmg_runtime.backends.fused.packing import Packed, Shapes
from cmg_runtime.backends.fused.tiles import ANY, FrameConfig, Tiles

KERNELS = {"gate_layer": "gate", "first_layer": "first", "middle_layer": "middle", "finish": "finish"}
"""Name of a kernel -> which of a configuration's tiles it has."""

_TYPES = {torch.float16: "fp16", torch.float32: "fp32"}


def launches(
    shapes: Shapes, precision: str, config: FrameConfig, device: Device, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, dict[str, Any]]]:
    """The launches of a frame of 64 rows on a device: kernels and their arguments, in order."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    class Recorded:
        def __init__(self, kernel: Any) -> None:
            self._kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            return lambda **arguments: seen.append((self._kernel, arguments))

    with monkeypatch.context() as patch:
        patch.setattr(Device, "of", lambda _: device)
        for name in KERNELS:
            patch.setattr(layers, name, Recorded(getattr(layers, name)))
        network = FrameNetwork(_zeros(shapes, precision), precision, 64, torch.device("cpu"), Tiles(((ANY, config),)))
        motion = torch.zeros(64, shapes.motion)
        network(motion, torch.zeros(64, shapes.inputs - shapes.motion), torch.zeros_like(motion))
    return seen


def compiled(kernel: Any, arguments: dict[str, Any], device: Device) -> Any:
    """The compiler's result for a device's compute capability."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[(index,)] = "constexpr", value
            continue
        aligned = not parameter.do_not_specialize_on_alignment
        if isinstance(value, TensorDescriptor):
            block = ", ".join(map(str, value.block_shape))
            signature[parameter.name], aligned = f"tensordesc<{_TYPES[value.base.dtype]}[{block}]>", False
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
        else:
            signature[parameter.name] = "i32"
            aligned = not parameter.do_not_specialize and value % 16 == 0
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {name: arguments[name] for name in ("num_warps", "num_stages", "launch_pdl") if name in arguments}
    major, minor = device.capability
    return compile(source, target=GPUTarget("cuda", 10 * major + minor, 32), options=options)


def _zeros(shapes: Shapes, precision: str) -> Packed:
    dtype = OPERANDS[precision][0]

    def layer(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = shapes.outputs if index == shapes.num_layers - 1 else shapes.hidden
        inputs = shapes.hidden if index else shapes.inputs_padded
        return torch.zeros(outputs * shapes.experts, inputs, dtype=dtype), torch.zeros(outputs * shapes.experts)

    return Packed(
        shapes=shapes,
        shift=torch.zeros(max(shapes.inputs_padded, shapes.outputs)),
        scale=torch.zeros(shapes.inputs_padded),
        motion_std=torch.zeros(shapes.outputs),
        gate_weight=torch.zeros(shapes.gate, shapes.inputs_padded, dtype=dtype),
        gate_out_weight=torch.zeros(shapes.experts, shapes.gate),
        gate_out_bias=torch.zeros(shapes.experts),
        layers=tuple(layer(index) for index in range(shapes.num_layers)),
        last_bias=torch.zeros(shapes.experts, shapes.outputs),
    )
