"""The changes of callers as one kernel, the first of the rebuild that follows: see
:mod:`cmg_runtime.window.plain.changes`."""

# A launch passes a kernel's arguments and its own options, which Python's checkers do not tell apart; what is inside
# kernels is Triton's language.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import functools
from typing import List, Optional

import torch
import triton
import triton.language as tl

from cmg_runtime.device.graphs import Piece
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.report import ORDER, Counters
from cmg_runtime.window.state import EngineState, WindowBuffers
from cmg_runtime.window.triton.arguments import FLAGS, GivenChange, ramp_arguments
from cmg_runtime.window.triton.body_walk import arctan2, lerp

ROWS = 16
OTHERS = 64
COMMANDS_CLAMPED = tl.constexpr(ORDER.index("commands_clamped"))
ENTRIES_CLAMPED = tl.constexpr(ORDER.index("entries_clamped"))
COMMANDS_IGNORED = tl.constexpr(ORDER.index("commands_ignored"))
MOTIONS_IGNORED = tl.constexpr(ORDER.index("motions_ignored"))
NUM_FLAGS = tl.constexpr(len(FLAGS))
IDS, MASK, STATES = (tl.constexpr(FLAGS[name]) for name in ("ids", "mask", "states"))
MOTION, ROOT_POS = (tl.constexpr(FLAGS[name]) for name in ("motion", "root_pos"))
ROOT_ROT, COMMAND = (tl.constexpr(FLAGS[name]) for name in ("root_rot", "command"))


class TritonChanges(Changes):
    """See :class:`cmg_runtime.window.plain.changes.Changes`. What is given is put where the graphs expect it: a few
    copies, whatever it is, and no kernel is compiled after the graphs are recorded."""

    def __init__(self, state: EngineState, counters: Counters, buffers: Optional[WindowBuffers]) -> None:
        super().__init__(state, counters, buffers)
        sizes = state.current.shape[1], state.next_command.shape[1]
        self._given = GivenChange.of(state.guard.columns, state.draws.rows, *sizes)
        self._drawn = 0

    def pieces(self, ids: torch.Tensor) -> List[Piece]:
        return [Piece(functools.partial(self._launch, ids))]

    def columns(self, envs: EnvSelection) -> torch.Tensor:
        return self._state.guard.columns.new_empty(envs.num_rows)  # which the kernel writes

    def write_columns(self, envs: EnvSelection, ids: torch.Tensor) -> None:
        pass

    def draw(self, n: int) -> Optional[torch.Tensor]:
        self._drawn = self._state.draws.take(n)

    def nothing(self, envs: EnvSelection) -> None:
        self._given.put(envs, {})

    def reset(
        self,
        envs: EnvSelection,
        motions: Optional[torch.Tensor],
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
        commands: Optional[torch.Tensor],
    ) -> None:
        rows = {"motion": motions, "root_pos": root_pos, "root_rot": root_rot, "command": commands}
        self._given.put(envs, rows, self._drawn if motions is None else None)

    def set_command(self, envs: EnvSelection, commands: torch.Tensor) -> None:
        self._given.put(envs, {"command": commands})

    def _launch(self, ids: torch.Tensor) -> None:
        state, counters, buffers, given = self._state, self._counters, self._buffers, self._given
        ramp, guard = state.ramp, state.guard
        with torch.cuda.device_of(state.current):
            _change[(triton.cdiv(len(ids), ROWS),)](
                **given.arguments(),
                columns=ids,
                bank=guard.bank,
                low=guard.low,
                high=guard.high,
                command_low=counters.command_range[0],
                command_high=counters.command_range[1],
                current=state.current,
                placement=None if buffers is None else buffers.placement,
                ground=None if buffers is None else buffers.ground,
                fresh=None if buffers is None else buffers.fresh,
                **ramp_arguments(ramp),
                counts=counters.counts,
                size=len(ids),
                num_envs=state.num_envs,
                PLACE=buffers is not None,
                D=state.current.shape[1],
                WIDTH=triton.next_power_of_2(state.current.shape[1]),
                C=ramp.target.shape[1],
                COMMAND_WIDTH=triton.next_power_of_2(ramp.target.shape[1]),
                ROWS=ROWS,
                OTHERS=OTHERS,
                num_warps=4,
            )


