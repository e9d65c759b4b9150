"""The kernel for the rows of new frames, ``frame_rows.cu`` beside this file: its tables, and its launches."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type

import torch

from cmg_runtime.device.nvrtc import CudaKernel
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.triton.body_tables import STEP_FLOATS, ChainTables

ENVS = 32
"""Environments of a thread block."""

MOST_WALKERS = 7
"""Warps of a thread block that walk."""

STEP = 20
"""Numbers of a step: the rotation row by row, the offsets o and m of the origins, joint, target, first and last + 1 of
the soles, and one that is not used."""


class Arguments(ctypes.Structure):
    """Of the kernel."""


_MEMBERS: Dict[str, str] = {
    "tables": "const float *",
    "motions": "const float *",  # [T, n, D], frames motion_pitch apart
    "ids": "const i64 *",  # [n] columns of the window, and all below but heights unused; null: a step's append
    "head": "i64 *",  # [columns]; with append it moves on
    "ring": "float *",  # [horizon, columns, W]
    "heights": "float *",  # out, with ids: [T, n] height of the root above the ground, m
    "moving": "const bool *",  # [n] the environments that move, or null: all
    "newest_motion": "float *",  # out: [columns, D]
    "current": "float *",  # out: [columns, D]
    "next_command": "float *",  # [columns, 3] that led to the frame; becomes the next one
    "ground": "const float *",  # [columns]
    "root": "float *",  # [columns, 4] root state of the frame before; becomes this one's
    "ramp_initial": "const float *",  # [columns, 3] each, and elapsed [columns], which grows by 1
    "ramp_target": "const float *",
    "ramp_elapsed": "float *",
    "number": "i64 *",  # [columns] of each column's current frame, which grows by 1
    "motion_pitch": "i64",
    "n": "int",
    "first": "int",  # with ids: the offset of the first frame from the current one
    "horizon": "int",
    "columns": "int",
    "ramp": "int",  # whether there is one
    "dt": "float",
    "fps": "float",
    "ramp_frames": "float",
}

_NUMBERS: Dict[str, Type] = {"i64": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float}

Arguments._fields_ = [
    (name, ctypes.c_void_p if declared.endswith("*") else _NUMBERS[declared]) for name, declared in _MEMBERS.items()
]

_FOR_CUDA = """
__device__ __forceinline__ float *shared_memory() {
    extern __shared__ __align__(16) float memory[];
    return memory;
}
__device__ __forceinline__ void after_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
"""


class FrameKernel:
    """The kernel for a robot and a layout of rows.

    Args:
        tables: of the robot's chain.

    Raises:
        CudaError: it cannot be compiled or loaded.
    """

    def __init__(self, tables: ChainTables, layout: FrameLayout, device: torch.device) -> None:
        self._table, sizes = pack(tables, layout)
        self._table = self._table.to(device)
        self._threads = sizes["THREADS"]
        major, minor = torch.cuda.get_device_capability(device)
        self._dependent = major >= 9
        source, options = program(sizes, (major, minor))
        self._kernel = CudaKernel(source, "write_frames", options, sizes["SHARED_BYTES"], device)

    def launch(self, num_frames: int, n: int, **arguments: Any) -> None:
        """Enqueue it on the current stream. Tensors and numbers under the names above."""
        given = {name: v.data_ptr() if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
        stream = torch.cuda.current_stream(self._table.device).cuda_stream
        grid = -(-n // ENVS) * num_frames
        if grid:
            arguments_ = Arguments(tables=self._table.data_ptr(), n=n, **given)
            self._kernel.launch(grid, self._threads, arguments_, stream, self._dependent)


def pack(tables: ChainTables, layout: FrameLayout) -> Tuple[torch.Tensor, Dict[str, int]]:
    """The tables as the kernel reads them, [..] float32 on the CPU, and the sizes that it is compiled with.

    A path is the steps from one that begins at the root to the next one; steps that go nowhere are left out.
    """
    floats, marks, joints, targets = (
        tensor.cpu().flatten(0, 1) for tensor in (tables.floats, tables.marks, tables.joints, tables.targets)
    )
    rows: List[torch.Tensor] = []
    paths: List[int] = []
    for step, (begins, first, last) in enumerate(marks.tolist()):
        joint, target = int(joints[step]), int(targets[step])
        if not begins and joint < 0 and target < 0 and first == last and _goes_nowhere(floats[step]):
            continue
        if begins:
            paths.append(len(rows))
        numbers = torch.tensor([joint, target, first, last, 0], dtype=torch.int32).view(torch.float32)
        rows.append(torch.cat([floats[step], numbers]))
    paths = paths or [0]  # a robot of which nothing is asked
    ends = torch.tensor([*paths, len(rows)], dtype=torch.int32).view(torch.float32)
    packed = torch.cat([*rows, tables.soles.cpu().flatten(), ends])
    packed = torch.nn.functional.pad(packed, (0, -len(packed) % 4))
    walkers = min(len(paths), MOST_WALKERS)
    sizes = {
        "D": layout.motion_dim,
        "W": layout.width,
        "USED": layout.used,
        "ROOT": layout.root_pos,
        "PATHS": len(paths),
        "STEPS": len(rows),
        "SOLES": len(tables.soles),
        "WALKERS": walkers,
        "THREADS": 32 * (walkers + 1),
        "SHARED_BYTES": 4 * (len(packed) + 32 * len(paths) + ENVS * (layout.width + 1)),
    }
    return packed, sizes


def _goes_nowhere(floats: torch.Tensor) -> bool:
    return torch.equal(floats, torch.cat([torch.eye(3).flatten(), torch.zeros(STEP_FLOATS - 9)]))


def program(sizes: Dict[str, int], capability: Tuple[int, int]) -> Tuple[str, List[str]]:
    """The source, and the options that it is compiled with."""
    members = " ".join(f"{declared} {name};" for name, declared in _MEMBERS.items())
    kernel = (Path(__file__).parent / "frame_rows.cu").read_text()
    begin, rest = kernel.split("typedef long long i64;\n")
    source = f"{begin}typedef long long i64;\nstruct Arguments {{ {members} }};\n{_FOR_CUDA}{rest}"
    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    return source, [arch, "-std=c++17", *(f"-D{name}={size}" for name, size in sizes.items())]
