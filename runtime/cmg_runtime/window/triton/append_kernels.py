"""Kernels for the rows of new frames, which :mod:`cmg_runtime.window.plain.rows` describes: kinematics and root motion.

``write_bodies`` gives one lane to a frame and one program to a *group* of bodies: it walks from the root to them with
the pose in registers, and what several groups have in common is computed again in each. ``write_roots`` follows with
what depends on the order of the frames. A step has one frame, whose height is known where the soles are walked, so
``append_frame`` does both, and all else that follows the network.

A lane's row is far from its neighbour's. So what lanes have computed goes through shared memory into tiles of 16 floats
a row, and lanes that stand side by side write floats that lie side by side.
"""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from cmg_runtime.window.triton.body_walk import TWO_PI, lerp, sin_cos, store_root, turn, walk


@triton.jit
def copy_motions(source, target, known, source_rows, target_rows, D: tl.constexpr):
    """Copy D floats from each of ``source_rows`` [N] of ``source`` to one of ``target_rows``, counted in floats."""
    for first in range(0, D, 32):
        wide = (first + tl.arange(0, 32))[None, :]
        mask = known[:, None] & (wide < D)
        tl.store(target + (target_rows[:, None] + wide), tl.load(source + (source_rows[:, None] + wide), mask), mask)


@triton.jit
def row_of(head, column, known, offset, horizon, columns):
    """The flat ring's row, int32, of the frame at ``offset``, 0 to horizon, from the current one of ``column``."""
    row = tl.load(head + column, mask=known, other=0).to(tl.int32) + offset * columns
    return tl.where(row >= horizon * columns, row - horizon * columns, row)