@triton.jit
def finite(x):
    """Whether ``x`` is neither NaN nor infinite. Not by ``x - x``: where ``x`` is a product, that becomes a fused
    multiply-add, and gives what the product was rounded by."""
    return tl.abs(x) < float("inf")


@triton.jit
def position_at(place, there):
    """x, y, z [N] at ``place`` [N]."""
    x, y = tl.load(place, mask=there, other=0.0), tl.load(place + 1, mask=there, other=0.0)
    return x, y, tl.load(place + 2, mask=there, other=0.0)


@triton.jit
def store_position(place, x, y, z, there):
    """x, y, z [N] to ``place`` [N]."""
    tl.store(place, x, mask=there)
    tl.store(place + 1, y, mask=there)
    tl.store(place + 2, z, mask=there)


@triton.jit
def yaw_of(rot, there):
    """Yaw [N] of the quaternions (w, x, y, z) at ``rot`` [N], of any length, and whether they are finite."""
    w, x = tl.load(rot, mask=there, other=1.0), tl.load(rot + 1, mask=there, other=0.0)
    y, z = tl.load(rot + 2, mask=there, other=0.0), tl.load(rot + 3, mask=there, other=0.0)
    good = finite(w) & finite(x) & finite(y) & finite(z)
    longest = tl.maximum(tl.maximum(tl.abs(w), tl.abs(x)), tl.maximum(tl.abs(y), tl.abs(z)))
    longest = tl.maximum(longest, 1e-37)  # so that no square over- or underflows
    w, x, y, z = w / longest, x / longest, y / longest, z / longest
    return arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z), good


