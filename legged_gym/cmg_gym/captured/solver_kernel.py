"""The iterations of a Newton solver for pyramidal friction cones and sparse Jacobians, a world a warp.

As ``mujoco_warp/_src/solver.py``, whose names these are and whose functions it calls, computes them kernel by kernel;
only sums are added in another order.
"""

# Warp compiles these functions from their source: its types are not Python's, and a number that a loop changes has to
# be made by its type.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: UP018

import functools
from typing import Any

import warp as wp
from mujoco_warp._src import math, solver, types

from cmg_gym.captured.inertia_kernel import THREADS, spread, wait
from cmg_gym.captured.line_search import make_line_search
from cmg_gym.captured.newton_step import make_newton_step

QUADRATIC = int(types.ConstraintState.QUADRATIC.value)


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


@functools.cache
def make_kernel(ls_iterations: int, nv: int, blocks: int) -> Any:
    """The kernel, launched with :data:`THREADS` for a world.

    Args:
        ls_iterations: the most steps of a line search.
        nv: degrees of freedom.
        blocks: worlds that a multiprocessor works on at a time, at least.
    """
    NV = nv
    line_search = make_line_search(ls_iterations)
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
        spread(M_elemid, M_in[world], h[world], NV, tid)
        if tid == 0:
            changed_count[world] = 0
        wait()
        for dof in range(tid, NV, wp.block_dim()):
            Ma[world, dof] = _times(M_mulm_rowadr, M_mulm_col, M_mulm_madr, M_in[world], qacc[world], dof)
        for row in range(tid, nefc, wp.block_dim()):
            x = _along(J_rowadr[world], J_rownnz[world], J_colind[world, 0], J[world, 0], qacc[world], row)
            x -= aref[world, row]
            Jaref[world, row] = x
            found = _force_of(row, ne, nf, x, D[world, row], frictionloss[world])
            force[world, row] = found[0]
            state[world, row] = int(found[1])
        wait()
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
                wait()
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
                wait()
                local_dot = float(0.0)
                for dof in range(tid, NV, wp.block_dim()):
                    slope = Ma[world, dof] - qfrc_smooth[world, dof] - qfrc_constraint[world, dof]
                    grad[world, dof] = slope
                    local_dot += slope * slope
                dot_sum = wp.tile_reduce(wp.add, wp.tile(local_dot))
                grad_dot = float(dot_sum[0])
                wait()
                newton_step(h[world], grad[world], search[world])
                local_products = wp.vec2(0.0)
                for dof in range(tid, NV, wp.block_dim()):
                    step = search[world, dof]
                    local_products += wp.vec2(step * step, -step * grad[world, dof])
                products_sum = wp.tile_reduce(wp.add, wp.tile(local_products, preserve_type=True))
                products = products_sum[0]
                search_dot = float(products[0])
                newton_decrement = float(products[1])
                wait()
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
            found_step = line_search(
                tid,
                NV,
                ne,
                nf,
                nefc,
                gtol,
                qfrc_smooth[world],
                D[world],
                frictionloss[world],
                Jaref[world],
                jv[world],
                mv[world],
                search[world],
                Ma[world],
            )
            alpha = float(found_step[0])
            improvement = float(found_step[1])

            # Where that leads to, and which constraints are in force there.
            for dof in range(tid, NV, wp.block_dim()):
                qacc[world, dof] += alpha * search[world, dof]
                Ma[world, dof] += alpha * mv[world, dof]
            if tid == 0:
                changed_count[world] = 0
            wait()
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
            wait()
            stale = flips_sum[0] == 0 and not wp.abs(alpha) < found_step[2]

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
