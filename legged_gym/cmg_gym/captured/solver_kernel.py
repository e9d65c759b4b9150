"""The iterations of a Newton solver for pyramidal friction cones and sparse Jacobians, a world a warp.

As ``mujoco_warp/_src/solver.py``, whose names these are and whose functions it calls, computes them kernel by kernel;
only sums are added in another order.
"""

# Warp compiles these functions from their source: its types are not Python's, and a number that a loop changes has to be
# made by its type.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: UP018

import functools
from typing import Any

import warp as wp
from mujoco_warp._src import math, solver, types

from cmg_gym.captured.newton_step import make_newton_step

THREADS = 32
"""Of a world: a warp waits for nobody."""
QUADRATIC = int(types.ConstraintState.QUADRATIC.value)


@wp.func_native(snippet="WP_TILE_SYNC();")
def _wait(): ...


@wp.func
def _force_of(row: int, ne: int, nf: int, x: float, D: float, frictionloss: wp.array[float]):
    """A constraint's force, state and cost where it is ``x`` from its reference."""
    is_friction = row >= ne and row < ne + nf
    loss = float(0.0)
    if is_friction:
        loss = frictionloss[row]
    return solver._eval_constraint(row < ne, is_friction, False, x, D, loss, row, -1, 0.0, 0.0, 0.0, 0.0, 0.0)


@wp.func
def _times(
    rowadr: wp.array[int],
    col: wp.array[int],
    madr: wp.array[int],
    M: wp.array[float],
    vector: wp.array[float],
    dof: int,
):
    """An element of the inertia matrix times ``vector``."""
    total = float(0.0)
    for k in range(rowadr[dof], rowadr[dof + 1]):
        total += M[madr[k]] * vector[col[k]]
    return total


@wp.func
def _along(
    rowadr: wp.array[int],
    rownnz: wp.array[int],
    colind: wp.array[int],
    J: wp.array[float],
    vector: wp.array[float],
    row: int,
):
    """An element of the Jacobian times ``vector``."""
    total = float(0.0)
    first = rowadr[row]
    for k in range(first, first + rownnz[row]):
        total += J[k] * vector[colind[k]]
    return total


@wp.func
def _spread(M_elemid: wp.array2d[int], M: wp.array[float], h: wp.array2d[float], nv: int, tid: int):
    """The inertia matrix's upper triangle, of its elements that are not zero."""
    for element in range(tid, nv * nv, wp.block_dim()):
        i = element // nv
        j = element - i * nv
        if j >= i:
            value = float(0.0)
            address = M_elemid[j, i]
            if address >= 0:
                value = M[address]
            h[i, j] = value


@functools.cache
def make_inertia_kernel(nv: int, blocks: int) -> Any:
    """A kernel that solves M x = y, launched with :data:`THREADS` for a world; arguments as of :func:`make_kernel`."""
    NV = nv
    newton_step = make_newton_step(nv)

    @wp.kernel(module="unique", enable_backward=False, launch_bounds=(THREADS, blocks))
    def solve_inertia(
        M_elemid: wp.array2d[int],
        M_in: wp.array2d[float],
        y: wp.array2d[float],
        h: wp.array3d[float],
        x: wp.array2d[float],
    ):
        world, tid = wp.tid()
        _spread(M_elemid, M_in[world], h[world], NV, tid)
        _wait()
        newton_step(h[world], y[world], x[world])
        for dof in range(tid, NV, wp.block_dim()):
            x[world, dof] = -x[world, dof]

    return solve_inertia


