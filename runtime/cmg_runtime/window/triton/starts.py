"""Windows cut out of a pool, as one kernel: see :mod:`cmg_runtime.window.plain.starts`."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Optional

import torch
import triton
import triton.language as tl

from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.pool import TrajectoryPool
from cmg_runtime.window.triton.append_kernels import row_of
from cmg_runtime.window.triton.arguments import ramp_arguments, rows_arguments, selection_arguments
from cmg_runtime.window.triton.body_walk import heading, lerp, store_root, turn
from cmg_runtime.window.triton.changes import (
    MOTIONS_IGNORED,
    finite,
    position_at,
    store_position,
    yaw_of,
)

FRAMES = 8
TWO_PI = tl.constexpr(6.283185307179586)


class TritonPoolStarts(PoolStarts):
    """See :class:`cmg_runtime.window.plain.starts.PoolStarts`."""

    def start(
        self,
        pool: TrajectoryPool,
        envs: EnvSelection,
        trajectory_ids: torch.Tensor,
        frame_ids: torch.Tensor,
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
    ) -> None:
        buffers, n = self._buffers, envs.num_rows
        assert pool.commands is not None
        if n == 0:
            return
        # torch fetches the commands, so that a trajectory out of range fails its device-side assert.
        commands = pool.commands.index_select(0, trajectory_ids)
        with torch.cuda.device_of(buffers.ring):
            _start_windows[(n, -(-buffers.horizon // FRAMES))](
                **selection_arguments(envs, self._everyone),
                trajectory_ids=trajectory_ids.contiguous(),
                frame_ids=frame_ids.contiguous(),
                commands=commands,
                **rows_arguments("root_pos", root_pos),
                **rows_arguments("root_rot", root_rot),
                pool_rows=pool.rows,
                ring=buffers.ring,
                head=buffers.head,
                current=buffers.current,
                newest_motion=buffers.newest_motion,
                newest_root=buffers.newest_root,
                next_command=buffers.next_command,
                placement=buffers.placement,
                ground=buffers.ground,
                fresh=buffers.fresh,
                **ramp_arguments(buffers.ramp),
                counts=self._counters.counts,
                clamped=pool.clamped,
                pool_frames=pool.num_frames,
                trajectories=pool.num_trajectories,
                columns=buffers.ring.shape[1],
                HORIZON=buffers.horizon,
                D=self._layout.motion_dim,
                ROOT=self._layout.root_pos,
                ROOT_END=self._layout.key_body_pos,
                W=self._layout.width,
                WIDTH=triton.next_power_of_2(self._layout.width),
                FRAMES=FRAMES,
                num_warps=4,
            )


@triton.jit(
    do_not_specialize=["root_pos_stride", "root_rot_stride", "pool_frames", "trajectories", "columns"],
    do_not_specialize_on_alignment=["root_pos", "root_rot"],
)
def _start_windows(
    ids,  # [n] int64, or None: row i is environment i
    mask,  # [n] bool, or None: all of them
    trajectory_ids,  # [n] int64
    frame_ids,  # [n] int64
    commands,  # [n, 3] float32, of each trajectory
    root_pos,  # [n, 3] float32, rows root_pos_stride apart, or None: as last given
    root_pos_stride,
    root_rot,  # [n, 4] float32, or None: as last given
    root_rot_stride,
    pool_rows,  # [pool_frames, trajectories, W] float32
    ring,  # out: [HORIZON, columns, W]
    head,  # [columns] int64
    current,  # out: [columns, D]
    newest_motion,  # out: [columns, D]
    newest_root,  # out: [columns, 4]
    next_command,  # out: [columns, 3]
    placement,  # in or out: [columns, 4]
    ground,  # out: [columns]
    fresh,  # out: [columns] bool
    ramp_initial,  # out: [columns, 3] each, and elapsed [columns]
    ramp_target,
    ramp_elapsed,
    counts,  # in and out: int64, in cmg_runtime.window.report.ORDER
    clamped,  # in and out: [] int64
    pool_frames,
    trajectories,
    columns,
    ramp_frames,
    HORIZON: tl.constexpr,
    RAMP: tl.constexpr,
    D: tl.constexpr,
    ROOT: tl.constexpr,
    ROOT_END: tl.constexpr,
    W: tl.constexpr,
    WIDTH: tl.constexpr,
    FRAMES: tl.constexpr,
):
    if mask is not None:  # noqa: SIM102 (Triton would load in any case)
        if tl.load(mask + tl.program_id(0)) == 0:
            return  # of thousands of environments a few begin
    # One lane a frame; what is the environment's is alike in all of them.
    offset = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)
    row = tl.program_id(0).to(tl.int64) + offset * 0
    column = row
    if ids is not None:
        column = tl.load(ids + row)
    chosen = offset < HORIZON
    # What is read here, no program writes: what is not given stays.
    last = placement + column * 4
    if root_pos is not None:
        x, y, z = position_at(root_pos + row * root_pos_stride, chosen)
    else:
        x, y, z = position_at(last, chosen)
    usable = finite(x) & finite(y) & finite(z)
    if root_rot is not None:
        yaw, upright = yaw_of(root_rot + row * root_rot_stride, chosen)
        usable = usable & upright
    else:
        yaw = tl.load(last + 3, mask=chosen, other=0.0)
    there = chosen & usable
    wanted = tl.load(frame_ids + row)
    first = tl.minimum(tl.maximum(wanted, 0), pool_frames - HORIZON)

    source = pool_rows + tl.load(trajectory_ids + row) * W
    origin = source + first * trajectories * W + ROOT
    angle = yaw - heading(tl.load(origin + 3), tl.load(origin + 6))
    rows = source + (first + offset) * trajectories * W
    target = ring + row_of(head, column, chosen, offset, HORIZON, columns).to(tl.int64) * W
    lanes = tl.arange(0, WIDTH)
    values = tl.load(rows[:, None] + lanes[None, :], mask=there[:, None] & (lanes < W)[None, :], other=0.0)
    beside = (lanes < ROOT) | ((lanes >= ROOT_END) & (lanes < W))
    tl.store(target[:, None] + lanes[None, :], values, mask=there[:, None] & beside[None, :])
    motion, oldest, newest = (lanes < D)[None, :], there & (offset == 0), there & (offset == HORIZON - 1)
    tl.store((current + column * D)[:, None] + lanes[None, :], values, mask=oldest[:, None] & motion)
    tl.store((newest_motion + column * D)[:, None] + lanes[None, :], values, mask=newest[:, None] & motion)

    root = rows + ROOT
    px, py = tl.load(root, mask=there, other=0.0), tl.load(root + 1, mask=there, other=0.0)
    px, py = turn(px - tl.load(origin), py - tl.load(origin + 1), angle)
    px, py, pz = px + x, py + y, tl.load(root + 2, mask=there, other=0.0) + z
    headings = heading(tl.load(root + 3, mask=there, other=1.0), tl.load(root + 6, mask=there, other=0.0)) + angle
    headings -= TWO_PI * tl.floor(headings / TWO_PI + 0.5)
    vx, vy = turn(tl.load(root + 7, mask=there, other=0.0), tl.load(root + 8, mask=there, other=0.0), angle)
    vz, rate = tl.load(root + 9, mask=there, other=0.0), tl.load(root + 12, mask=there, other=0.0)
    store_root(target + ROOT, there, px, py, pz, headings, vx, vy, vz, rate)
    state = newest_root + column * 4
    tl.store(state, px, mask=newest)
    tl.store(state + 1, py, mask=newest)
    tl.store(state + 2, pz, mask=newest)
    tl.store(state + 3, headings, mask=newest)

    tl.atomic_add(counts + MOTIONS_IGNORED + row * 0, 1, mask=chosen & (usable == 0) & (offset == 0))
    tl.atomic_add(clamped + row * 0, 1, mask=oldest & (first != wanted))
    if root_pos is not None:
        store_position(last, x, y, z, oldest)
        tl.store(ground + column, z, mask=oldest)
    if root_rot is not None:
        tl.store(last + 3, yaw, mask=oldest)
    tl.store(fresh + column, usable == 0, mask=oldest)
    tl.store(ramp_elapsed + column, first.to(tl.float32), mask=oldest)
    for entry in tl.static_range(3):
        command = tl.load(commands + row * 3 + entry)
        following = command
        if RAMP:
            share = tl.minimum((first + HORIZON).to(tl.float32) / ramp_frames, 1.0)
            following = lerp(command * 0, command, share)
        tl.store(ramp_initial + column * 3 + entry, command * 0, mask=oldest)
        tl.store(ramp_target + column * 3 + entry, command, mask=oldest)
        tl.store(next_command + column * 3 + entry, following, mask=oldest)
