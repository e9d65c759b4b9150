"""MuJoCo Warp's Newton solver, with the same kernels in another order.

Of some thousand worlds one takes all iterations that there are, but most have converged after three or four: an
iteration is a chain of thirteen kernels that leave more and more of the GPU idle. Here those that do not need each
other run beside each other, four of the small ones are two, and one that does again what is done is left out.
"""

from __future__ import annotations

from typing import Any

import mujoco_warp
import warp as wp
from mujoco_warp._src import solver, support, types

from cmg_gym.captured.beside import Beside
from cmg_gym.captured.solver_kernels import begin_gradient, finish_iteration

MOST_ITERATIONS = 20
"""All of them are launched, whether they are needed or not. Where there may be more, the loop is MuJoCo Warp's."""
GROUP = solver._JTDAJ_THREADS_PER_GROUP


def solve(model: Any, data: Any, beside: Beside) -> None:
    """As ``mujoco_warp.solve``."""
    if not _fits(model, data):
        mujoco_warp.solve(model, data)
        return
    context = solver._create_solver_context(model, data)
    _begin(model, data, context, beside)
    for _ in range(model.opt.iterations):
        _iterate(model, data, context, beside)
    wp.launch(
        solver._qfrc_constraint_from_grad,
        dim=(data.nworld, model.nv),
        inputs=[data.qfrc_smooth, data.efc.Ma, context.grad, context.grad_scale],
        outputs=[data.qfrc_constraint],
    )


def _fits(model: Any, data: Any) -> bool:
    """Whether the solver is the one whose kernels these are."""
    newton = model.opt.solver == types.SolverType.NEWTON and model.opt.cone == types.ConeType.PYRAMIDAL
    blocked = model.is_sparse and model.nv > solver._BLOCK_CHOLESKY_DIM and not model.nflex
    asleep = model.opt.enableflags & mujoco_warp.EnableBit.SLEEP
    return newton and blocked and not asleep and data.njmax > 0 and 0 < model.opt.iterations <= MOST_ITERATIONS


def _begin(model: Any, data: Any, context: Any, beside: Beside) -> None:
    """The first search direction: the Hessian beside the gradient."""
    efc, worlds, nv = data.efc, data.nworld, model.nv
    warmstart = not model.opt.disableflags & mujoco_warp.DisableBit.WARMSTART
    wp.launch(
        solver._solve_init_dof(warmstart, True),
        dim=(worlds, nv),
        inputs=[data.nefc, data.qacc_warmstart, data.qacc_smooth],
        outputs=[data.qacc, data.qfrc_constraint],
    )
    wp.launch(solver._solve_init_efc, dim=worlds, outputs=[data.solver_niter, context.search_dot, context.done])
    with beside.work():
        wp.launch(
            solver._update_gradient_init_h_sparse(False),
            dim=(worlds, model.nv_pad, model.nv_pad),
            inputs=[nv, model.M_elemid, data.M, data.cdof_dof, context.done],
            outputs=[context.h],
        )
        wp.launch(solver._padding_h, dim=(worlds, model.nv_pad - nv), inputs=[nv, context.done], outputs=[context.h])
        support.mul_m(model, data, efc.Ma, data.qacc, skip=context.done)
    wp.launch(
        solver._solve_init_jaref_kernel(True, nv, nv, False),
        dim=(worlds, data.njmax, 1),
        inputs=[data.nefc, data.qacc, *_jacobian(efc), efc.aref, data.dof_cdof],
        outputs=[context.Jaref],
    )
    _update_constraints(model, data, context, track_changes=False)
    beside.end()
    with beside.work():
        groups = solver._jtdaj_groups_per_world(worlds, data.njmax)
        wp.launch(
            solver._JTDAJ_sparse(False),
            dim=(worlds, groups, GROUP),
            inputs=[
                efc.jtdaj_adr,
                efc.jtdaj_nrow,
                efc.jtdaj_nblock,
                *_jacobian(efc),
                efc.D,
                efc.state,
                data.dof_cdof,
                context.done,
                groups,
            ],
            outputs=[context.h],
            block_dim=model.block_dim.update_gradient_JTDAJ_sparse,
        )
    _update_gradient(model, data, context, changed=data.nefc, kept=False)
    beside.end()
    wp.launch_tiled(
        solver._update_gradient_cholesky_blocked(types.TILE_SIZE_JTDAJ_DENSE, model.nv_pad, nv),
        dim=worlds,
        inputs=[context.done, _column(context.grad), context.h, context.hfactor],
        outputs=[_column(context.search), context.search_dot, context.newton_decrement],
        block_dim=model.block_dim.update_gradient_cholesky_blocked,
    )
    context.search_unchanged.zero_()
    wp.launch(
        solver._zero_change_counters, dim=worlds, outputs=[context.quad_changed_count, context.state_changed_count]
    )


