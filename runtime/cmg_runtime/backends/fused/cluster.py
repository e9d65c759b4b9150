"""The whole network in one kernel of thread-block clusters, for Hopper GPUs: weights, launches and what fits it.

What the kernel does, and why so: ``cluster.cu`` beside this file. It is written for the usual network: three layers,
three or four experts, up to 512 hidden units in layers and gate, 31 to 62 inputs. Smaller layers are padded with zeros,
which changes no result; for others, other GPUs and float32 there are the kernels of
:mod:`cmg_runtime.backends.fused.layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import torch

from cmg_runtime.backends.fused import cluster_arguments
from cmg_runtime.backends.fused.cluster_arguments import Arguments, declarations
from cmg_runtime.backends.fused.cluster_weights import (
    BLOCK_BYTES,
    CHUNKS,
    EXPERTS,
    HIDDEN,
    WIDTH,
    padded_to,
    weight_stream,
)
from cmg_runtime.backends.fused.packing import Packed, Shapes
from cmg_runtime.device.nvrtc import CudaError, CudaKernel
from cmg_runtime.guard import STRIDE, Guard


@dataclass(frozen=True)
class ClusterShape:
    """``ctas`` thread blocks share a row block's columns; each has ``groups`` groups of 64 rows, and a ring of
    ``stages`` blocks of 32 KB of weights."""

    ctas: int
    groups: int
    stages: int

    @property
    def rows(self) -> int:
        return 64 * self.groups

    @property
    def threads(self) -> int:
        return 128 * (self.groups + 1)

    @property
    def tiles(self) -> int:
        return CHUNKS // self.ctas

    @property
    def shared_bytes(self) -> int:
        """As ``cluster.cu`` lays it out, which does not compile for another size."""
        logits = 0 if self.tiles > 1 else self.groups * self.ctas * 1024
        barriers = 8 * (2 * self.stages + self.groups * (CHUNKS + 4))
        return CHUNKS * self.rows * 128 + self.stages * BLOCK_BYTES + self.tiles * 1024 + logits + barriers


FEW = ClusterShape(ctas=8, groups=1, stages=4)
"""The shortest frame, 64 rows at a time."""

MANY = ClusterShape(ctas=4, groups=2, stages=3)
"""Each weight that is read serves 128 rows. A frame takes two and a half times as long as one of :data:`FEW`."""

PAIR = ClusterShape(ctas=2, groups=1, stages=4)
"""64 rows in the time that :data:`MANY` takes: for multiprocessors that its clusters leave over."""


ONE_FRAME_FEW, ONE_FRAME_MANY = 512, 2048
"""Rows from which single frames are faster than in the kernels of :mod:`cmg_runtime.backends.fused.layers`: the first
up to what :data:`FEW` holds at once."""


@dataclass(frozen=True)
class Launch:
    """``rows`` rows from ``first`` on; ``beside``: at the same time as the launch before."""

    shape: ClusterShape
    first: int
    rows: int
    beside: bool = False


def plan(num_rows: int, few: int, many: int, pair: int) -> List[Launch]:
    """How to divide rows.

    Args:
        few, many: rows that the GPU can hold at once in clusters of these shapes.
        pair: rows that go beside as many as ``many``.
    """
    launches: List[Launch] = []
    first = 0
    while num_rows - first > many:
        launches.append(Launch(MANY, first, many))
        first += many
        rows = min(pair, num_rows - first)
        if rows > 0:
            launches.append(Launch(PAIR, first, rows, beside=True))
            first += rows
    rest = num_rows - first
    if rest > 0:
        launches.append(Launch(FEW if rest <= 2 * few else MANY, first, rest))
    return launches


def fits(shapes: Shapes, precision: str, device: torch.device) -> bool:
    """Whether the kernel is made for this network, precision and device."""
    return (
        precision == "fp16"
        and device.type == "cuda"
        and torch.cuda.get_device_capability(device) == (9, 0)
        and (shapes.num_layers, shapes.experts, shapes.inputs_padded, shapes.outputs) == (3, EXPERTS, 64, WIDTH)
        and max(shapes.hidden, shapes.gate) <= HIDDEN
    )


class ClusterNetwork:
    """One frame, or many in a row, of a network that :func:`fits`. It has no memory of its own but the weights.

    Args:
        packed: weights in half precision on the device.

    Raises:
        CudaError: the kernel cannot be compiled or loaded, or the device has no room for its clusters.
    """

    def __init__(self, packed: Packed, device: torch.device) -> None:
        self._packed = packed
        self._device = device
        self._bias = padded_to(packed.layers[1][1], HIDDEN * EXPERTS)
        self._kernels = {shape: _load(shape, packed, device) for shape in (FEW, MANY, PAIR)}
        with torch.cuda.device(device):
            few, many = (self._kernels[shape][0].most_clusters(shape.ctas, shape.threads) for shape in (FEW, MANY))
        if not few or not many:  # part of a GPU (MIG)
            raise CudaError(f"no room for a cluster of {FEW.ctas} or {MANY.ctas} thread blocks")
        left_over = torch.cuda.get_device_properties(device).multi_processor_count - many * MANY.ctas
        self.capacities = (few * FEW.rows, many * MANY.rows, left_over // PAIR.ctas * PAIR.rows)

    def suits_one_frame(self, num_rows: int) -> bool:
        """Whether it is the faster kernel for single frames of so many rows."""
        return ONE_FRAME_FEW <= num_rows <= self.capacities[0] or num_rows >= ONE_FRAME_MANY

    def __call__(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        """Enqueue one frame: as :meth:`rollout` with one frame."""
        self.rollout(motion, command.unsqueeze(0), out.unsqueeze(0))

    def rollout(
        self,
        motion: torch.Tensor,
        commands: torch.Tensor,
        out: torch.Tensor,
        guard: Optional[Guard] = None,
        columns: Optional[torch.Tensor] = None,
        ahead: int = 1,
        shape: Optional[ClusterShape] = None,
    ) -> None:
        """As :meth:`cmg_runtime.backends.Backend.rollout`. Nothing is allocated.

        Args:
            shape: one launch of this shape, instead of :func:`plan`.
        """
        if not len(motion) or not len(out):
            return
        if guard is not None and columns is None:
            raise ValueError("a guard needs the rows' columns")
        whole = [Launch(shape, 0, len(motion))] if shape else plan(len(motion), *self.capacities)
        with torch.cuda.device(self._device):
            for launch in whole:
                self._launch(launch, motion, commands, out, guard, columns, ahead)

    def _launch(
        self,
        launch: Launch,
        motion: torch.Tensor,
        commands: torch.Tensor,
        out: torch.Tensor,
        guard: Optional[Guard],
        columns: Optional[torch.Tensor],
        ahead: int,
    ) -> None:
        packed, shapes, shape = self._packed, self._packed.shapes, launch.shape
        kernel, stream = self._kernels[shape]
        rows = slice(launch.first, launch.first + launch.rows)
        motion, commands, out = motion[rows], commands[:, rows], out[:, rows]
        arguments = Arguments(
            stream=stream.data_ptr(),
            bias=self._bias.data_ptr(),
            gate_bias=packed.gate_out_bias.data_ptr(),
            last_bias=packed.last_bias.data_ptr(),
            shift=packed.shift.data_ptr(),
            scale=packed.scale.data_ptr(),
            motion_std=packed.motion_std.data_ptr(),
            motion=motion.data_ptr(),
            command=commands.data_ptr(),
            out=out.data_ptr(),
            motion_stride=motion.stride(0),
            command_stride=commands.stride(1),
            command_pitch=commands.stride(0),
            out_stride=out.stride(1),
            out_pitch=out.stride(0),
            num_rows=len(motion),
            num_frames=len(out),
            motion_dim=shapes.motion,
            input_dim=shapes.inputs,
            guard=_guard(guard, None if columns is None else columns[rows], ahead),
        )
        queue = torch.cuda.current_stream(self._device).cuda_stream
        grid = -(-launch.rows // shape.rows) * shape.ctas
        kernel.launch(grid, shape.threads, arguments, queue, launch.beside)


def _load(shape: ClusterShape, packed: Packed, device: torch.device) -> Tuple[CudaKernel, torch.Tensor]:
    """The kernel compiled for a shape, and the weights in its order."""
    source, options = program(shape)
    kernel = CudaKernel(source, "generate_frames", options, shape.shared_bytes, device)
    return kernel, weight_stream(packed, shape.ctas)


def program(shape: ClusterShape) -> Tuple[str, List[str]]:
    """The source for a shape, and the options that it is compiled with."""
    header, kernel = ((Path(__file__).parent / name).read_text() for name in ("hopper.cuh", "cluster.cu"))
    source = header + declarations() + kernel
    sizes = [f"-DC={shape.ctas}", f"-DR={shape.groups}", f"-DSTAGES={shape.stages}"]
    sizes += [f"-DSHARED_BYTES={shape.shared_bytes}", f"-DTHREADS={shape.threads}"]
    return source, ["-arch=sm_90a", "-std=c++17", *sizes]


def _guard(guard: Optional[Guard], columns: Optional[torch.Tensor], ahead: int) -> cluster_arguments.Guard:
    if guard is None or columns is None:
        return cluster_arguments.Guard()
    return cluster_arguments.Guard(
        low=guard.low.data_ptr(),
        high=guard.high.data_ptr(),
        bank=guard.bank.data_ptr(),
        columns=columns.data_ptr(),
        frame=guard.frame.data_ptr(),
        replaced=guard.replaced.data_ptr(),
        ahead=ahead,
        num_states=len(guard.bank),
        scratch_column=len(guard.frame) - 1,
        stride=STRIDE,
    )
