"""Queries at times between frames as one kernel: see :mod:`cmg_runtime.window.plain.queries`.

A query reads two rows and writes some as many floats as one has. 20 x 4096 queries of 100 floats each are 66 MB read
and 33 MB written, which an H200 moves in 25 us; next to that the host's time for a launch and seven new tensors counts.
One warp has 8 queries: lanes side by side on the floats of one row after the other, then a lane for each query's root.
"""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Sequence

import torch
import triton
import triton.language as tl

from cmg_runtime.window.plain import queries
from cmg_runtime.window.plain.queries import FrameQueries, MotionFrames, MotionRows
from cmg_runtime.window.triton.body_walk import lerp, sin_cos, turn
from cmg_runtime.window.triton.changes import add_count, finite, store_position

QUERIES, LANES = 8, 32
ON_A_FRAME, ROUNDING = tl.constexpr(queries.ON_A_FRAME), tl.constexpr(queries.ROUNDING)


class TritonFrameQueries(FrameQueries):
    """See :class:`cmg_runtime.window.plain.queries.FrameQueries`."""

    def __init__(self, motions: MotionRows, joints: Sequence[int], bodies: Sequence[int], fps: float) -> None:
        super().__init__(motions, joints, bodies, fps)
        layout = motions.layout
        first = layout.key_body_pos + 3 * self._bodies  # of a body's three floats in a row
        floats = torch.where(self._bodies < 0, -3, first).unsqueeze(1) + torch.arange(3, device=first.device)
        self._body_floats = floats.flatten()  # negative for a body that rows do not have

    def answer(self, ids: torch.Tensor, times: torch.Tensor) -> MotionFrames:
        motions, n = self._motions, len(ids)
        widths = (3, 4, 3, 3, len(self._joints), len(self._joints))
        fields = [times.new_empty(n, width) for width in widths]
        out = MotionFrames(*fields, times.new_empty(n, len(self._bodies), 3))
        if n == 0:
            return out
        with torch.cuda.device_of(times):
            _answer[(triton.cdiv(n, QUERIES),)](
                ids=ids.contiguous(),
                times=times.contiguous(),
                rows=motions.rows,
                # torch fetches these, so that an id out of range fails its device-side assert.
                heads=motions.head.index_select(0, ids),
                clock=motions.clock,
                origin=motions.origin,
                way=self._way,
                joints=self._joints,
                body_floats=self._body_floats,
                counts=self.counts,
                **out._asdict(),
                n=n,
                last=self._last,
                columns=motions.rows.shape[1],
                fps=self._fps,
                JOINTS=motions.layout.num_joints,
                ROOT=motions.layout.root_pos,
                W=motions.layout.width,
                DOFS=len(self._joints),
                BODY_FLOATS=len(self._body_floats),
                QUERIES=QUERIES,
                LANES=LANES,
                num_warps=1,
            )
        return out


@triton.jit
def position_of(time, clock, fps):
    """Where ``time`` [N], s, is: in frames after ``clock`` [N], whole where it is on a frame; and whether it is finite;
    0 stands for others."""
    frame = time * fps
    position = frame - clock
    known = finite(position)
    position = tl.where(known, position, 0.0)
    nearest = tl.floor(position + 0.5)
    close = tl.abs(position - nearest) < ON_A_FRAME + ROUNDING * tl.abs(frame)
    return tl.where(close, nearest, position), known


@triton.jit
def _row(head, frame, last, columns):
    """The row [N] of the ``frame``-th, 0 to ``last``, from ``head`` on."""
    row, end = head + frame * columns, (last + 1).to(tl.int64) * columns
    return tl.where(row >= end, row - end, row)


@triton.jit
def _between(one, other, weight, there):
    """The float at ``one`` [N] blended with that at ``other``."""
    return lerp(tl.load(one, mask=there, other=0.0), tl.load(other, mask=there, other=0.0), weight)


@triton.jit
def _locate(query, there, ids, times, heads, rows, clock, way, last, columns, fps, W: tl.constexpr):
    """Of queries [N]: the motion, the position in frames, and whether it is finite; how often the motion began again
    before; the rows before and after, and the weight of the second."""
    motion = tl.load(ids + query, mask=there, other=0)
    start = tl.zeros_like(motion).to(tl.float32)
    if clock is not None:
        start = tl.load(clock + motion, mask=there, other=0.0)
    asked, known = position_of(tl.load(times + query, mask=there, other=0.0), start, fps)
    end = tl.zeros_like(asked) + last
    position = tl.maximum(asked, 0.0)
    loops = tl.zeros_like(position)
    if way is not None:
        # Rounded as IEEE has it: a motion's very end is not yet the next one's beginning.
        loops = tl.maximum(tl.ceil(tl.div_rn(position, end)) - 1, 0.0)
        position -= loops * end
    position = tl.minimum(tl.maximum(position, 0.0), end)
    before = tl.floor(position)
    head = tl.load(heads + query, mask=there, other=0)
    one = rows + _row(head, before.to(tl.int64), last, columns) * W
    other = rows + _row(head, tl.ceil(position).to(tl.int64), last, columns) * W
    return motion, asked, known, loops, one, other, position - before


@triton.jit
def _blend_floats(out, query, lane, one, other, weight, there, sources, skip, COUNT: tl.constexpr, LANES: tl.constexpr):
    """COUNT floats of each row, the ``skip``-th after where ``sources`` [COUNT] says, into ``out`` [n, COUNT]."""
    for first in range(0, COUNT, LANES):
        inside = there & (first + lane < COUNT)
        source = tl.load(sources + first + lane, mask=inside, other=-1)
        value = _between(one + skip + source, other + skip + source, weight, inside & (source >= 0))
        value = tl.where(source >= 0, value, float("nan"))
        tl.store(out + query * COUNT + first + lane, value, mask=inside)


