"""Kernels for the two ends of a window's rebuild, and for the commands between them: one lane an environment."""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from cmg_runtime.window.triton.append_kernels import copy_motions
from cmg_runtime.window.triton.body_walk import heading, lerp, store_root, turn, walk


@triton.jit
def _in_force(initial, target, column, entry, share, known, RAMP: tl.constexpr):
    """Entry ``entry`` of the command that is in force at ``share`` of the ramp."""
    end = tl.load(target + column * 3 + entry, mask=known, other=0.0)
    if RAMP:
        end = lerp(tl.load(initial + column * 3 + entry, mask=known, other=0.0), end, share)
    return end


@triton.jit(do_not_specialize=["n"])
def place_bodies(
    ids,  # [n] int64 columns of the window
    fresh,  # [columns] bool
    current,  # [columns, D] float32
    head,  # [columns] int64
    ring,  # [horizon, columns, W] float32
    heights,  # out: [n] float32, height of the root above the ground, m
    floats,  # the tables of cmg_runtime.window.triton.body_tables
    marks,
    joints,
    targets,
    chunks,
    soles,
    n,
    D: tl.constexpr,
    W: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Motion states and key bodies of the current frames that a reset has placed, and their heights."""
    group = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = rows < n
    column = tl.load(ids + rows, mask=known, other=0).to(tl.int32)
    there = known & (tl.load(fresh + column, mask=known, other=0) != 0)
    row = tl.load(head + column, mask=known, other=0) * W
    if group < GROUPS:
        lowest = walk(
            current, column * D, ring, row, there, group, floats, marks, joints, targets, chunks, soles, STEPS
        )
        if group == 0:
            tl.store(heights + rows, -lowest, mask=there)
    else:
        copy_motions(current, ring, there, column * D, row, D)


@triton.jit(do_not_specialize=["n"])
def place_roots(
    ids,
    fresh,
    head,
    ring,
    heights,  # [n] float32
    ground,  # [columns] float32
    placement,  # [columns, 4] float32: x, y, any, yaw
    ramp_initial,  # [columns, 3] float32 each, and elapsed [columns]
    ramp_target,
    ramp_elapsed,
    root,  # out: [n, 4] float32, root state of the current frame
    n,
    ramp_frames,
    W: tl.constexpr,
    ROOT: tl.constexpr,
    RAMP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Root motion of the same frames, and the root state of all."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = rows < n
    column = tl.load(ids + rows, mask=known, other=0)
    there = known & (tl.load(fresh + column, mask=known, other=0) != 0)
    place = ring + tl.load(head + column, mask=known, other=0) * W + ROOT
    share = tl.minimum(tl.load(ramp_elapsed + column, mask=known, other=0.0) / ramp_frames, 1.0)
    vx = _in_force(ramp_initial, ramp_target, column, 0, share, known, RAMP)
    vy = _in_force(ramp_initial, ramp_target, column, 1, share, known, RAMP)
    rate = _in_force(ramp_initial, ramp_target, column, 2, share, known, RAMP)
    placed = placement + column * 4
    old_yaw = heading(tl.load(place + 3, mask=known, other=1.0), tl.load(place + 6, mask=known, other=0.0))
    x = tl.where(there, tl.load(placed, mask=known, other=0.0), tl.load(place, mask=known, other=0.0))
    y = tl.where(there, tl.load(placed + 1, mask=known, other=0.0), tl.load(place + 1, mask=known, other=0.0))
    z = tl.load(ground + column, mask=known, other=0.0) + tl.load(heights + rows, mask=there, other=0.0)
    z = tl.where(there, z, tl.load(place + 2, mask=known, other=0.0))
    yaw = tl.where(there, tl.load(placed + 3, mask=known, other=0.0), old_yaw)
    tl.store(root + rows * 4, x, mask=known)
    tl.store(root + rows * 4 + 1, y, mask=known)
    tl.store(root + rows * 4 + 2, z, mask=known)
    tl.store(root + rows * 4 + 3, yaw, mask=known)
    world_vx, world_vy = turn(vx, vy, yaw)
    tl.debug_barrier()  # every thread has read the row that is now overwritten
    store_root(place, there, x, y, z, yaw, world_vx, world_vy, x * 0, rate)


@triton.jit(do_not_specialize=["n", "num_rows", "first", "pitch"])
def write_commands(
    ids,
    ramp_initial,
    ramp_target,
    ramp_elapsed,
    out,  # [T, n, 3] float32, blocks pitch apart
    n,
    num_rows,
    first,
    pitch,
    ramp_frames,
    RAMP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The commands in force ``first``, ``first + 1``, .. frames after the current one: T * n rows."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = rows < num_rows
    frame, env = rows // n, rows % n
    column = tl.load(ids + env, mask=there, other=0)
    elapsed = tl.load(ramp_elapsed + column, mask=there, other=0.0) + (first + frame).to(tl.float32)
    share = tl.minimum(elapsed / ramp_frames, 1.0)
    target = out + frame.to(tl.int64) * pitch + env * 3
    for entry in tl.static_range(3):
        tl.store(target + entry, _in_force(ramp_initial, ramp_target, column, entry, share, there, RAMP), mask=there)


@triton.jit(do_not_specialize=["n"])
def finish(
    ids,
    motion,  # [n, D] float32, the newest frame
    root,  # [n, 4] float32, its root state
    ramp_initial,
    ramp_target,
    ramp_elapsed,
    newest_motion,  # out: [columns, D]
    newest_root,  # out: [columns, 4]
    next_command,  # out: [columns, 3]
    n,
    horizon,
    ramp_frames,
    D: tl.constexpr,
    RAMP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What the steps that follow go on from."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = rows < n
    column = tl.load(ids + rows, mask=known, other=0).to(tl.int32)
    copy_motions(motion, newest_motion, known, rows * D, column * D, D)
    copy_motions(root, newest_root, known, rows * 4, column * 4, 4)
    share = tl.minimum((tl.load(ramp_elapsed + column, mask=known, other=0.0) + horizon) / ramp_frames, 1.0)
    for axis in tl.static_range(3):
        command = _in_force(ramp_initial, ramp_target, column, axis, share, known, RAMP)
        tl.store(next_command + column * 3 + axis, command, mask=known)
