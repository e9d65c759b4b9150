"""What the kernels for rows share: a walk along a robot's bodies, angles, and tiles that are written together."""

# What is inside kernels is Triton's language, whose types Python's checkers do not know.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from cmg_runtime.window.triton import body_tables

STEPS_AT_ONCE = tl.constexpr(body_tables.STEPS_AT_ONCE)
STEP_FLOATS = tl.constexpr(body_tables.STEP_FLOATS)
STEP_MARKS = tl.constexpr(body_tables.STEP_MARKS)
SOLE_FLOATS = tl.constexpr(body_tables.SOLE_FLOATS)
TWO_PI = tl.constexpr(6.283185307179586)
HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def sin_cos(angle):
    """Sine and cosine, to 3e-7 up to 8000 rad; beyond, what float32 leaves of an angle. NaN stays NaN.

    Both from one reduction to a quarter turn, without the branch for huge angles of CUDA's own: polynomials and the
    parts of pi / 2 of the Cephes library.
    """
    quarter = tl.floor(angle * (1 / HALF_PI) + 0.5)
    r = ((angle - quarter * 1.5703125) - quarter * 4.837512969970703125e-4) - quarter * 7.549789948768648e-8
    r = tl.where(r > 1.0, 1.0, tl.where(r < -1.0, -1.0, r))
    z = r * r
    sin = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    cos = 1 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    half = quarter * 0.5
    odd = half != tl.floor(half)
    s, c = tl.where(odd, cos, sin), tl.where(odd, sin, cos)
    quarters = quarter - 4 * tl.floor(quarter * 0.25)  # 0 to 3, also where an integer would overflow
    return tl.where(quarters >= 2, -s, s), tl.where((quarters == 1) | (quarters == 2), -c, c)


@triton.jit
def heading(w, z):
    """``2 atan2(z, w)``: the yaw of the quaternion (w, 0, 0, z), to 3e-7 rad."""
    return 2 * arctan2(z, w)


@triton.jit
def arctan2(y, x):
    """The angle of the vector (x, y), -pi..pi rad, to 2e-7; 0 where both are. Cephes' polynomial."""
    rise, run = tl.abs(y), tl.abs(x)
    swap = rise > run
    longer = tl.where(swap, rise, run)
    t = tl.where(swap, run, rise) / tl.where(longer == 0, 1.0, longer)  # 0 to 1
    far = t > 0.4142135623730950
    t = tl.where(far, (t - 1) / (t + 1), t)
    q = t * t
    angle = t + t * q * (-3.33329491539e-1 + q * (1.99777106478e-1 + q * (-1.38776856032e-1 + q * 8.05374449538e-2)))
    angle += tl.where(far, HALF_PI / 2, 0.0)
    angle = tl.where(swap, HALF_PI - angle, angle)
    angle = tl.where(x < 0, 2 * HALF_PI - angle, angle)
    return tl.where(y < 0, -angle, angle)


@triton.jit
def turn(x, y, yaw):
    """The vector (x, y) turned by ``yaw``, rad."""
    sin, cos = sin_cos(yaw)
    return cos * x - sin * y, sin * x + cos * y


@triton.jit
def lerp(begin, end, share):
    """``torch.lerp``'s formula: exactly the end at 1."""
    way = end - begin
    return tl.where(share < 0.5, begin + share * way, end - way * (1 - share))


@triton.jit
def four(a, b, c, d):
    """[N, 4] of four [N]."""
    joined = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(joined, (a.shape[0], 4))


@triton.jit
def sixteen(a, b, c, d):
    """[N, 16] of four [N, 4]: columns 4 k + j are column j of the k-th."""
    count: tl.constexpr = a.shape[0]
    joined = tl.join(tl.join(a, c), tl.join(b, d))  # [N, 4, 2, 2]
    return tl.reshape(tl.permute(joined, (0, 2, 3, 1)), (count, 16))


@triton.jit
def store_root(place, there, x, y, z, yaw, vx, vy, vz, rate, UPRIGHT: tl.constexpr = True):
    """Write the 13 floats of a root's pose and velocity at ``place``: all [N]; the velocity (vx, vy) in the world.

    Without UPRIGHT the two vertical ones, z and vz, are left alone.
    """
    zero = x * 0
    sin, cos = sin_cos(yaw / 2)
    rows = sixteen(
        four(x, y, z, cos), four(zero, zero, sin, vx), four(vy, vz, zero, zero), four(rate, rate, rate, rate)
    )
    column = tl.arange(0, 16)[None, :]
    written = (column < 13) & (UPRIGHT | ((column != 2) & (column != 9)))
    tl.store(place[:, None] + column, rows, mask=there[:, None] & written)


