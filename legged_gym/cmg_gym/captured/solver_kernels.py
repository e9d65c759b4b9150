"""Small kernels of a Newton solver's iteration, each of which is two of MuJoCo Warp's."""

# Warp compiles these functions from their source: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false

import warp as wp
from mujoco_warp._src import solver


@wp.kernel(enable_backward=False)
def begin_gradient(
    changed: wp.array[int],
    kept: bool,
    alpha: wp.array[float],
    done: wp.array[bool],
    grad_dot: wp.array[float],
    newton_decrement: wp.array[float],
    grad_scale: wp.array[float],
    search_unchanged: wp.array[bool],
    qfrc_constraint: wp.array2d[float],
):
    """``_zero_qfrc_constraint_sparse`` and ``_update_gradient_zero_grad_dot``; ``kept``: a gradient of worlds in which
    nothing has changed is only made shorter."""
    world, dof = wp.tid()
    if dof == 0:
        search_unchanged[world] = kept and (done[world] or changed[world] == 0)
    if done[world]:
        return
    if changed[world] != 0:
        qfrc_constraint[world, dof] = 0.0
    if dof != 0:
        return
    if kept and changed[world] == 0:
        before = float(grad_scale[world])
        now = before - alpha[world]
        ratio = float(0.0)  # noqa: UP018
        if before != 0.0:
            ratio = now / before
        grad_dot[world] *= ratio * ratio
        newton_decrement[world] *= ratio * ratio
        grad_scale[world] = now
    else:
        grad_dot[world] = 0.0
        newton_decrement[world] = 0.0
        grad_scale[world] = 1.0


@wp.kernel(enable_backward=False)
def finish_iteration(
    nv: int,
    opt_tolerance: wp.array[float],
    opt_iterations: int,
    stat_meaninertia: wp.array[float],
    grad_dot: wp.array[float],
    newton_decrement: wp.array[float],
    improvement: wp.array[float],
    niter: wp.array[int],
    done: wp.array[bool],
    quad_changed_count: wp.array[int],
    state_changed_count: wp.array[int],
):
    """``_solve_done``, and ``_zero_change_counters`` for the next iteration."""
    world = wp.tid()
    quad_changed_count[world] = 0
    state_changed_count[world] = 0
    if done[world]:
        return
    niter[world] += 1
    tolerance = opt_tolerance[world % opt_tolerance.shape[0]]
    meaninertia = stat_meaninertia[world % stat_meaninertia.shape[0]]
    converged = (
        solver._rescale(nv, meaninertia, improvement[world]) < tolerance
        or solver._rescale(nv, meaninertia, wp.sqrt(grad_dot[world])) < tolerance
        or solver._rescale(nv, meaninertia, 0.5 * newton_decrement[world]) < tolerance
    )
    if converged or niter[world] == opt_iterations:
        done[world] = True
