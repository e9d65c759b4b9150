"""Kernels for the rows of new frames, which :mod:`cmg_runtime.frame_writer` describes: kinematics and root motion.

``write_bodies`` gives one lane to a frame and one program to a *group* of bodies: it walks from the root to them with
the pose in registers, and what several groups have in common is computed again in each. ``write_roots`` follows with
what depends on the order of the frames.
"""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

STEP_FLOATS = tl.constexpr(36)
STEP_INTS = tl.constexpr(5)
SOLE_FLOATS = tl.constexpr(4)
TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def _turn(x, y, yaw):
    cos, sin = tl.cos(yaw), tl.sin(yaw)
    return cos * x - sin * y, sin * x + cos * y


@triton.jit
def _walk(source, place, there, step_floats, step_ints, soles, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the bodies of one group into the rows at ``place``. Returns the lowest point of its soles, m, or inf."""
    zero = tl.zeros((BLOCK,), tl.float32)
    one = zero + 1.0
    xx, xy, xz, yx, yy, yz, zx, zy, zz = one, zero, zero, zero, one, zero, zero, zero, one
    px, py, pz = zero, zero, zero
    lowest = zero + float("inf")
    angle = tl.load(source + tl.load(step_ints), mask=there, other=0.0)
    for step in range(STEPS):
        c = step_floats + step * STEP_FLOATS
        k = step_ints + step * STEP_INTS
        # The next angle is on its way while this one is worked on: its load waits for another one.
        following = tl.load(k + tl.where(step < STEPS - 1, STEP_INTS, 0))
        following = tl.load(source + following, mask=there, other=0.0)
        s, v = tl.sin(angle), 1 - tl.cos(angle)
        if tl.load(k + 1) != 0:  # a new path from the root
            xx, xy, xz, yx, yy, yz, zx, zy, zz = one, zero, zero, zero, one, zero, zero, zero, one
            px, py, pz = zero, zero, zero
        # The body's pose in its parent's frame: constants, sin and 1 - cos of the angle.
        tx = tl.load(c + 27) + s * tl.load(c + 30) + v * tl.load(c + 33)
        ty = tl.load(c + 28) + s * tl.load(c + 31) + v * tl.load(c + 34)
        tz = tl.load(c + 29) + s * tl.load(c + 32) + v * tl.load(c + 35)
        a0 = tl.load(c + 0) + s * tl.load(c + 9) + v * tl.load(c + 18)
        a1 = tl.load(c + 1) + s * tl.load(c + 10) + v * tl.load(c + 19)
        a2 = tl.load(c + 2) + s * tl.load(c + 11) + v * tl.load(c + 20)
        a3 = tl.load(c + 3) + s * tl.load(c + 12) + v * tl.load(c + 21)
        a4 = tl.load(c + 4) + s * tl.load(c + 13) + v * tl.load(c + 22)
        a5 = tl.load(c + 5) + s * tl.load(c + 14) + v * tl.load(c + 23)
        a6 = tl.load(c + 6) + s * tl.load(c + 15) + v * tl.load(c + 24)
        a7 = tl.load(c + 7) + s * tl.load(c + 16) + v * tl.load(c + 25)
        a8 = tl.load(c + 8) + s * tl.load(c + 17) + v * tl.load(c + 26)
        px += xx * tx + xy * ty + xz * tz
        py += yx * tx + yy * ty + yz * tz
        pz += zx * tx + zy * ty + zz * tz
        xx, xy, xz = xx * a0 + xy * a3 + xz * a6, xx * a1 + xy * a4 + xz * a7, xx * a2 + xy * a5 + xz * a8
        yx, yy, yz = yx * a0 + yy * a3 + yz * a6, yx * a1 + yy * a4 + yz * a7, yx * a2 + yy * a5 + yz * a8
        zx, zy, zz = zx * a0 + zy * a3 + zz * a6, zx * a1 + zy * a4 + zz * a7, zx * a2 + zy * a5 + zz * a8
        target = tl.load(k + 2)
        if target >= 0:
            tl.store(place + target, px, mask=there)
            tl.store(place + target + 1, py, mask=there)
            tl.store(place + target + 2, pz, mask=there)
        for sole in range(tl.load(k + 3), tl.load(k + 4)):
            point = soles + sole * SOLE_FLOATS
            height = pz + zx * tl.load(point) + zy * tl.load(point + 1) + zz * tl.load(point + 2) - tl.load(point + 3)
            lowest = tl.minimum(lowest, height)
        angle = following
    return lowest


@triton.jit
def _copy(source, target, mask):
    tl.store(target, tl.load(source, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["n", "num_rows", "first", "motion_pitch"])
def write_bodies(
    motions,  # [T, n, D] float32, blocks motion_pitch apart
    ids,  # [n] int64 columns of the window; read unless APPEND
    head,  # [1] int64
    frames,  # [horizon, columns, W] float32
    heights,  # out: [T, n] float32, height of the root above the ground, m
    step_floats,  # [groups, STEPS, 36] float32, see cmg_runtime.kernels.chain
    step_ints,  # [groups, STEPS, 5] int32
    soles,  # [S, 4] float32
    newest_motion,  # out, with APPEND: [columns, D]
    current,  # out, with APPEND: [columns, D]
    next_head,  # out, with APPEND: [1] int64
    n,
    num_rows,
    first,
    motion_pitch,
    horizon,
    columns,
    D: tl.constexpr,
    W: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    APPEND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Motion states and key bodies of T * n rows, and the heights. The last group copies, the first has the soles.

    With APPEND the frame goes to slot ``head`` of columns 0..n-1, the current frames are read from the slot behind,
    which is the next head.
    """
    group = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = rows < num_rows
    frame, env = rows // n, rows % n
    slot = tl.load(head) + first
    column = env.to(tl.int64) if APPEND else tl.load(ids + env, mask=there, other=0)
    place = frames + (((slot + frame) % horizon) * columns + column) * W
    source = motions + frame.to(tl.int64) * motion_pitch + env * D
    if group < GROUPS:
        floats, ints = step_floats + group * STEPS * STEP_FLOATS, step_ints + group * STEPS * STEP_INTS
        lowest = _walk(source, place, there, floats, ints, soles, STEPS, BLOCK)
        if group == 0:
            tl.store(heights + rows, -lowest, mask=there)
    else:
        for start in range(0, D, 64):
            wide = (start + tl.arange(0, 64))[None, :]
            mask = there[:, None] & (wide < D)
            _copy(source[:, None] + wide, place[:, None] + wide, mask)
            if APPEND:
                _copy(source[:, None] + wide, newest_motion + column[:, None] * D + wide, mask)
                behind = frames + (((slot + 1) % horizon) * columns + column) * W
                _copy(behind[:, None] + wide, current + column[:, None] * D + wide, mask)
        if APPEND and tl.program_id(0) == 0:
            tl.store(next_head, (slot + 1) % horizon)


@triton.jit(do_not_specialize=["n", "num_frames", "first", "command_pitch"])
def write_roots(
    commands,  # [T, n, 3] float32 that led to each frame, blocks command_pitch apart
    ids,  # as in write_bodies
    head,  # [1] int64; with APPEND it is written, and next_head is read
    next_head,
    frames,
    heights,  # [T, n] float32
    ground,  # [columns] float32
    root,  # [n, 4] float32 root state of the frame before; becomes the last frame's
    ramp_start,  # with APPEND: [columns, 3] each, and elapsed [columns], which grows by 1
    ramp_target,
    ramp_elapsed,
    next_command,  # out, with APPEND: [columns, 3]
    n,
    num_frames,
    first,
    command_pitch,
    horizon,
    columns,
    dt,
    fps,
    ramp_frames,
    W: tl.constexpr,
    ROOT: tl.constexpr,
    RAMP: tl.constexpr,
    APPEND: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Root motion of all T frames (at most BLOCK_T) of BLOCK_N environments, from the heights."""
    frame = tl.arange(0, BLOCK_T)[:, None]
    env = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    known = env < n
    there = known & (frame < num_frames)
    if APPEND:
        column = env.to(tl.int64)
        new_head = tl.load(next_head)
        slot = new_head + horizon - 1
    else:
        column = tl.load(ids + env, mask=known, other=0)
        slot = tl.load(head) + first
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

    half = rate * dt / 2
    yaw = yaw + tl.cumsum(rate * dt, axis=0)
    # sin(half) / half, whose series is exact in float32 for small angles
    small = tl.abs(half) < 1e-3
    chord = dt * tl.where(small, 1 - half * half / 6, tl.sin(half) / tl.where(small, 1.0, half))
    dx, dy = _turn(vx * chord, vy * chord, yaw - half)
    x = x + tl.cumsum(dx, axis=0)
    y = y + tl.cumsum(dy, axis=0)
    yaw = yaw - TWO_PI * tl.floor(yaw / TWO_PI + 0.5)
    world_vx, world_vy = _turn(vx, vy, yaw)

    place = frames + (((slot + frame) % horizon) * columns + column) * W + ROOT
    zero = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    tl.store(place, x, mask=there)
    tl.store(place + 1, y, mask=there)
    tl.store(place + 2, z, mask=there)
    tl.store(place + 3, tl.cos(yaw / 2), mask=there)
    tl.store(place + 4, zero, mask=there)
    tl.store(place + 5, zero, mask=there)
    tl.store(place + 6, tl.sin(yaw / 2), mask=there)
    tl.store(place + 7, world_vx, mask=there)
    tl.store(place + 8, world_vy, mask=there)
    tl.store(place + 9, vz, mask=there)
    tl.store(place + 10, zero, mask=there)
    tl.store(place + 11, zero, mask=there)
    tl.store(place + 12, rate, mask=there)

    tl.debug_barrier()  # every thread has read what is now overwritten
    last = known & (frame == num_frames - 1)
    tl.store(root + env * 4 + tl.zeros_like(frame), x, mask=last)
    tl.store(root + env * 4 + 1 + tl.zeros_like(frame), y, mask=last)
    tl.store(root + env * 4 + 2 + tl.zeros_like(frame), z, mask=last)
    tl.store(root + env * 4 + 3 + tl.zeros_like(frame), yaw, mask=last)
    if APPEND:
        elapsed = tl.load(ramp_elapsed + column, mask=known, other=0.0) + 1
        share = tl.minimum((elapsed + horizon) / ramp_frames, 1.0)
        tl.debug_barrier()
        tl.store(ramp_elapsed + column, elapsed, mask=known)
        for entry in tl.static_range(3):
            begin = tl.load(ramp_start + column * 3 + entry, mask=known, other=0.0)
            end = tl.load(ramp_target + column * 3 + entry, mask=known, other=0.0)
            if RAMP:  # torch.lerp's formula: exactly the target at 1
                way = end - begin
                end = tl.where(share < 0.5, begin + share * way, end - way * (1 - share))
            tl.store(next_command + column * 3 + entry, end, mask=known)
        if tl.program_id(0) == 0:
            tl.store(head, new_head)
