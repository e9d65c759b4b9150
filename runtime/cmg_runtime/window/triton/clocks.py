"""Motions that follow times, as two kernels: see :mod:`cmg_runtime.window.plain.clocks`.

The first finds each motion's smallest and largest time by atomics, the second has a lane for each motion. 20 x 4096
times are 1 MB to read and 160 000 atomics, a few microseconds.
"""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cmg_runtime.window.plain.clocks import MotionClocks
from cmg_runtime.window.plain.queries import MotionRows
from cmg_runtime.window.triton.body_walk import heading, turn
from cmg_runtime.window.triton.changes import add_count, finite, store_position
from cmg_runtime.window.triton.queries import position_of

LANES = 128
LEAST, MOST = -(1 << 31), (1 << 31) - 1


class TritonMotionClocks(MotionClocks):
    """See :class:`cmg_runtime.window.plain.clocks.MotionClocks`."""

    def __init__(self, motions: MotionRows, fps: float, most_steps: int, num_askers: int) -> None:
        super().__init__(motions, fps, most_steps, num_askers)
        # Between calls, as here: the second kernel leaves them so.
        self._earliest = torch.full_like(self._clock, MOST, dtype=torch.int32)
        self._latest = torch.full_like(self._clock, LEAST, dtype=torch.int32)
        self._everyone = torch.arange(len(self._clock), device=self.now.device)
        self._tally = torch.zeros(2, dtype=torch.int64, device=self.now.device)

    def follow(self, ids: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        motions, n, count = self.motions, len(ids), len(self._clock)
        with torch.cuda.device_of(self._clock):
            if n > 0:
                _bounds[(triton.cdiv(n, LANES),)](
                    # torch fetches these, so that an id out of range fails its device-side assert.
                    ids=self._everyone.index_select(0, ids),
                    times=times.contiguous(),
                    earliest=self._earliest,
                    latest=self._latest,
                    n=n,
                    fps=self._fps,
                    LANES=LANES,
                    num_warps=4,
                )
            _follow[(triton.cdiv(count, LANES),)](
                earliest=self._earliest,
                latest=self._latest,
                clock=self._clock,
                origin=self._origin,
                rows=motions.rows,
                head=motions.head,
                moving=self.moving,
                named=self.named,
                now=self.now,
                all_named=self.all_named,
                jumped=self.jumped,
                tally=self._tally,
                count=count,
                last=len(motions.rows) - 1,
                num_askers=self._num_askers,
                fps=self._fps,
                MOST_STEPS=len(self.moving),
                ROOT=motions.layout.root_pos,
                W=motions.layout.width,
                LEAST=LEAST,
                MOST=MOST,
                LANES=LANES,
                num_warps=4,
            )
        return self.moving


@triton.jit
def _key(bits):
    """Of a float's bits an int32, in the order of the floats; and of that the bits again."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["ids", "times"])
def _bounds(
    ids,  # [n] int64
    times,  # [n] float32, s
    earliest,  # in and out: [count] int32 keys of times
    latest,
    n,
    fps,
    LANES: tl.constexpr,
):
    """Each motion's smallest and largest time."""
    query = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = query < n
    motion = tl.load(ids + query, mask=there, other=0)
    time = tl.load(times + query, mask=there, other=0.0)
    there = there & finite(time * fps)
    key = _key(time.to(tl.int32, bitcast=True))
    tl.atomic_min(earliest + motion, key, mask=there, sem="relaxed")
    tl.atomic_max(latest + motion, key, mask=there, sem="relaxed")


@triton.jit(do_not_specialize=["count", "last", "num_askers"])
def _follow(
    earliest,  # in, and out: [count] int32 keys of times; MOST where there is none
    latest,  # LEAST where there is none
    clock,  # in and out: [count] float32
    origin,  # out: [count, 3] float32
    rows,  # [last + 1, columns, W] float32
    head,  # [count] int64, rows of the current frames
    moving,  # out: [MOST_STEPS, count] bool
    named,  # out: [count] int64
    now,  # in and out: [] int64
    all_named,  # out: [] int64
    jumped,  # in and out: [] int64
    tally,  # [2] int64: motions named, and programs that are done; 0 before and after
    count,
    last,
    num_askers,
    fps,
    MOST_STEPS: tl.constexpr,
    ROOT: tl.constexpr,
    W: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    LANES: tl.constexpr,
):
    motion = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = motion < count
    low = tl.load(earliest + motion, mask=there, other=MOST)
    high = tl.load(latest + motion, mask=there, other=LEAST)
    tl.store(earliest + motion, tl.zeros_like(low) + MOST, mask=there)
    tl.store(latest + motion, tl.zeros_like(high) + LEAST, mask=there)
    asked = low <= high
    first = tl.where(asked, _key(low).to(tl.float32, bitcast=True), 0.0)
    before = tl.load(clock + motion, mask=there, other=0.0)
    known = before == before
    current = tl.where(known, before, 0.0)
    soonest, _ = position_of(first, current, fps)
    furthest, _ = position_of(tl.where(asked, _key(high).to(tl.float32, bitcast=True), 0.0), current, fps)
    beginning, _ = position_of(first, tl.zeros_like(first), fps)

    wanted = tl.where(asked, tl.minimum(tl.ceil(furthest) - last, tl.floor(soonest)), 0.0)
    backward = asked & known & (soonest < 0)
    leaps = backward | (asked & known & (wanted > MOST_STEPS))
    begun = leaps | (asked & (known == 0))
    due = tl.where(begun, 0.0, tl.minimum(tl.maximum(wanted, 0.0), MOST_STEPS))
    tl.store(clock + motion, tl.where(begun, beginning, current + due), mask=there & asked)
    for step in tl.static_range(MOST_STEPS):
        tl.store(moving + step * count + motion, due > step, mask=there)

    root = rows + tl.load(head + motion, mask=there, other=0) * W + ROOT
    x, y = tl.load(root, mask=backward, other=0.0), tl.load(root + 1, mask=backward, other=0.0)
    yaw = heading(tl.load(root + 3, mask=backward, other=1.0), tl.load(root + 6, mask=backward, other=0.0))
    x, y = turn(-x, -y, -yaw)
    store_position(origin + motion * 3, x, y, -yaw, backward)

    time = tl.load(now) + 1
    tl.store(named + motion, tl.zeros_like(motion) + time, mask=there & asked)
    add_count(jumped, there & leaps)
    add_count(tally, there & asked)
    tl.debug_barrier()  # every thread has read the time, and counted
    if tl.atomic_add(tally + 1, 1) == tl.num_programs(0) - 1:  # the last program to be done
        tl.store(tally + 1, 0)
        tl.store(now, time)
        if tl.atomic_xchg(tally, 0) >= num_askers:
            tl.store(all_named, time)
