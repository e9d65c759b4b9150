"""The changes of callers as one kernel: see :mod:`cmg_runtime.window.plain.changes`."""

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
from cmg_runtime.window.plain.changes import Changes
from cmg_runtime.window.report import ORDER
from cmg_runtime.window.triton.arguments import ramp_arguments, rows_arguments, selection_arguments
from cmg_runtime.window.triton.body_walk import arctan2, lerp

ROWS = 16
COMMANDS_CLAMPED = tl.constexpr(ORDER.index("commands_clamped"))
ENTRIES_CLAMPED = tl.constexpr(ORDER.index("entries_clamped"))
COMMANDS_IGNORED = tl.constexpr(ORDER.index("commands_ignored"))
MOTIONS_IGNORED = tl.constexpr(ORDER.index("motions_ignored"))


class TritonChanges(Changes):
    """See :class:`cmg_runtime.window.plain.changes.Changes`."""

    def reset(
        self,
        envs: EnvSelection,
        motions: torch.Tensor,
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
        commands: Optional[torch.Tensor],
    ) -> None:
        self._launch(envs, motions, root_pos, root_rot, commands)

    def set_command(self, envs: EnvSelection, commands: torch.Tensor) -> None:
        self._launch(envs, None, None, None, commands)

    def _launch(
        self,
        envs: EnvSelection,
        motions: Optional[torch.Tensor],
        root_pos: Optional[torch.Tensor],
        root_rot: Optional[torch.Tensor],
        commands: Optional[torch.Tensor],
    ) -> None:
        state, counters, buffers = self._state, self._counters, self._buffers
        n, ramp, guard = envs.num_rows, state.ramp, state.guard
        if n == 0:
            return
        with torch.cuda.device_of(state.current):
            _change[(triton.cdiv(n, ROWS),)](
                **selection_arguments(envs, guard.columns),
                **rows_arguments("motion", motions),
                **rows_arguments("root_pos", root_pos),
                **rows_arguments("root_rot", root_rot),
                **rows_arguments("command", commands),
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
                n=n,
                RESET=motions is not None,
                PLACE=motions is not None and buffers is not None,
                COMMAND=commands is not None,
                D=state.current.shape[1],
                WIDTH=triton.next_power_of_2(state.current.shape[1]),
                C=ramp.target.shape[1],
                COMMAND_WIDTH=triton.next_power_of_2(ramp.target.shape[1]),
                ROWS=ROWS,
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


@triton.jit(
    do_not_specialize=["motion_stride", "root_pos_stride", "root_rot_stride", "command_stride", "n"],
    do_not_specialize_on_alignment=["motion", "root_pos", "root_rot", "command"],
)
def _change(
    ids,  # [n] int64, or None: row i is environment i
    mask,  # [n] bool, or None: all of them
    motion,  # [n, D] float32, rows motion_stride apart
    motion_stride,
    root_pos,  # [n, 3], or None: as last given
    root_pos_stride,
    root_rot,  # [n, 4], or None: as last given
    root_rot_stride,
    command,  # [n, C]
    command_stride,
    low,  # [D] float32: the guard's limits
    high,
    command_low,  # [C] float32: the command range
    command_high,
    current,  # out: [columns, D]
    placement,  # out: [columns, 4]
    ground,  # out: [columns]
    fresh,  # out: [columns] bool
    ramp_initial,  # in and out: [columns, C] each, and elapsed [columns]
    ramp_target,
    ramp_elapsed,
    counts,  # in and out: int64, in cmg_runtime.window.report.ORDER
    n,
    ramp_frames,
    RESET: tl.constexpr,
    PLACE: tl.constexpr,
    COMMAND: tl.constexpr,
    RAMP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    C: tl.constexpr,
    COMMAND_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    there = row < n
    column = row
    if ids is not None:
        column = tl.load(ids + row, mask=there, other=0)
    if mask is not None:
        there = there & (tl.load(mask + row, mask=there, other=0) != 0)
    if RESET:
        lanes = tl.arange(0, WIDTH)
        used = lanes < D
        inside = there[:, None] & used[None, :]
        value = tl.load(motion + row[:, None] * motion_stride + lanes[None, :], mask=inside, other=0.0)
        least, most = tl.load(low + lanes, mask=used, other=0.0), tl.load(high + lanes, mask=used, other=0.0)
        good = (value >= least[None, :]) & (value <= most[None, :])  # NaN is neither
        usable = tl.sum((inside & (good == 0)).to(tl.int32), axis=1) == 0
        if PLACE:
            if root_pos is not None:
                x, y, z = position_at(root_pos + row * root_pos_stride, there)
                usable = usable & finite(x) & finite(y) & finite(z)
            if root_rot is not None:
                yaw, upright = yaw_of(root_rot + row * root_rot_stride, there)
                usable = usable & upright
            put = there & usable
            if root_pos is not None:
                store_position(placement + column * 4, x, y, z, put)
                tl.store(ground + column, z, mask=put)
            if root_rot is not None:
                tl.store(placement + column * 4 + 3, yaw, mask=put)
            tl.store(fresh + column, usable, mask=there)
        add_count(counts + MOTIONS_IGNORED, there & (usable == 0))
        tl.store(current + column[:, None] * D + lanes[None, :], value, mask=inside & usable[:, None])
    if COMMAND or RESET:
        entries = tl.arange(0, COMMAND_WIDTH)
        used = entries < C
        inside = there[:, None] & used[None, :]
        places = column[:, None] * C + entries[None, :]
        initial = tl.load(ramp_initial + places, mask=inside, other=0.0)
        target = tl.load(ramp_target + places, mask=inside, other=0.0)
        if COMMAND:
            given = tl.load(command + row[:, None] * command_stride + entries[None, :], mask=inside, other=0.0)
            usable = tl.sum((inside & (finite(given) == 0)).to(tl.int32), axis=1) == 0
            add_count(counts + COMMANDS_IGNORED, there & (usable == 0))
            least = tl.load(command_low + entries, mask=used, other=0.0)
            most = tl.load(command_high + entries, mask=used, other=0.0)
            clamped = tl.minimum(tl.maximum(given, least[None, :]), most[None, :])
            outside = tl.sum((inside & usable[:, None] & (clamped != given)).to(tl.int32), axis=1)
            add_count(counts + COMMANDS_CLAMPED, outside > 0)
            total = tl.sum(outside, axis=0).to(tl.int64)
            tl.atomic_add(counts + ENTRIES_CLAMPED, total, mask=total > 0)
            restart = usable & (tl.sum((inside & (clamped != target)).to(tl.int32), axis=1) > 0)
            elapsed = tl.load(ramp_elapsed + column, mask=there, other=0.0)
            in_force = target
            if RAMP:
                in_force = lerp(initial, target, tl.minimum(elapsed / ramp_frames, 1.0)[:, None])
            initial = tl.where(restart[:, None], in_force, initial)
            target = tl.where(restart[:, None], clamped, target)
            tl.store(ramp_target + places, target, mask=inside)
            tl.store(ramp_elapsed + column, elapsed * 0, mask=there & restart)
        if RESET:  # the commands, old or new, are in force at once
            initial = target
        tl.store(ramp_initial + places, initial, mask=inside)


@triton.jit
def add_count(counter, true):
    """Add the number of True in ``true`` [N]."""
    number = tl.sum(true.to(tl.int64), axis=0)
    tl.atomic_add(counter, number, mask=number > 0)
