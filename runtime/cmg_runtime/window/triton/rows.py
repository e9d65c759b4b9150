"""The frame writer of CUDA devices: few kernels for what takes some two hundred in torch."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import functools
from typing import Any, Dict, Optional, Sequence

import torch
import triton
import triton.language as tl

from cmg_runtime.device.scratch import Scratch
from cmg_runtime.device.triton_support import dependent_launch
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.state import WindowBuffers
from cmg_runtime.window.triton import append_kernels as kernels
from cmg_runtime.window.triton import rebuild_kernels
from cmg_runtime.window.triton.arguments import ramp_arguments
from cmg_runtime.window.triton.body_tables import chain_tables

LANES = 32
MOST_INT32 = 2**31 - 1


class TritonFrameWriter(FrameWriter):
    """See :class:`cmg_runtime.window.plain.rows.FrameWriter`; the manifest must have a robot.

    Its scratch memory has 4 bytes a frame, of the largest call so far.
    """

    def __init__(self, manifest: Manifest, key_bodies: Sequence[int], device: torch.device) -> None:
        super().__init__(manifest, key_bodies, device)
        if manifest.robot is None:
            raise ValueError("this frame writer needs a robot")
        tables = chain_tables(manifest.robot, key_bodies, self.layout.key_body_pos, device)
        self._groups, steps = tables.joints.shape
        sizes = {"GROUPS": self._groups, "STEPS": steps, "BLOCK": LANES, "num_warps": 1}
        self._walk: Dict[str, Any] = {**vars(tables), **sizes}
        self._scratch = Scratch(
            functools.partial(torch.empty, dtype=torch.float32, device=device), lambda heights: (heights,)
        )

    def append(self, buffers: WindowBuffers, number: torch.Tensor, moving: Optional[torch.Tensor] = None) -> None:
        n = buffers.num_envs
        motions, commands = buffers.next_motion[:n].unsqueeze(0), buffers.next_command[:n].unsqueeze(0)
        # The row that is horizon frames from the head is the head's own.
        self._write(buffers, None, motions, commands, buffers.newest_root[:n], buffers.horizon, number, moving)

    def extend(
        self,
        buffers: WindowBuffers,
        ids: torch.Tensor,
        motions: torch.Tensor,
        commands: torch.Tensor,
        root: torch.Tensor,
        first: int,
    ) -> None:
        self._write(buffers, ids, motions, commands, root, first)

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

    def _write(
        self,
        buffers: WindowBuffers,
        ids: Optional[torch.Tensor],
        motions: torch.Tensor,
        commands: torch.Tensor,
        root: torch.Tensor,
        first: int,
        number: Optional[torch.Tensor] = None,
        moving: Optional[torch.Tensor] = None,
    ) -> None:
        """Without ``ids``: append. Rows of ``motions`` and ``commands`` [T, n, ..] are contiguous in n."""
        num_frames, n, _ = motions.shape
        append_to = buffers if ids is None else None
        heights = self._bodies(buffers.ring, buffers.head, ids, motions, first, append_to, moving)
        block_t = triton.next_power_of_2(num_frames)
        block_n = max(1, LANES // block_t)
        with torch.cuda.device_of(motions):  # Triton launches on the current device
            kernels.write_roots[(triton.cdiv(n, block_n),)](
                commands=commands,
                ids=ids,
                moving=moving,
                head=buffers.head,
                ring=buffers.ring,
                heights=heights,
                ground=buffers.ground,
                root=root,
                **ramp_arguments(buffers.ramp),
                next_command=buffers.next_command,
                number=number,
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
                APPEND=ids is None,
                BLOCK_T=block_t,
                BLOCK_N=block_n,
                num_warps=min(4, max(1, block_t // LANES)),
                **dependent_launch(motions.device),
            )

    def _bodies(
        self,
        ring: torch.Tensor,
        head: torch.Tensor,
        ids: Optional[torch.Tensor],
        motions: torch.Tensor,
        first: int,
        append_to: Optional[WindowBuffers] = None,
        moving: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Write motions and bodies into ``ring`` [horizon, columns, W]; returns the root's heights [T * n], m.

        Args:
            append_to: the window, where the motions are its new frames; there are no ``ids`` then.
            moving: as in :meth:`append`.
        """
        num_frames, n, width = motions.shape
        heights = self._scratch.of(num_frames * n)
        unused = (heights, heights)
        newest, current = (append_to.newest_motion, append_to.current) if append_to else unused
        with torch.cuda.device_of(motions):  # Triton launches on the current device
            kernels.write_bodies[(triton.cdiv(n, LANES), self._groups + 1, num_frames)](
                motions=motions,
                ids=ids,
                moving=moving,
                head=head,
                ring=ring,
                heights=heights,
                newest_motion=newest,
                current=current,
                n=n,
                first=first,
                motion_pitch=motions.stride(0),
                horizon=ring.shape[0],
                columns=ring.shape[1],
                D=width,
                W=self.layout.width,
                APPEND=append_to is not None,
                INDEX=tl.int32 if ring.numel() <= MOST_INT32 else tl.int64,
                **self._walk,
                **dependent_launch(motions.device),
            )
        return heights[: num_frames * n]