@triton.jit(do_not_specialize=["n", "last", "columns"], do_not_specialize_on_alignment=["ids", "times"])
def _answer(
    ids,  # [n] int64
    times,  # [n] float32, s
    rows,  # [last + 1, columns, W] float32
    heads,  # [n] int64: the row of each motion's frame 0
    clock,  # [num_motions] float32, or None: 0
    origin,  # [num_motions, 3] float32, or None: 0
    way,  # [num_motions, 3] float32, or None: motions do not repeat
    joints,  # [DOFS] int64
    body_floats,  # [BODY_FLOATS] int64, negative for what rows do not have
    counts,  # in and out: [3] int64
    root_pos,  # out: [n, 3] float32
    root_rot,  # out: [n, 4]
    root_vel,  # out: [n, 3]
    root_ang_vel,  # out: [n, 3]
    dof_pos,  # out: [n, DOFS]
    dof_vel,  # out: [n, DOFS]
    local_body_pos,  # out: [n, BODY_FLOATS]
    n,
    last,
    columns,
    fps,
    JOINTS: tl.constexpr,
    ROOT: tl.constexpr,
    W: tl.constexpr,
    DOFS: tl.constexpr,
    BODY_FLOATS: tl.constexpr,
    QUERIES: tl.constexpr,
    LANES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * QUERIES
    # Lanes side by side on the floats of a row, all of them with what is the query's.
    index = tl.arange(0, QUERIES * LANES)
    query, lane = block + index // LANES, index % LANES
    there = query < n
    _, _, _, _, one, other, weight = _locate(query, there, ids, times, heads, rows, clock, way, last, columns, fps, W)
    _blend_floats(dof_pos, query, lane, one, other, weight, there, joints, 0, DOFS, LANES)
    _blend_floats(dof_vel, query, lane, one, other, weight, there, joints, JOINTS, DOFS, LANES)
    _blend_floats(local_body_pos, query, lane, one, other, weight, there, body_floats, 0, BODY_FLOATS, LANES)

    query = block + tl.arange(0, QUERIES)  # a lane each
    there = query < n
    motion, asked, known, loops, one, other, weight = _locate(
        query, there, ids, times, heads, rows, clock, way, last, columns, fps, W
    )
    add_count(counts, there & (asked < 0))
    add_count(counts + 1, there & (asked > last))
    add_count(counts + 2, there & (known == 0))
    one, other = one + ROOT, other + ROOT
    x, y = _between(one, other, weight, there), _between(one + 1, other + 1, weight, there)
    z = _between(one + 2, other + 2, weight, there)
    cos, sin = tl.load(one + 3, mask=there, other=1.0), tl.load(one + 6, mask=there, other=0.0)
    next_cos, next_sin = tl.load(other + 3, mask=there, other=1.0), tl.load(other + 6, mask=there, other=0.0)
    side = tl.where(cos * next_cos + sin * next_sin < 0, -1.0, 1.0)
    cos, sin = lerp(cos, side * next_cos, weight), lerp(sin, side * next_sin, weight)
    length = tl.sqrt(cos * cos + sin * sin)
    cos, sin = cos / length, sin / length
    vx, vy = _between(one + 7, other + 7, weight, there), _between(one + 8, other + 8, weight, there)
    vz = _between(one + 9, other + 9, weight, there)
    if way is not None:
        half = tl.load(way + motion * 3 + 2, mask=there, other=0.0)
        dx, dy = tl.load(way + motion * 3, mask=there, other=0.0), tl.load(way + motion * 3 + 1, mask=there, other=0.0)
        turned, _ = sin_cos(loops * half)
        once, _ = sin_cos(half)
        straight = tl.abs(once) < 1e-6
        ratio = tl.where(straight, loops, turned / tl.where(straight, 1.0, once))
        dx, dy = turn(ratio * dx, ratio * dy, loops * half - half)
        x, y, cos, sin, vx, vy = _placed(x, y, cos, sin, vx, vy, dx, dy, loops * half)
    if origin is not None:
        dx = tl.load(origin + motion * 3, mask=there, other=0.0)
        dy = tl.load(origin + motion * 3 + 1, mask=there, other=0.0)
        half = tl.load(origin + motion * 3 + 2, mask=there, other=0.0) / 2
        x, y, cos, sin, vx, vy = _placed(x, y, cos, sin, vx, vy, dx, dy, half)
    store_position(root_pos + query * 3, x, y, z, there)
    store_position(root_vel + query * 3, vx, vy, vz, there)
    store_position(root_rot + query * 4, tl.zeros_like(x), tl.zeros_like(x), sin, there)
    tl.store(root_rot + query * 4 + 3, cos, mask=there)
    wx, wy = _between(one + 10, other + 10, weight, there), _between(one + 11, other + 11, weight, there)
    store_position(root_ang_vel + query * 3, wx, wy, _between(one + 12, other + 12, weight, there), there)


@triton.jit
def _placed(x, y, cos, sin, vx, vy, dx, dy, half_yaw):
    """A root turned about the world's origin by twice ``half_yaw``, then moved by (dx, dy). Its orientation is that of
    the quaternion (cos, 0, 0, sin)."""
    x, y = turn(x, y, 2 * half_yaw)
    vx, vy = turn(vx, vy, 2 * half_yaw)
    cos, sin = turn(cos, sin, half_yaw)
    return x + dx, y + dy, cos, sin, vx, vy
