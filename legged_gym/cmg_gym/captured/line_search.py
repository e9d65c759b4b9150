"""The line search of a Newton solver for pyramidal friction cones, by the threads of a world.

As the kernel of ``mujoco_warp/_src/solver.py`` that does it, whose functions it calls.
"""

# Warp compiles these functions from their source: its types are not Python's, and a number that a loop changes has to
# be made by its type.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: UP018

import functools
from typing import Any

import warp as wp
from mujoco_warp._src import math, solver


@functools.cache
def make_line_search(ls_iterations: int) -> Any:
    """The function, with at most so many steps."""
    LS_ITERATIONS = ls_iterations

    @wp.func
    def line_search(
        tid: int,
        nv: int,
        ne: int,
        nf: int,
        nefc: int,
        gtol: float,
        qfrc_smooth: wp.array[float],
        D: wp.array[float],
        frictionloss: wp.array[float],
        Jaref: wp.array[float],
        jv: wp.array[float],
        mv: wp.array[float],
        search: wp.array[float],
        Ma: wp.array[float],
    ):
        """The step along ``search``, how much lower the cost is there, and the step that would be rounding alone."""

        local_p0 = wp.vec3(0.0)
        for row in range(tid, nefc, wp.block_dim()):
            local_p0 += solver._compute_efc_eval_pt_alpha_zero_pyramidal(
                row, ne, nf, D[row], frictionloss, Jaref[row], jv[row]
            )
        p0_sum = wp.tile_reduce(wp.add, wp.tile(local_p0, preserve_type=True))
        local_gauss = wp.vec2(0.0)
        for dof in range(tid, nv, wp.block_dim()):
            along = search[dof]
            local_gauss += wp.vec2(along * (Ma[dof] - qfrc_smooth[dof]), 0.5 * along * mv[dof])
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
                row, lo_alpha_in, ne, nf, D[row], frictionloss, Jaref[row], jv[row]
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
                        D[row],
                        frictionloss,
                        Jaref[row],
                        jv[row],
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
        return wp.vec3(alpha, improvement, noise_floor)

    return line_search
