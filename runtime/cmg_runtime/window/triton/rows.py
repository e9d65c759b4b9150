"""The frame writer of CUDA devices: few kernels for what takes some two hundred in torch."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import functools
import logging
from typing import Any, Dict, Optional, Sequence

import torch
import triton
import triton.language as tl

from cmg_runtime.device.nvrtc import CudaError
from cmg_runtime.device.scratch import Scratch
from cmg_runtime.device.triton_support import dependent_launch
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.window.cuda.frame_rows import FrameKernel
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.state import WindowBuffers
from cmg_runtime.window.triton import append_kernels as kernels
from cmg_runtime.window.triton import rebuild_kernels
from cmg_runtime.window.triton.arguments import ramp_arguments
from cmg_runtime.window.triton.body_tables import ChainTables, chain_tables

logger = logging.getLogger(__name__)

USE_CUDA = True
LANES = 32

BODIES_REGISTERS = 80
"""Of a lane in the kernel for many frames. The compiler takes 120 where it may, and fewer rows are under way."""

MOST_INT32 = 2**31 - 1


class TritonFrameWriter(FrameWriter):
    """See :class:`cmg_runtime.window.plain.rows.FrameWriter`; the manifest must have a robot.

    Its scratch memory has 4 bytes a frame, of the largest call so far, and 4 for each block of a step.
    """

    def __init__(self, manifest: Manifest, key_bodies: Sequence[int], device: torch.device) -> None:
        super().__init__(manifest, key_bodies, device)
        if manifest.robot is None:
            raise ValueError("this frame writer needs a robot")
        tables = chain_tables(manifest.robot, key_bodies, self.layout.key_body_pos, device)
        self._groups, steps = tables.joints.shape
        sizes = {"GROUPS": self._groups, "STEPS": steps, "BLOCK": LANES, "num_warps": 1}
        self._walk: Dict[str, Any] = {**vars(tables), **sizes}
        self._frames = frame_kernel(tables, self.layout, device) if USE_CUDA else None
        self._arrivals: Dict[int, torch.Tensor] = {}
        self._scratch = Scratch(
            functools.partial(torch.empty, dtype=torch.float32, device=device), lambda heights: (heights,)
        )

    def append(self, buffers: WindowBuffers, number: torch.Tensor, moving: Optional[torch.Tensor] = None) -> None:
        n = buffers.num_envs
        if self._frames is not None:
            with torch.cuda.device_of(number):
                self._frames.launch(
                    1,
                    n,
                    motions=buffers.next_motion,
                    head=buffers.head,
                    ring=buffers.ring,
                    moving=moving,
                    newest_motion=buffers.newest_motion,
                    current=buffers.current,
                    next_command=buffers.next_command,
                    ground=buffers.ground,
                    root=buffers.newest_root,
                    ramp_initial=buffers.ramp.initial,
                    ramp_target=buffers.ramp.target,
                    ramp_elapsed=buffers.ramp.elapsed,
                    number=number,
                    horizon=buffers.horizon,
                    columns=buffers.ring.shape[1],
                    ramp=int(buffers.ramp.num_frames > 0),
                    dt=self._dt,
                    fps=self._fps,
                    ramp_frames=max(float(buffers.ramp.num_frames), 1e-9),
                )
            return
        blocks = triton.cdiv(n, LANES)
        if blocks not in self._arrivals:
            self._arrivals[blocks] = torch.zeros(blocks, dtype=torch.int32, device=number.device)
        with torch.cuda.device_of(number):  # Triton launches on the current device
            kernels.append_frame[(blocks, self._groups + 2)](
                motion=buffers.next_motion,
                moving=moving,
                head=buffers.head,
                arrivals=self._arrivals[blocks],
                ring=buffers.ring,
                newest_motion=buffers.newest_motion,
                current=buffers.current,
                next_command=buffers.next_command,
                ground=buffers.ground,
                root=buffers.newest_root,
                **ramp_arguments(buffers.ramp),
                number=number,
                n=n,
                horizon=buffers.horizon,
                columns=buffers.ring.shape[1],
                dt=self._dt,
                fps=self._fps,
                D=self.layout.motion_dim,
                W=self.layout.width,
                ROOT=self.layout.root_pos,
                INDEX=index_type(buffers.ring),
                **self._walk,
                **dependent_launch(number.device),
            )

    def extend(
        self,
        buffers: WindowBuffers,
        ids: torch.Tensor,
        motions: torch.Tensor,
        commands: torch.Tensor,
        root: torch.Tensor,
        first: int,
    ) -> None:
        """Rows of ``motions`` and ``commands`` [T, n, ..] are contiguous in n."""
        num_frames, n, _ = motions.shape
        heights = self._bodies(buffers.ring, buffers.head, ids, motions, first)
        block_t = triton.next_power_of_2(num_frames)
        block_n = max(1, LANES // block_t)
        with torch.cuda.device_of(motions):
            kernels.write_roots[(triton.cdiv(n, block_n),)](
                commands=commands,
                ids=ids,
                head=buffers.head,
                ring=buffers.ring,
                heights=heights,
                ground=buffers.ground,
                root=root,
                n=n,
                num_frames=num_frames,
                first=first,
                command_pitch=commands.stride(0),
                horizon=buffers.horizon,
                columns=buffers.ring.shape[1],
                dt=self._dt,
                fps=self._fps,
                W=self.layout.width,
                ROOT=self.layout.root_pos,
                BLOCK_T=block_t,
                BLOCK_N=block_n,
                num_warps=min(4, max(1, block_t // LANES)),
                **dependent_launch(motions.device),
            )

    def place(self, buffers: WindowBuffers, ids: torch.Tensor, root: torch.Tensor) -> None:
        n, width = len(ids), self.layout.motion_dim
        heights, blocks = self._scratch.of(n), triton.cdiv(n, LANES)
        with torch.cuda.device_of(ids):
            rebuild_kernels.place_bodies[(blocks, self._groups + 1)](
                ids=ids,
                fresh=buffers.fresh,
                current=buffers.current,
                head=buffers.head,
                ring=buffers.ring,
                heights=heights,
                n=n,
                D=width,
                W=self.layout.width,
                **self._walk,
            )
            rebuild_kernels.place_roots[(blocks,)](
                ids=ids,
                fresh=buffers.fresh,
                head=buffers.head,
                ring=buffers.ring,
                heights=heights,
                ground=buffers.ground,
                placement=buffers.placement,
                **ramp_arguments(buffers.ramp),
                root=root,
                n=n,
                W=self.layout.width,
                ROOT=self.layout.root_pos,
                BLOCK=LANES,
                num_warps=1,
            )
        # Last, so that an environment that is among ``ids`` twice is placed alike by both of its lanes.
        buffers.fresh.index_fill_(0, ids, False)

    def commands(self, buffers: WindowBuffers, ids: torch.Tensor, first: int, out: torch.Tensor) -> None:
        num_frames, n, _ = out.shape
        with torch.cuda.device_of(out):
            rebuild_kernels.write_commands[(triton.cdiv(num_frames * n, 128),)](
                ids=ids,
                **ramp_arguments(buffers.ramp),
                out=out,
                n=n,
                num_rows=num_frames * n,
                first=first,
                pitch=out.stride(0),
                BLOCK=128,
            )

    def finish(self, buffers: WindowBuffers, ids: torch.Tensor, motion: torch.Tensor, root: torch.Tensor) -> None:
        n = len(ids)
        with torch.cuda.device_of(ids):
            rebuild_kernels.finish[(triton.cdiv(n, LANES),)](
                ids=ids,
                motion=motion,
                root=root,
                **ramp_arguments(buffers.ramp),
                newest_motion=buffers.newest_motion,
                newest_root=buffers.newest_root,
                next_command=buffers.next_command,
                n=n,
                horizon=buffers.horizon,
                D=self.layout.motion_dim,
                BLOCK=LANES,
                num_warps=1,
            )

    def first_rows(
        self, motion: torch.Tensor, command: torch.Tensor, root: torch.Tensor, ground: torch.Tensor
    ) -> torch.Tensor:
        n = len(motion)
        rows = motion.new_zeros((1, n, self.layout.width))
        ids = torch.arange(n, device=motion.device)
        height = self._bodies(rows, ids, ids, motion.unsqueeze(0), 0)  # each column's head is its only row
        root[:, 2] = ground + height
        bodies = rows[0, :, self.layout.key_body_pos : self.layout.used]
        return self._assemble(motion, command, root, torch.zeros_like(height), bodies)

    def _bodies(
        self,
        ring: torch.Tensor,
        head: torch.Tensor,
        ids: torch.Tensor,
        motions: torch.Tensor,
        first: int,
    ) -> torch.Tensor:
        """Write motions and bodies into ``ring`` [horizon, columns, W]; returns the root's heights [T * n], m."""
        num_frames, n, width = motions.shape
        heights = self._scratch.of(num_frames * n)
        if self._frames is not None:
            with torch.cuda.device_of(motions):
                self._frames.launch(
                    num_frames,
                    n,
                    motions=motions,
                    motion_pitch=motions.stride(0),
                    ids=ids,
                    head=head,
                    ring=ring,
                    heights=heights,
                    first=first,
                    horizon=ring.shape[0],
                    columns=ring.shape[1],
                )
            return heights[: num_frames * n]
        with torch.cuda.device_of(motions):
            kernels.write_bodies[(triton.cdiv(n, LANES), self._groups + 1, num_frames)](
                motions=motions,
                ids=ids,
                head=head,
                ring=ring,
                heights=heights,
                n=n,
                first=first,
                motion_pitch=motions.stride(0),
                horizon=ring.shape[0],
                columns=ring.shape[1],
                D=width,
                W=self.layout.width,
                INDEX=index_type(ring),
                maxnreg=BODIES_REGISTERS,
                **self._walk,
                **dependent_launch(motions.device),
            )
        return heights[: num_frames * n]


def frame_kernel(tables: ChainTables, layout: FrameLayout, device: torch.device) -> Optional[FrameKernel]:
    try:
        return FrameKernel(tables, layout, device) if device.type == "cuda" else None
    except CudaError as error:
        logger.warning("rows of frames are made by slower kernels, for the one in CUDA C++ does not load: %s", error)
        return None


def index_type(ring: torch.Tensor) -> Any:
    """What counts the floats of a ring."""
    return tl.int32 if ring.numel() <= MOST_INT32 else tl.int64
