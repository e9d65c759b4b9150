"""The whole network in one kernel of thread-block clusters, for Hopper GPUs: weights, launches and what fits it.

What the kernels do, and why so: ``cluster.cu`` beside this file, which streams the weights through each cluster, and
``resident.cu`` for few rows, which keeps them there. They are written for the usual network: three layers, three or
four experts, up to 512 hidden units in layers and gate, 31 to 62 inputs. Smaller layers are padded with zeros, which
changes no result; for others, other GPUs and float32 there are the kernels of
:mod:`cmg_runtime.backends.fused.layers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch

from cmg_runtime.backends.fused import cluster_arguments
from cmg_runtime.backends.fused.cluster_arguments import Arguments, declarations
from cmg_runtime.backends.fused.cluster_shapes import FEW, MANY, PAIR, RESIDENT, Launch, Shape, full_rounds, plan
from cmg_runtime.backends.fused.cluster_weights import EXPERTS, HIDDEN, WIDTH, padded_to
from cmg_runtime.backends.fused.packing import Packed, Shapes
from cmg_runtime.device.nvrtc import CudaError, CudaKernel
from cmg_runtime.guard import STRIDE, Guard

ONE_FRAME_FEW, ONE_FRAME_MANY = 512, 2048
"""Rows from which single frames are faster than in the kernels of :mod:`cmg_runtime.backends.fused.layers`: the first
up to what :data:`FEW` holds at once."""


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
        self._kernels: Dict[Shape, CudaKernel] = {}
        self._weights: Dict[int, torch.Tensor] = {}
        few, many = (self._add(shape) for shape in (FEW, MANY))
        if not few or not many:  # part of a GPU (MIG)
            raise CudaError(f"no room for a cluster of {FEW.ctas} or {MANY.ctas} thread blocks")
        self._add(PAIR)
        with torch.cuda.device(device):
            left_over = torch.cuda.get_device_properties(device).multi_processor_count - many * MANY.ctas
        resident = tuple(self._add_if_possible(shape) * shape.rows for shape in RESIDENT)
        pair = left_over // PAIR.ctas * PAIR.rows
        self.capacities = (few * FEW.rows, many * MANY.rows, pair, resident)
        self.batches = full_rounds(resident)

    def _add(self, shape: Shape) -> int:
        """Load the kernel and the weights of a shape; returns the clusters that the GPU holds at once."""
        source, options = program(shape)
        kernel = CudaKernel(source, "generate_frames", options, shape.shared_bytes, self._device)
        with torch.cuda.device(self._device):
            clusters = kernel.most_clusters(shape.ctas, shape.threads)
        if clusters:
            self._kernels[shape] = kernel
            if shape.ctas not in self._weights:
                self._weights[shape.ctas] = shape.weights(self._packed)
        return clusters

    def _add_if_possible(self, shape: Shape) -> int:
        """The same; 0 where the GPU or its driver refuses clusters of this size."""
        try:
            return self._add(shape)
        except CudaError:
            return 0

    def has(self, shape: Shape) -> bool:
        """Whether the GPU has room for clusters of this shape."""
        return shape in self._kernels

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
        shape: Optional[Shape] = None,
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
        rows = slice(launch.first, launch.first + launch.rows)
        motion, commands, out = motion[rows], commands[:, rows], out[:, rows]
        arguments = Arguments(
            stream=self._weights[shape.ctas].data_ptr(),
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
        self._kernels[shape].launch(grid, shape.threads, arguments, queue, launch.beside)


def program(shape: Shape) -> Tuple[str, List[str]]:
    """The source for a shape, and the options that it is compiled with."""
    header, kernel = ((Path(__file__).parent / name).read_text() for name in ("hopper.cuh", shape.source))
    source = header + declarations() + kernel
    sizes = {**shape.sizes, "SHARED_BYTES": shape.shared_bytes, "THREADS": shape.threads}
    return source, ["-arch=sm_90a", "-std=c++17", *(f"-D{name}={size}" for name, size in sizes.items())]


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
