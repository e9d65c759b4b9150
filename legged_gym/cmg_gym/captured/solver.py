"""MuJoCo Warp's Newton solver, all of whose iterations are one kernel.

MuJoCo Warp launches thirteen kernels for an iteration of all worlds, as long as one of them has not converged. Most have
after three or four, and of some thousand worlds one takes all iterations that there are: the later ones are launches for
a handful of worlds. Here a block of threads takes a world through its iterations and ends with it. What is computed is
the same, line for line; sums are added in another order.
"""

from __future__ import annotations

import functools
from typing import Any

import mujoco_warp
import warp as wp
from mujoco_warp._src import math, solver, types
from mujoco_warp._src.block_cholesky import create_blocked_cholesky_augmented_factorize_solve_newton_func

THREADS = 32
"""Of a world: a warp waits for nobody."""
BLOCKS = 16
"""Worlds that a multiprocessor works on at a time, at least: it leaves each thread 128 registers."""
QUADRATIC = int(types.ConstraintState.QUADRATIC.value)


def solve(model: Any, data: Any) -> None:
    """As ``mujoco_warp.solve``."""
    if not _fits(model, data):
        mujoco_warp.solve(model, data)
        return
    context = solver._create_solver_context(model, data)
    warmstart = not model.opt.disableflags & mujoco_warp.DisableBit.WARMSTART
    wp.launch(
        solver._solve_init_dof(warmstart, model.is_sparse),
        dim=(data.nworld, model.nv),
        inputs=[data.nefc, data.qacc_warmstart, data.qacc_smooth],
        outputs=[data.qacc, data.qfrc_constraint],
    )
    solver.init_context(model, data, context)
    _iterate(model, data, context)
    wp.launch(
        solver._qfrc_constraint_from_grad,
        dim=(data.nworld, model.nv),
        inputs=[data.qfrc_smooth, data.efc.Ma, context.grad, context.grad_scale],
        outputs=[data.qfrc_constraint],
    )


def _fits(model: Any, data: Any) -> bool:
    """Whether the solver is the one that the kernel is written for."""
    newton = model.opt.solver == types.SolverType.NEWTON and model.opt.cone == types.ConeType.PYRAMIDAL
    blocked = model.is_sparse and model.nv > solver._BLOCK_CHOLESKY_DIM
    asleep = model.opt.enableflags & mujoco_warp.EnableBit.SLEEP
    return newton and blocked and not asleep and data.njmax > 0 and model.opt.iterations > 0


def _iterate(model: Any, data: Any, context: Any) -> None:
    worlds, padded = data.nworld, context.grad.shape[1]
    wp.launch_tiled(
        _iterations(model.opt.ls_iterations, model.nv, model.nv_pad, BLOCKS),
        dim=worlds,
        inputs=[
            model.opt.iterations,
            model.opt.tolerance,
            model.opt.ls_tolerance,
            model.stat.meaninertia,
            model.M_mulm_rowadr,
            model.M_mulm_col,
            model.M_mulm_madr,
            data.M,
            data.ne,
            data.nf,
            data.nefc,
            data.njmax,
            data.qfrc_smooth,
            data.efc.J_rownnz,
            data.efc.J_rowadr,
            data.efc.J_colind,
            data.efc.J,
            data.efc.D,
            data.efc.frictionloss,
            context.search_dot,
            context.grad_dot,
            context.newton_decrement,
        ],
        outputs=[
            data.qacc,
            data.efc.Ma,
            data.efc.force,
            data.efc.state,
            data.qfrc_constraint,
            data.solver_niter,
            context.Jaref,
            context.jv,
            context.mv,
            context.search,
            context.search.reshape(shape=(worlds, model.nv, 1)),
            context.grad,
            context.grad.reshape(shape=(worlds, padded, 1)),
            context.h,
            context.hfactor,
            context.quad_changed_ids,
            context.quad_changed_count,
            context.grad_scale,
        ],
        block_dim=THREADS,
    )


@wp.func_native(snippet="WP_TILE_SYNC();")
def _wait():  # pyright: ignore
    ...