def _iterate(model: Any, data: Any, context: Any, beside: Beside) -> None:
    """A line search, and the next search direction."""
    efc, worlds, nv = data.efc, data.nworld, model.nv
    with beside.work():
        support.mul_m(model, data, context.mv, context.search, skip=context.search_unchanged)
    wp.launch(
        solver._linesearch_jv_fused_kernel(True, nv, nv, False),
        dim=(worlds, data.njmax, 1),
        inputs=[data.nefc, *_jacobian(efc), data.dof_cdof, context.search, context.search_unchanged],
        outputs=[context.jv],
    )
    beside.end()
    solver._linesearch_iterative(model, data, context, fuse_jv=False)
    _update_constraints(model, data, context, track_changes=True)
    with beside.work():
        slots = solver._jtdaj_groups_per_world(worlds, context.quad_changed_ids.shape[1])
        wp.launch(
            solver._update_gradient_h_incremental_sparse(False),
            dim=(worlds, slots, GROUP),
            inputs=[
                *_jacobian(efc),
                efc.D,
                efc.state,
                data.dof_cdof,
                context.quad_changed_ids,
                context.quad_changed_count,
                slots,
            ],
            outputs=[context.h],
        )
    _update_gradient(model, data, context, changed=context.state_changed_count, kept=True)
    beside.end()
    wp.launch_tiled(
        solver._update_gradient_cholesky_blocked_skip_unchanged(types.TILE_SIZE_JTDAJ_DENSE, model.nv_pad, nv, True),
        dim=worlds,
        inputs=[
            context.done,
            _column(context.grad),
            context.h,
            context.quad_changed_count,
            context.state_changed_count,
            context.hfactor,
        ],
        outputs=[_column(context.search), context.search_dot, context.newton_decrement],
        block_dim=model.block_dim.update_gradient_cholesky_blocked,
    )
    wp.launch(
        finish_iteration,
        dim=worlds,
        inputs=[
            nv,
            model.opt.tolerance,
            model.opt.iterations,
            model.stat.meaninertia,
            context.grad_dot,
            context.newton_decrement,
            context.improvement,
        ],
        outputs=[data.solver_niter, context.done, context.quad_changed_count, context.state_changed_count],
    )


def _update_constraints(model: Any, data: Any, context: Any, track_changes: bool) -> None:
    """Which constraints push, and how much."""
    efc, contact = data.efc, data.contact
    wp.launch(
        solver._update_constraint_efc(track_changes),
        dim=(data.nworld, data.njmax),
        inputs=[
            model.opt.impratio_invsqrt,
            data.ne,
            data.nf,
            data.nefc,
            contact.friction,
            contact.dim,
            contact.efc_address,
            efc.type,
            efc.id,
            efc.D,
            efc.frictionloss,
            data.nacon,
            context.Jaref,
            context.ls_exhausted,
            context.done,
        ],
        outputs=[
            efc.force,
            efc.state,
            context.quad_changed_ids,
            context.quad_changed_count,
            context.state_changed_count,
        ],
    )


def _update_gradient(model: Any, data: Any, context: Any, changed: Any, kept: bool) -> None:
    """M a - f - J' forces, of worlds in which something has ``changed``."""
    efc, worlds, nv = data.efc, data.nworld, model.nv
    wp.launch(
        begin_gradient,
        dim=(worlds, nv),
        inputs=[changed, kept, context.alpha, context.done],
        outputs=[
            context.grad_dot,
            context.newton_decrement,
            context.grad_scale,
            context.search_unchanged,
            data.qfrc_constraint,
        ],
    )
    wp.launch(
        solver._update_constraint_init_qfrc_constraint_sparse(False),
        dim=(worlds, data.njmax),
        inputs=[
            data.nefc,
            *_jacobian(efc),
            efc.force,
            data.dof_cdof,
            changed,
            context.done,
        ],
        outputs=[data.qfrc_constraint],
    )
    wp.launch(
        solver._update_gradient_grad(kept),
        dim=(worlds, nv),
        inputs=[data.qfrc_smooth, data.qfrc_constraint, efc.Ma, changed, context.done],
        outputs=[context.grad, context.grad_dot],
    )


def _jacobian(efc: Any) -> list[Any]:
    """Of constraints, sparse: how many numbers a row has, where they begin, their columns, and they."""
    return [efc.J_rownnz, efc.J_rowadr, efc.J_colind, efc.J]


def _column(vectors: Any) -> Any:
    return vectors.reshape(shape=(*vectors.shape, 1))