@triton.jit(do_not_specialize=["size", "num_envs"])
def _change(
    header,  # [] int64: rows that are given, which of the arguments below, and where states begin; see GivenChange
    ids,  # [num_envs] int64
    mask,  # [num_envs] bool
    states,  # [..] int64: rows of the bank
    motion,  # [num_envs, D] float32
    root_pos,  # [num_envs, 3]
    root_rot,  # [num_envs, 4]
    command,  # [num_envs, C]
    columns,  # out: [size] int64: the environment of each row; num_envs where there is none
    bank,  # [.., D] float32
    low,  # [D] float32: the guard's limits
    high,
    command_low,  # [C] float32: the command range
    command_high,
    current,  # out: [num_envs + 1, D], as what follows
    placement,  # out: [.., 4]
    ground,  # out: [..]
    fresh,  # out: [..] bool
    ramp_initial,  # in and out: [.., C] each, and elapsed [..]
    ramp_target,
    ramp_elapsed,
    counts,  # in and out: int64, in cmg_runtime.window.report.ORDER
    size,
    num_envs,
    ramp_frames,
    PLACE: tl.constexpr,
    RAMP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    C: tl.constexpr,
    COMMAND_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    OTHERS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    n = (tl.load(header) & 0xFFFFFFFF).to(tl.int32)
    given = (tl.load(header + row * 0) >> 32).to(tl.int32)  # alike in all rows
    there = row < n
    by_ids, by_mask = (given & IDS) != 0, (given & MASK) != 0
    column = tl.where(by_ids, tl.load(ids + row, mask=there & by_ids, other=0), row)
    there = there & (tl.load(mask + row, mask=there & by_mask, other=1) != 0)
    # Of an id that is given twice the last row counts: two at once would leave a mixture.
    later = tl.zeros([ROWS], tl.int32)
    named = tl.where(((tl.load(header) >> 32) & IDS) != 0, n, 0)
    for first in range(0, named, OTHERS):
        other = first + tl.arange(0, OTHERS)
        again = tl.load(ids + other, mask=other < n, other=-1)[None, :] == column[:, None]
        later += tl.sum((again & (other[None, :] > row[:, None])).to(tl.int32), axis=1)
    there = there & (later == 0)
    tl.store(columns + row, tl.where(there, column, num_envs), mask=row < size)

    drawn, with_command = (given & STATES) != 0, (given & COMMAND) != 0
    reset = there & ((given & (STATES | MOTION)) != 0)
    lanes = tl.arange(0, WIDTH)
    used = lanes < D
    inside = reset[:, None] & used[None, :]
    state = tl.load(states + (given >> NUM_FLAGS) + row, mask=reset & drawn, other=0)
    value = tl.load(motion + row[:, None] * D + lanes[None, :], mask=inside & (drawn == 0)[:, None], other=0.0)
    from_bank = tl.load(bank + state[:, None] * D + lanes[None, :], mask=inside & drawn[:, None], other=0.0)
    value = tl.where(drawn[:, None], from_bank, value)
    least, most = tl.load(low + lanes, mask=used, other=0.0), tl.load(high + lanes, mask=used, other=0.0)
    good = (value >= least[None, :]) & (value <= most[None, :])  # NaN is neither
    usable = tl.sum((inside & (good == 0)).to(tl.int32), axis=1) == 0
    if PLACE:
        placed, turned = reset & ((given & ROOT_POS) != 0), reset & ((given & ROOT_ROT) != 0)
        x, y, z = position_at(root_pos + row * 3, placed)
        yaw, upright = yaw_of(root_rot + row * 4, turned)
        usable = usable & finite(x) & finite(y) & finite(z) & upright
        store_position(placement + column * 4, x, y, z, placed & usable)
        tl.store(ground + column, z, mask=placed & usable)
        tl.store(placement + column * 4 + 3, yaw, mask=turned & usable)
        tl.store(fresh + column, usable, mask=reset)
    add_count(counts + MOTIONS_IGNORED, reset & (usable == 0))
    tl.store(current + column[:, None] * D + lanes[None, :], value, mask=inside & usable[:, None])

    entries = tl.arange(0, COMMAND_WIDTH)
    used = entries < C
    inside = there[:, None] & used[None, :]
    commanded = inside & with_command[:, None]
    places = column[:, None] * C + entries[None, :]
    initial = tl.load(ramp_initial + places, mask=inside, other=0.0)
    target = tl.load(ramp_target + places, mask=inside, other=0.0)
    wanted = tl.load(command + row[:, None] * C + entries[None, :], mask=commanded, other=0.0)
    usable = tl.sum((commanded & (finite(wanted) == 0)).to(tl.int32), axis=1) == 0
    add_count(counts + COMMANDS_IGNORED, there & (usable == 0))
    least = tl.load(command_low + entries, mask=used, other=0.0)
    most = tl.load(command_high + entries, mask=used, other=0.0)
    clamped = tl.minimum(tl.maximum(wanted, least[None, :]), most[None, :])
    commanded = commanded & usable[:, None]
    outside = tl.sum((commanded & (clamped != wanted)).to(tl.int32), axis=1)
    add_count(counts + COMMANDS_CLAMPED, outside > 0)
    total = tl.sum(outside, axis=0).to(tl.int64)
    tl.atomic_add(counts + ENTRIES_CLAMPED, total, mask=total > 0)
    restart = tl.sum((commanded & (clamped != target)).to(tl.int32), axis=1) > 0
    in_force = target
    if RAMP:
        elapsed = tl.load(ramp_elapsed + column, mask=there, other=0.0)
        in_force = lerp(initial, target, tl.minimum(elapsed / ramp_frames, 1.0)[:, None])
    initial = tl.where(restart[:, None], in_force, initial)
    target = tl.where(restart[:, None], clamped, target)
    tl.store(ramp_target + places, target, mask=inside)
    tl.store(ramp_elapsed + column, (row * 0).to(tl.float32), mask=restart)
    # In a reset the command, old or new, is in force at once.
    tl.store(ramp_initial + places, tl.where(reset[:, None], target, initial), mask=inside)


@triton.jit
def add_count(counter, true):
    """Add the number of True in ``true`` [N]."""
    number = tl.sum(true.to(tl.int64), axis=0)
    tl.atomic_add(counter, number, mask=number > 0)