@functools.cache
def make_kernel(ls_iterations: int, nv: int, blocks: int) -> Any:
    """The kernel, launched with :data:`THREADS` for a world.

    Args:
        ls_iterations: the most steps of a line search.
        nv: degrees of freedom.
        blocks: worlds that a multiprocessor works on at a time, at least.
    """
    LS_ITERATIONS, NV = ls_iterations, nv
    newton_step = make_newton_step(nv)

    @wp.kernel(
        module="unique",
        enable_backward=False,
        launch_bounds=(THREADS, blocks),
    )
    def iterations(
        opt_iterations: int,
        opt_tolerance: wp.array[float],
        opt_ls_tolerance: wp.array[float],
        stat_meaninertia: wp.array[float],
        M_mulm_rowadr: wp.array[int],
        M_mulm_col: wp.array[int],
        M_mulm_madr: wp.array[int],
        M_elemid: wp.array2d[int],
        M_in: wp.array2d[float],
        ne_in: wp.array[int],
        nf_in: wp.array[int],
        nefc_in: wp.array[int],
        njmax: int,
        qfrc_smooth: wp.array2d[float],
        qacc_start: wp.array2d[float],
        jtdaj_adr: wp.array2d[int],
        jtdaj_nrow: wp.array2d[int],
        jtdaj_nblock: wp.array[int],
        J_rownnz: wp.array2d[int],
        J_rowadr: wp.array2d[int],
        J_colind: wp.array3d[int],
        J: wp.array3d[float],
        D: wp.array2d[float],
        aref: wp.array2d[float],
        frictionloss: wp.array2d[float],
        qacc: wp.array2d[float],
        Ma: wp.array2d[float],
        force: wp.array2d[float],
        state: wp.array2d[int],
        qfrc_constraint: wp.array2d[float],
        niter_out: wp.array[int],
        Jaref: wp.array2d[float],
        jv: wp.array2d[float],
        mv: wp.array2d[float],
        search: wp.array2d[float],
        grad: wp.array2d[float],
        h: wp.array3d[float],
        changed_ids: wp.array2d[int],
        changed_count: wp.array[int],
    ):
        world, tid = wp.tid()
        ne = ne_in[world]
        nf = nf_in[world]
        nefc = wp.min(njmax, nefc_in[world])
        tolerance = opt_tolerance[world % opt_tolerance.shape[0]]
        ls_tolerance = opt_ls_tolerance[world % opt_ls_tolerance.shape[0]]
        scale = stat_meaninertia[world % stat_meaninertia.shape[0]] * float(NV)
        search_dot = float(0.0)
        grad_dot = float(0.0)
        newton_decrement = float(0.0)
        improvement = float(0.0)
        grad_scale = float(1.0)
        stale = bool(False)  # the search direction is the last one, and so are its products
        niter = int(-1)  # of complete iterations; the first passage is the beginning

        # Where it begins: H = M + J' D J of the constraints in force.
        for dof in range(tid, NV, wp.block_dim()):
            qacc[world, dof] = qacc_start[world, dof]
        _spread(M_elemid, M_in[world], h[world], NV, tid)
        if tid == 0:
            changed_count[world] = 0
        _wait()
        for dof in range(tid, NV, wp.block_dim()):
            Ma[world, dof] = _times(M_mulm_rowadr, M_mulm_col, M_mulm_madr, M_in[world], qacc[world], dof)
        for row in range(tid, nefc, wp.block_dim()):
            x = _along(J_rowadr[world], J_rownnz[world], J_colind[world, 0], J[world, 0], qacc[world], row)
            x -= aref[world, row]
            Jaref[world, row] = x
            found = _force_of(row, ne, nf, x, D[world, row], frictionloss[world])
            force[world, row] = found[0]
            state[world, row] = int(found[1])
        _wait()
        for group in range(jtdaj_nblock[world]):
            head = jtdaj_adr[world, group]
            count = jtdaj_nrow[world, group]
            begin = J_rowadr[world, head]
            support = J_rownnz[world, head]
            for entry in range(tid, support * (support + 1) // 2, wp.block_dim()):
                j = int((wp.sqrt(float(8 * entry + 1)) - 1.0) * 0.5)
                i = entry - j * (j + 1) // 2
                value = float(0.0)
                for row in range(head, head + count):
                    if state[world, row] == QUADRATIC:
                        address = J_rowadr[world, row]
                        value += J[world, 0, address + i] * D[world, row] * J[world, 0, address + j]
                if value != 0.0:
                    column_i = J_colind[world, 0, begin + i]
                    column_j = J_colind[world, 0, begin + j]
                    wp.atomic_add(h, world, wp.min(column_i, column_j), wp.max(column_i, column_j), value)

        while niter < opt_iterations:
            if not stale:
                grad_scale = float(1.0)
                for dof in range(tid, NV, wp.block_dim()):
                    qfrc_constraint[world, dof] = 0.0
                _wait()
                for row in range(tid, nefc, wp.block_dim()):
                    push = force[world, row]
                    if push != 0.0:
                        begin = J_rowadr[world, row]
                        for k in range(begin, begin + J_rownnz[world, row]):
                            wp.atomic_add(qfrc_constraint, world, J_colind[world, 0, k], J[world, 0, k] * push)
                num_changed = changed_count[world]
                for index in range(num_changed):
                    changed = changed_ids[world, index]
                    sign = wp.where(state[world, changed] == QUADRATIC, D[world, changed], -D[world, changed])
                    head = J_rowadr[world, changed]
                    support = J_rownnz[world, changed]
                    for entry in range(tid, support * (support + 1) // 2, wp.block_dim()):
                        i = int((wp.sqrt(float(8 * entry + 1)) - 1.0) * 0.5)
                        j = entry - i * (i + 1) // 2
                        value = sign * J[world, 0, head + i] * J[world, 0, head + j]
                        if value != 0.0:
                            column_i = J_colind[world, 0, head + i]
                            column_j = J_colind[world, 0, head + j]
                            wp.atomic_add(h, world, wp.min(column_i, column_j), wp.max(column_i, column_j), value)
                _wait()
                local_dot = float(0.0)
                for dof in range(tid, NV, wp.block_dim()):
                    slope = Ma[world, dof] - qfrc_smooth[world, dof] - qfrc_constraint[world, dof]
                    grad[world, dof] = slope
                    local_dot += slope * slope
                dot_sum = wp.tile_reduce(wp.add, wp.tile(local_dot))
                grad_dot = float(dot_sum[0])
                _wait()
                newton_step(h[world], grad[world], search[world])
                local_products = wp.vec2(0.0)
                for dof in range(tid, NV, wp.block_dim()):
                    step = search[world, dof]
                    local_products += wp.vec2(step * step, -step * grad[world, dof])
                products_sum = wp.tile_reduce(wp.add, wp.tile(local_products, preserve_type=True))
                products = products_sum[0]
                search_dot = float(products[0])
                newton_decrement = float(products[1])
                _wait()
                for dof in range(tid, NV, wp.block_dim()):
                    mv[world, dof] = _times(M_mulm_rowadr, M_mulm_col, M_mulm_madr, M_in[world], search[world], dof)
                for row in range(tid, nefc, wp.block_dim()):
                    jv[world, row] = _along(
                        J_rowadr[world], J_rownnz[world], J_colind[world, 0], J[world, 0], search[world], row
                    )
            niter += 1
            if niter > 0:
                smallest = wp.min(improvement, wp.min(wp.sqrt(grad_dot), 0.5 * newton_decrement)) / scale
                if smallest < tolerance or niter == opt_iterations:
                    break

            # The line search.
            gtol = wp.max(tolerance * ls_tolerance * wp.sqrt(search_dot) * scale, 1e-6)

            local_p0 = wp.vec3(0.0)
            for row in range(tid, nefc, wp.block_dim()):
                local_p0 += solver._compute_efc_eval_pt_alpha_zero_pyramidal(
                    row, ne, nf, D[world, row], frictionloss[world], Jaref[world, row], jv[world, row]
                )
            p0_sum = wp.tile_reduce(wp.add, wp.tile(local_p0, preserve_type=True))
            local_gauss = wp.vec2(0.0)
            for dof in range(tid, NV, wp.block_dim()):
                along = search[world, dof]
                local_gauss += wp.vec2(along * (Ma[world, dof] - qfrc_smooth[world, dof]), 0.5 * along * mv[world, dof])
            gauss_sum = wp.tile_reduce(wp.add, wp.tile(local_gauss, preserve_type=True))
            rows = p0_sum[0]
            gauss = gauss_sum[0]
            quad_gauss = wp.vec3(0.0, gauss[0], gauss[1])
            p0 = wp.vec3(quad_gauss[0], quad_gauss[1], 2.0 * quad_gauss[2]) + rows
            p0_delta = wp.vec3(0.0, p0[1], p0[2])
            q1_abs = wp.sqrt(2.0 * wp.max(rows[0], 0.0) * wp.max(rows[2], 0.0)) + wp.abs(quad_gauss[1])
            noise_floor = solver._ALPHA_NOISE_EPS * wp.max(1.0, math.safe_div(q1_abs, p0[2]))

            lo_alpha_in = -math.safe_div(p0[1], p0[2])
            local_lo_in = wp.vec3(0.0)
            for row in range(tid, nefc, wp.block_dim()):
                local_lo_in += solver._compute_efc_eval_pt_pyramidal(
                    row, lo_alpha_in, ne, nf, D[world, row], frictionloss[world], Jaref[world, row], jv[world, row]
                )
            lo_in_sum = wp.tile_reduce(wp.add, wp.tile(local_lo_in, preserve_type=True))
            lo_in = solver._eval_pt(quad_gauss, lo_alpha_in) + lo_in_sum[0]

            alpha = float(lo_alpha_in)
            improvement = float(-lo_in[0])
            if not (wp.abs(lo_in[1]) < gtol and lo_in[0] < 0.0):
                alpha = float(0.0)
                improvement = float(0.0)
                lo_less = lo_in[1] < p0[1]
                lo = wp.where(lo_less, lo_in, p0_delta)
                lo_alpha = wp.where(lo_less, lo_alpha_in, 0.0)
                hi = wp.where(lo_less, p0_delta, lo_in)
                hi_alpha = wp.where(lo_less, 0.0, lo_alpha_in)
                for _ in range(LS_ITERATIONS):
                    lo_next_alpha = lo_alpha - math.safe_div(lo[1], lo[2])
                    hi_next_alpha = hi_alpha - math.safe_div(hi[1], hi[2])
                    mid_alpha = 0.5 * (lo_alpha + hi_alpha)
                    local_lo, local_hi, local_mid = wp.vec3(0.0), wp.vec3(0.0), wp.vec3(0.0)
                    for row in range(tid, nefc, wp.block_dim()):
                        at_lo, at_hi, at_mid = solver._compute_efc_eval_pt_3alphas_pyramidal(
                            row,
                            lo_next_alpha,
                            hi_next_alpha,
                            mid_alpha,
                            ne,
                            nf,
                            D[world, row],
                            frictionloss[world],
                            Jaref[world, row],
                            jv[world, row],
                        )
                        local_lo += at_lo
                        local_hi += at_hi
                        local_mid += at_mid
                    packed = wp.matrix_from_cols(local_lo, local_hi, local_mid)
                    packed_sum = wp.tile_reduce(wp.add, wp.tile(packed, preserve_type=True))
                    sums = packed_sum[0]
                    gauss_lo, gauss_hi, gauss_mid = solver._eval_pt_3alphas(
                        quad_gauss, lo_next_alpha, hi_next_alpha, mid_alpha
                    )
                    lo_next = gauss_lo + wp.vec3(sums[0, 0], sums[1, 0], sums[2, 0])
                    hi_next = gauss_hi + wp.vec3(sums[0, 1], sums[1, 1], sums[2, 1])
                    mid = gauss_mid + wp.vec3(sums[0, 2], sums[1, 2], sums[2, 2])

                    lo_by_lo = solver._in_bracket(lo, lo_next)
                    lo = wp.where(lo_by_lo, lo_next, lo)
                    lo_alpha = wp.where(lo_by_lo, lo_next_alpha, lo_alpha)
                    lo_by_mid = solver._in_bracket(lo, mid)
                    lo = wp.where(lo_by_mid, mid, lo)
                    lo_alpha = wp.where(lo_by_mid, mid_alpha, lo_alpha)
                    lo_by_hi = solver._in_bracket(lo, hi_next)
                    lo = wp.where(lo_by_hi, hi_next, lo)
                    lo_alpha = wp.where(lo_by_hi, hi_next_alpha, lo_alpha)
                    hi_by_hi = solver._in_bracket(hi, hi_next)
                    hi = wp.where(hi_by_hi, hi_next, hi)
                    hi_alpha = wp.where(hi_by_hi, hi_next_alpha, hi_alpha)
                    hi_by_mid = solver._in_bracket(hi, mid)
                    hi = wp.where(hi_by_mid, mid, hi)
                    hi_alpha = wp.where(hi_by_mid, mid_alpha, hi_alpha)
                    hi_by_lo = solver._in_bracket(hi, lo_next)
                    hi = wp.where(hi_by_lo, lo_next, hi)
                    hi_alpha = wp.where(hi_by_lo, lo_next_alpha, hi_alpha)
                    swapped = lo_by_lo or lo_by_mid or lo_by_hi or hi_by_hi or hi_by_mid or hi_by_lo

                    if lo[0] < 0.0 or hi[0] < 0.0:
                        alpha = wp.where(lo[0] < hi[0], lo_alpha, hi_alpha)
                        improvement = -wp.where(lo[0] < hi[0], lo[0], hi[0])
                    if (
                        not swapped
                        or (lo[0] < 0.0 and lo[1] < 0.0 and lo[1] > -gtol)
                        or (hi[0] < 0.0 and hi[1] > 0.0 and hi[1] < gtol)
                    ):
                        break

            # Where that leads to, and which constraints are in force there.
            for dof in range(tid, NV, wp.block_dim()):
                qacc[world, dof] += alpha * search[world, dof]
                Ma[world, dof] += alpha * mv[world, dof]
            if tid == 0:
                changed_count[world] = 0
            _wait()
            flips = int(0)
            for row in range(tid, nefc, wp.block_dim()):
                x = Jaref[world, row] + alpha * jv[world, row]
                Jaref[world, row] = x
                found = _force_of(row, ne, nf, x, D[world, row], frictionloss[world])
                before = int(state[world, row])
                now = int(found[1])
                force[world, row] = found[0]
                state[world, row] = now
                if before != now:
                    flips += 1
                    if (before == QUADRATIC) != (now == QUADRATIC):
                        changed_ids[world, wp.atomic_add(changed_count, world, 1)] = row
            flips_sum = wp.tile_reduce(wp.add, wp.tile(flips))
            _wait()
            stale = flips_sum[0] == 0 and not wp.abs(alpha) < noise_floor

            if stale:  # exactly quadratic over the step: the gradient is shorter, and nothing else
                scaled = grad_scale - alpha
                ratio = math.safe_div(scaled, grad_scale)
                grad_dot *= ratio * ratio
                newton_decrement *= ratio * ratio
                grad_scale = scaled

        for dof in range(tid, NV, wp.block_dim()):
            qfrc_constraint[world, dof] = Ma[world, dof] - qfrc_smooth[world, dof] - grad_scale * grad[world, dof]
        if tid == 0:
            niter_out[world] = niter

    return iterations