@functools.cache
def _iterations(ls_iterations: int, nv: int, nv_pad: int, blocks: int) -> Any:  # noqa: C901
    """The kernel; see ``mujoco_warp/_src/solver.py``, whose names these are."""
    LS_ITERATIONS, NV = ls_iterations, nv
    factorize_solve = create_blocked_cholesky_augmented_factorize_solve_newton_func(
        types.TILE_SIZE_JTDAJ_DENSE, nv_pad, nv
    )

    @wp.kernel(
        module="unique",
        enable_backward=False,
        module_options={"enable_mathdx_gemm": False},
        launch_bounds=(THREADS, blocks),
    )
    def iterations(  # pyright: ignore
        opt_iterations: int,
        opt_tolerance: wp.array[float],
        opt_ls_tolerance: wp.array[float],
        stat_meaninertia: wp.array[float],
        M_mulm_rowadr: wp.array[int],
        M_mulm_col: wp.array[int],
        M_mulm_madr: wp.array[int],
        M_in: wp.array2d[float],
        ne_in: wp.array[int],
        nf_in: wp.array[int],
        nefc_in: wp.array[int],
        njmax: int,
        qfrc_smooth: wp.array2d[float],
        J_rownnz: wp.array2d[int],
        J_rowadr: wp.array2d[int],
        J_colind: wp.array3d[int],
        J: wp.array3d[float],
        D: wp.array2d[float],
        frictionloss: wp.array2d[float],
        search_dot_in: wp.array[float],
        grad_dot_in: wp.array[float],
        newton_decrement_in: wp.array[float],
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
        search_column: wp.array3d[float],
        grad: wp.array2d[float],
        grad_column: wp.array3d[float],
        h: wp.array3d[float],
        hfactor: wp.array3d[float],
        changed_ids: wp.array2d[int],
        changed_count: wp.array[int],
        grad_scale_out: wp.array[float],
    ):
        world, tid = wp.tid()
        ne = ne_in[world]
        nf = nf_in[world]
        nefc = wp.min(njmax, nefc_in[world])
        tolerance = opt_tolerance[world % opt_tolerance.shape[0]]
        ls_tolerance = opt_ls_tolerance[world % opt_ls_tolerance.shape[0]]
        scale = stat_meaninertia[world % stat_meaninertia.shape[0]] * float(NV)
        search_dot = float(search_dot_in[world])
        grad_dot = float(grad_dot_in[world])
        newton_decrement = float(newton_decrement_in[world])
        grad_scale = float(1.0)
        stale = bool(False)  # the search direction is the last one, and so are its products
        niter = int(0)

        while niter < opt_iterations:
            # The line search.
            if not stale:
                for dof in range(tid, NV, wp.block_dim()):
                    total = float(0.0)
                    for k in range(M_mulm_rowadr[dof], M_mulm_rowadr[dof + 1]):
                        total += M_in[world, M_mulm_madr[k]] * search[world, M_mulm_col[k]]
                    mv[world, dof] = total
                for row in range(tid, nefc, wp.block_dim()):
                    product = float(0.0)
                    address = J_rowadr[world, row]
                    for k in range(address, address + J_rownnz[world, row]):
                        product += J[world, 0, k] * search[world, J_colind[world, 0, k]]
                    jv[world, row] = product
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
                is_friction = row >= ne and row < ne + nf
                loss = float(0.0)
                if is_friction:
                    loss = frictionloss[world, row]
                found = solver._eval_constraint(
                    row < ne, is_friction, False, x, D[world, row], loss, row, -1, 0.0, 0.0, 0.0, 0.0, 0.0
                )
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
            else:
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
                products = wp.static(factorize_solve)(
                    h[world], grad_column[world], wp.static(nv_pad), hfactor[world], search_column[world]
                )
                search_dot = float(products[0])
                newton_decrement = float(products[1])
                _wait()

            niter += 1
            smallest = wp.min(improvement, wp.min(wp.sqrt(grad_dot), 0.5 * newton_decrement)) / scale
            if smallest < tolerance:
                break

        if tid == 0:
            niter_out[world] = niter
            grad_scale_out[world] = grad_scale

    return iterations
