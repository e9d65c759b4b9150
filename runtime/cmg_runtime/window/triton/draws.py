"""Draws of motions as two kernels: see :mod:`cmg_runtime.window.plain.draws`.

The first gives each motion its key. The second counts for each the smaller keys, which is its place in the order, and
begins those that are drawn: of 8192 motions 67 million comparisons.
"""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl

from cmg_runtime.window.plain.clocks import MotionClocks
from cmg_runtime.window.plain.draws import MotionDraws, Weights
from cmg_runtime.window.triton.changes import finite, store_position

LANES = 32
OTHERS = 128

MOST_MOTIONS = 16384
"""Comparisons grow with the square: of more motions, plain torch draws."""


class TritonMotionDraws(MotionDraws):
    """See :class:`cmg_runtime.window.plain.draws.MotionDraws`."""

    def __init__(self, clocks: MotionClocks, commands: torch.Tensor, rank: torch.Tensor, num_askers: int) -> None:
        super().__init__(clocks, commands.contiguous(), rank, num_askers)
        self._keys_now = torch.zeros_like(rank)

    def draw(
        self, n: int, waiting: torch.Tensor, weights: Weights, askers: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        count = len(self._rank)
        if count > MOST_MOTIONS:
            return super().draw(n, waiting, weights, askers)
        clocks, held, difficulty = self._clocks, self.motion_of_asker, weights.difficulty
        motions, commands = held.new_empty(n), self._commands.new_empty(n, self._commands.shape[1])
        # torch fetches what askers have, so that one out of range fails its device-side assert.
        given_back = None if askers is None else held.index_select(0, askers)
        with torch.cuda.device_of(held):
            _keys[(triton.cdiv(count, LANES),)](
                waiting=waiting,
                difficulty=clocks.motions.clock if difficulty is None else difficulty,
                rank=self._rank,
                named=clocks.named,
                all_named=clocks.all_named,
                held=held,
                given_back=held if given_back is None else given_back,
                keys=self._keys_now,
                now=clocks.now,
                count=count,
                num_weights=0 if difficulty is None else count,
                num_easy=weights.num_easy,
                num_held=0 if given_back is None else len(held),
                num_given_back=0 if given_back is None else n,
                ID_BITS=self._id_bits,
                LANES=LANES,
                OTHERS=OTHERS,
                num_warps=8,
            )
            _begin[(triton.cdiv(count, LANES),)](
                keys=self._keys_now,
                own_commands=self._commands,
                askers=held if askers is None else askers.contiguous(),
                now=clocks.now,
                motions=motions,
                commands=commands,
                named=clocks.named,
                clock=clocks.motions.clock,
                origin=clocks.motions.origin,
                held=held,
                count=count,
                n=n,
                num_askers=0 if askers is None else n,
                C=self._commands.shape[1],
                MOST=(1 << 63) - 1,
                LANES=LANES,
                OTHERS=OTHERS,
                num_warps=8,
            )
        return motions, commands


@triton.jit
def _is_among(motion, some, number, LANES: tl.constexpr, OTHERS: tl.constexpr):
    """Whether each of ``motion`` [LANES] int32 is one of the ``number`` at ``some``."""
    found = tl.zeros([LANES, OTHERS], tl.int32)
    for first in range(0, number, OTHERS):
        place = first + tl.arange(0, OTHERS)
        other = tl.load(some + place, mask=place < number, other=-1).to(tl.int32)
        found += (other[None, :] == motion[:, None]).to(tl.int32)
    return tl.sum(found, axis=1) > 0


@triton.jit(
    do_not_specialize=["count", "num_weights", "num_easy", "num_held", "num_given_back"],
    do_not_specialize_on_alignment=["difficulty", "given_back"],
)
def _keys(
    waiting,  # [count] float64
    difficulty,  # [num_weights] float32: of the first so many motions; of all others the weight is 1
    rank,  # [count] int64
    named,  # [count] int64
    all_named,  # [] int64
    held,  # [num_held] int64: the motions that askers have
    given_back,  # [num_given_back] int64: of these, those of who asks now
    keys,  # out: [count] int64
    now,  # in and out: [] int64
    count,
    num_weights,
    num_easy,
    num_held,
    num_given_back,
    ID_BITS: tl.constexpr,
    LANES: tl.constexpr,
    OTHERS: tl.constexpr,
):
    motion = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = motion < count
    place = tl.load(rank + motion, mask=there, other=0)
    weight = tl.load(difficulty + motion, mask=motion < num_weights, other=1.0)
    weight = tl.where(finite(weight) & (weight > 0) & (place < num_easy), weight, 0.0).to(tl.float64)
    chosen = weight > 0
    wait = tl.load(waiting + motion, mask=there, other=1.0) / tl.where(chosen, weight, 1.0)
    by_weight = ((wait.to(tl.int64, bitcast=True) >> (3 + ID_BITS)) << ID_BITS) + motion
    stamp = tl.load(named + motion, mask=there, other=0)
    is_free = stamp < tl.load(all_named)
    anothers = _is_among(motion, held, num_held, LANES, OTHERS)
    anothers = anothers & (_is_among(motion, given_back, num_given_back, LANES, OTHERS) == 0)
    kind = tl.where(is_free, tl.where(chosen, 0, 1) + tl.where(anothers, 2, 0), tl.where(anothers, 5, 4))
    within = tl.where(is_free, tl.where(chosen, by_weight, place), (stamp + count) * count + motion)
    tl.store(keys + motion, (kind.to(tl.int64) << 60) + within, mask=there)
    if tl.program_id(0) == 0:
        tl.store(now, tl.load(now) + 1)


@triton.jit(do_not_specialize=["count", "n", "num_askers"], do_not_specialize_on_alignment=["askers"])
def _begin(
    keys,  # [count] int64
    own_commands,  # [count, C] float32
    askers,  # [num_askers] int64
    now,  # [] int64
    motions,  # out: [n] int64
    commands,  # out: [n, C] float32
    named,  # out: [count] int64, as what follows only of the motions that are drawn
    clock,  # out: [count] float32
    origin,  # out: [count, 3] float32
    held,  # out: int64, of the askers
    count,
    n,
    num_askers,
    C: tl.constexpr,
    MOST: tl.constexpr,
    LANES: tl.constexpr,
    OTHERS: tl.constexpr,
):
    motion = (tl.program_id(0) * LANES + tl.arange(0, LANES)).to(tl.int64)
    there = motion < count
    key = tl.load(keys + motion, mask=there, other=MOST)[:, None]
    before = tl.zeros([LANES, OTHERS], tl.int32)
    for first in range(0, count, OTHERS):
        other = first + tl.arange(0, OTHERS)
        others = tl.load(keys + other, mask=other < count, other=MOST)[None, :]
        before += (others < key).to(tl.int32)
    place = tl.sum(before, axis=1).to(tl.int64)
    drawn = there & (place < n)
    tl.store(motions + place, motion, mask=drawn)
    for entry in tl.static_range(C):
        value = tl.load(own_commands + motion * C + entry, mask=drawn, other=0.0)
        tl.store(commands + place * C + entry, value, mask=drawn)
    tl.store(named + motion, tl.zeros_like(motion) + tl.load(now), mask=drawn)
    none = tl.zeros([LANES], tl.float32)
    tl.store(clock + motion, none + float("nan"), mask=drawn)
    store_position(origin + motion * 3, none, none, none, drawn)
    asked = drawn & (place < num_askers)
    asker = tl.load(askers + place, mask=asked, other=0)
    tl.store(held + asker, motion, mask=asked)