@triton.jit
def _apart(values):
    """Four [N] of [N, 4]."""
    count: tl.constexpr = values.shape[0]
    even, odd = tl.split(tl.reshape(values, (count, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _constants(c):
    """A step's: C row by row, o, m."""
    values = ()
    for i in tl.static_range(STEP_FLOATS):
        values = values + (tl.load(c + i),)
    return values


@triton.jit
def _advance(xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz, sin, cos, constants):
    """The pose one body on. Returns it and the body's origin."""
    c0, c1, c2, c3, c4, c5, c6, c7, c8, ox, oy, oz, mx, my, mz = constants
    px += xx * ox + xy * oy + xz * oz
    py += yx * ox + yy * oy + yz * oz
    pz += zx * ox + zy * oy + zz * oz
    ax, ay = xx * c0 + xy * c3 + xz * c6, xx * c1 + xy * c4 + xz * c7
    bx, by = yx * c0 + yy * c3 + yz * c6, yx * c1 + yy * c4 + yz * c7
    dx, dy = zx * c0 + zy * c3 + zz * c6, zx * c1 + zy * c4 + zz * c7
    xz, yz, zz = xx * c2 + xy * c5 + xz * c8, yx * c2 + yy * c5 + yz * c8, zx * c2 + zy * c5 + zz * c8
    xx, xy = cos * ax + sin * ay, cos * ay - sin * ax
    yx, yy = cos * bx + sin * by, cos * by - sin * bx
    zx, zy = cos * dx + sin * dy, cos * dy - sin * dx
    bodies = four(
        px + xx * mx + xy * my + xz * mz, py + yx * mx + yy * my + yz * mz, pz + zx * mx + zy * my + zz * mz, px
    )
    return xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz, bodies


@triton.jit
def walk(
    angles,
    source,
    rows,
    place,
    there,
    group,
    floats,
    marks,
    joints,
    targets,
    chunks,
    soles,
    STEPS: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """Write the bodies of one group, whose tables :mod:`cmg_runtime.window.triton.body_tables` describes.

    Args:
        angles, source: where joint angles are, and [N] int32 floats from there to each lane's.
        rows, place: where rows are, and [N] floats from there to each lane's.
        there: [N] bool, lanes that have one.
        EARLY: read what several steps need at once, which takes more registers. For few rows, where waiting counts.

    Returns:
        [N] the lowest point of the group's soles, m, or infinity.
    """
    tl.static_assert(STEPS_AT_ONCE == 4, "what is written together is four steps' bodies")
    zero = there.to(tl.float32) * 0
    one = zero + 1.0
    lowest = zero + float("inf")
    xx, xy, xz, yx, yy, yz, zx, zy, zz = one, zero, zero, zero, one, zero, zero, zero, one
    px, py, pz = zero, zero, zero
    four_steps, columns = tl.arange(0, STEPS_AT_ONCE), tl.arange(0, 4 * STEPS_AT_ONCE)
    count = tl.load(chunks + group)
    joint = tl.load(joints + group * STEPS + four_steps)[None, :]
    angle = tl.load(angles + (source[:, None] + joint), there[:, None] & (joint >= 0), other=0.0)
    for chunk in range(count):
        first = group * STEPS + chunk * STEPS_AT_ONCE
        sin, cos = sin_cos(angle)
        sines, cosines = _apart(sin), _apart(cos)
        # The next steps' angles are on their way while these are walked.
        following = (chunk + 1) * STEPS_AT_ONCE + four_steps
        joint = tl.load(joints + group * STEPS + following, following < count * STEPS_AT_ONCE, other=-1)[None, :]
        tiles = ()
        early = ()
        if EARLY:
            for i in tl.static_range(STEPS_AT_ONCE):
                early = early + (_constants(floats + (first + i) * STEP_FLOATS),)
        for i in tl.static_range(STEPS_AT_ONCE):
            constants = early[i] if EARLY else _constants(floats + (first + i) * STEP_FLOATS)
            m = marks + (first + i) * STEP_MARKS
            if tl.load(m) != 0:  # a new path from the root
                xx, xy, xz, yx, yy, yz, zx, zy, zz = one, zero, zero, zero, one, zero, zero, zero, one
                px, py, pz = zero, zero, zero
            xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz, tile = _advance(
                xx, xy, xz, yx, yy, yz, zx, zy, zz, px, py, pz, sines[i], cosines[i], constants
            )
            tiles = tiles + (tile,)
            if i == 1:
                angle = tl.load(angles + (source[:, None] + joint), there[:, None] & (joint >= 0), other=0.0)
            for sole in range(tl.load(m + 1), tl.load(m + 2)):
                p = soles + sole * SOLE_FLOATS
                height = pz + zx * tl.load(p) + zy * tl.load(p + 1) + zz * tl.load(p + 2) - tl.load(p + 3)
                lowest = tl.minimum(lowest, height)
        target = tl.load(targets + first + columns // 4)[None, :]
        wanted = (target >= 0) & (columns % 4 < 3)[None, :]
        bodies = sixteen(tiles[0], tiles[1], tiles[2], tiles[3])
        tl.store(rows + (place[:, None] + (target + (columns % 4)[None, :])), bodies, mask=there[:, None] & wanted)
    return lowest