@triton.jit(do_not_specialize=["n", "first"])
def write_bodies(
    motions,  # [T, n, D] float32, blocks motion_pitch apart
    ids,  # [n] int64 columns of the window
    head,  # [columns] int64
    ring,  # [horizon, columns, W] float32
    heights,  # out: [T, n] float32, height of the root above the ground, m
    floats,  # the tables of cmg_runtime.window.triton.body_tables
    marks,
    joints,
    targets,
    chunks,
    soles,
    n,
    first,
    motion_pitch,
    horizon,
    columns,
    D: tl.constexpr,
    W: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    INDEX: tl.constexpr,  # for floats of the ring: tl.int32, which takes fewer registers, or tl.int64 for a large one
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Motion states and key bodies of T * n rows, and the heights. The last group copies, the first has the soles."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    group = tl.program_id(1)
    frame = tl.program_id(2)
    env = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = env < n
    column = tl.load(ids + env, mask=known, other=0).to(tl.int32)
    row = row_of(head, column, known, first + frame, horizon, columns).to(INDEX) * W
    motion = motions + frame.to(tl.int64) * motion_pitch
    if group < GROUPS:
        lowest = walk(motion, env * D, ring, row, known, group, floats, marks, joints, targets, chunks, soles, STEPS)
        if group == 0:
            tl.store(heights + frame * n + env, -lowest, mask=known)
    else:
        copy_motions(motion, ring, known, env * D, row, D)


@triton.jit
def arc(vx, vy, rate, yaw, dt):
    """How far a frame goes in the world that ends with the heading ``yaw``."""
    half = rate * dt / 2
    # sin(half) / half, whose series is exact in float32 for small angles
    small = tl.abs(half) < 1e-3
    sine, _ = sin_cos(half)
    chord = dt * tl.where(small, 1 - half * half / 6, sine / tl.where(small, 1.0, half))
    return turn(vx * chord, vy * chord, yaw - half)


@triton.jit(do_not_specialize=["n", "num_frames", "first", "command_pitch"])
def write_roots(
    commands,  # [T, n, 3] float32 that led to each frame, blocks command_pitch apart
    ids,  # as in write_bodies
    head,
    ring,
    heights,  # [T, n] float32
    ground,  # [columns] float32
    root,  # [n, 4] float32 root state of the frame before; becomes the last frame's
    n,
    num_frames,
    first,
    command_pitch,
    horizon,
    columns,
    dt,
    fps,
    W: tl.constexpr,
    ROOT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):
    """Root motion of all T frames (at most BLOCK_T) of BLOCK_N environments, from the heights."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    frame = tl.arange(0, BLOCK_T)[:, None]
    env = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    known = env < n
    there = known & (frame < num_frames)
    column = tl.load(ids + env, mask=known, other=0).to(tl.int32)
    row = row_of(head, column, known, first + frame, horizon, columns)
    command = commands + frame.to(tl.int64) * command_pitch + env * 3
    vx = tl.load(command, mask=there, other=0.0)
    vy = tl.load(command + 1, mask=there, other=0.0)
    rate = tl.load(command + 2, mask=there, other=0.0)
    x = tl.load(root + env * 4, mask=known, other=0.0)
    y = tl.load(root + env * 4 + 1, mask=known, other=0.0)
    z_before = tl.load(root + env * 4 + 2, mask=known, other=0.0)
    yaw = tl.load(root + env * 4 + 3, mask=known, other=0.0)
    level = tl.load(ground + column, mask=known, other=0.0)
    z = level + tl.load(heights + frame * n + env, mask=there, other=0.0)
    earlier = level + tl.load(heights + (frame - 1) * n + env, mask=there & (frame > 0), other=0.0)
    vz = (z - tl.where(frame > 0, earlier, z_before)) * fps

    yaw = yaw + tl.cumsum(rate * dt, axis=0)
    dx, dy = arc(vx, vy, rate, yaw, dt)
    x = x + tl.cumsum(dx, axis=0)
    y = y + tl.cumsum(dy, axis=0)
    yaw = yaw - TWO_PI * tl.floor(yaw / TWO_PI + 0.5)
    world_vx, world_vy = turn(vx, vy, yaw)
    place = ring + row.to(tl.int64) * W + ROOT
    count: tl.constexpr = BLOCK_T * BLOCK_N
    store_root(
        tl.reshape(place, (count,)),
        tl.reshape(there, (count,)),
        tl.reshape(x, (count,)),
        tl.reshape(y, (count,)),
        tl.reshape(z, (count,)),
        tl.reshape(yaw, (count,)),
        tl.reshape(world_vx, (count,)),
        tl.reshape(world_vy, (count,)),
        tl.reshape(vz, (count,)),
        tl.reshape(rate, (count,)),
    )

    tl.debug_barrier()  # every thread has read what is now overwritten
    last = known & (frame == num_frames - 1)
    tl.store(root + env * 4 + tl.zeros_like(frame), x, mask=last)
    tl.store(root + env * 4 + 1 + tl.zeros_like(frame), y, mask=last)
    tl.store(root + env * 4 + 2 + tl.zeros_like(frame), z, mask=last)
    tl.store(root + env * 4 + 3 + tl.zeros_like(frame), yaw, mask=last)


@triton.jit(do_not_specialize=["n"])
def append_frame(
    motion,  # [n, D] float32, the network's result
    moving,  # [n] bool, the environments that move, or None: all
    head,  # [columns] int64; moves on
    arrivals,  # [blocks] int32, 0 between launches: programs of a block that have read its heads
    ring,  # [horizon, columns, W] float32
    floats,  # the tables of cmg_runtime.window.triton.body_tables
    marks,
    joints,
    targets,
    chunks,
    soles,
    newest_motion,  # out: [columns, D]
    current,  # out: [columns, D]
    next_command,  # [columns, 3] float32 that led to the frame; becomes the next one
    ground,  # [columns] float32
    root,  # [columns, 4] float32 root state of the frame before; becomes this one's
    ramp_initial,  # [columns, 3] float32 each, and elapsed [columns], which grows by 1
    ramp_target,
    ramp_elapsed,
    number,  # [columns] int64 of each column's current frame, which grows by 1
    n,
    horizon,
    columns,
    dt,
    fps,
    ramp_frames,
    D: tl.constexpr,
    W: tl.constexpr,
    ROOT: tl.constexpr,
    RAMP: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    INDEX: tl.constexpr,  # as in write_bodies
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """One frame of columns 0..n-1, into row ``head``; the current frames are those of the row behind, the next head.

    Of a block's programs the first has the soles, and with them the height; behind those of the groups of bodies come
    one that copies, and one with all of the root but its height. Each writes what no other one reads, but for the
    heads, which the last one moves that is done.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    group = tl.program_id(1)
    env = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = env < n
    if moving is not None:
        known = known & (tl.load(moving + env, mask=known, other=0) != 0)
    row = row_of(head, env, known, 0, horizon, columns).to(INDEX) * W
    behind = row_of(head, env, known, 1, horizon, columns)
    if group < GROUPS:
        lowest = walk(
            motion, env * D, ring, row, known, group, floats, marks, joints, targets, chunks, soles, STEPS, EARLY=True
        )
        if group == 0:
            z = tl.load(ground + env, mask=known, other=0.0) - lowest
            vz = (z - tl.load(root + env * 4 + 2, mask=known, other=0.0)) * fps
            tl.store(root + env * 4 + 2, z, mask=known)
            tl.store(ring + row + ROOT + 2, z, mask=known)
            tl.store(ring + row + ROOT + 9, vz, mask=known)
    elif group == GROUPS:
        copy_motions(motion, ring, known, env * D, row, D)
        copy_motions(motion, newest_motion, known, env * D, env * D, D)
        copy_motions(ring, current, known, behind.to(INDEX) * W, env * D, D)
    else:
        command = next_command + env * 3
        vx = tl.load(command, mask=known, other=0.0)
        vy = tl.load(command + 1, mask=known, other=0.0)
        rate = tl.load(command + 2, mask=known, other=0.0)
        yaw = tl.load(root + env * 4 + 3, mask=known, other=0.0) + rate * dt
        dx, dy = arc(vx, vy, rate, yaw, dt)
        x = tl.load(root + env * 4, mask=known, other=0.0) + dx
        y = tl.load(root + env * 4 + 1, mask=known, other=0.0) + dy
        yaw = yaw - TWO_PI * tl.floor(yaw / TWO_PI + 0.5)
        world_vx, world_vy = turn(vx, vy, yaw)
        store_root(ring + row + ROOT, known, x, y, x, yaw, world_vx, world_vy, x, rate, False)
        tl.store(root + env * 4, x, mask=known)
        tl.store(root + env * 4 + 1, y, mask=known)
        tl.store(root + env * 4 + 3, yaw, mask=known)
        tl.store(number + env, tl.load(number + env, mask=known, other=0) + 1, mask=known)
        elapsed = tl.load(ramp_elapsed + env, mask=known, other=0.0) + 1
        tl.store(ramp_elapsed + env, elapsed, mask=known)
        share = tl.minimum((elapsed + horizon) / ramp_frames, 1.0)
        for entry in tl.static_range(3):
            end = tl.load(ramp_target + env * 3 + entry, mask=known, other=0.0)
            if RAMP:
                end = lerp(tl.load(ramp_initial + env * 3 + entry, mask=known, other=0.0), end, share)
            tl.store(command + entry, end, mask=known)
    tl.debug_barrier()  # every thread has read what is now overwritten
    if tl.atomic_add(arrivals + tl.program_id(0), 1) == GROUPS + 1:
        tl.store(arrivals + tl.program_id(0), 0)
        tl.store(head + env, behind, mask=known)
