"""MuJoCo Warp's Newton solver, all of whose iterations are one kernel.

MuJoCo Warp launches thirteen kernels for an iteration of all worlds, as long as one of them has not converged. Most have
after three or four, and of some thousand worlds one takes all that it may: the later iterations are launches for a
handful of worlds. Here a warp takes a world through its iterations and ends with it. What is computed is the same.
"""

from __future__ import annotations

from typing import Any

import mujoco_warp
import warp as wp
from mujoco_warp._src import solver, types

from cmg_gym.captured.solver_kernel import THREADS, make_kernel

BLOCKS = 16
"""Worlds that a multiprocessor works on at a time, at least: it leaves each thread 128 registers."""


def solve(model: Any, data: Any) -> None:
    """As ``mujoco_warp.solve``."""
    if not _fits(model, data):
        mujoco_warp.solve(model, data)
        return
    warmstart = not model.opt.disableflags & mujoco_warp.DisableBit.WARMSTART
    worlds, nv, nv_pad, rows = data.nworld, model.nv, model.nv_pad, data.njmax
    vectors = [wp.empty((worlds, size), dtype=float) for size in (rows, rows, nv, nv, nv_pad)]
    Jaref, jv, mv, search, grad = vectors
    h, hfactor = (wp.empty((worlds, nv_pad, nv_pad), dtype=float) for _ in range(2))
    wp.launch_tiled(
        make_kernel(model.opt.ls_iterations, nv, nv_pad, BLOCKS),
        dim=worlds,
        inputs=[
            model.opt.iterations,
            model.opt.tolerance,
            model.opt.ls_tolerance,
            model.stat.meaninertia,
            model.M_mulm_rowadr,
            model.M_mulm_col,
            model.M_mulm_madr,
            model.M_elemid,
            data.M,
            data.ne,
            data.nf,
            data.nefc,
            rows,
            data.qfrc_smooth,
            data.qacc_warmstart if warmstart else data.qacc_smooth,
            data.efc.jtdaj_adr,
            data.efc.jtdaj_nrow,
            data.efc.jtdaj_nblock,
            data.efc.J_rownnz,
            data.efc.J_rowadr,
            data.efc.J_colind,
            data.efc.J,
            data.efc.D,
            data.efc.aref,
            data.efc.frictionloss,
        ],
        outputs=[
            data.qacc,
            data.efc.Ma,
            data.efc.force,
            data.efc.state,
            data.qfrc_constraint,
            data.solver_niter,
            Jaref,
            jv,
            mv,
            search,
            search.reshape(shape=(worlds, nv, 1)),
            grad,
            grad.reshape(shape=(worlds, nv_pad, 1)),
            h,
            hfactor,
            wp.empty((worlds, rows), dtype=int),
            wp.empty(worlds, dtype=int),
        ],
        block_dim=THREADS,
    )


def _fits(model: Any, data: Any) -> bool:
    """Whether the solver is the one that the kernel is written for."""
    newton = model.opt.solver == types.SolverType.NEWTON and model.opt.cone == types.ConeType.PYRAMIDAL
    blocked = model.is_sparse and model.nv > solver._BLOCK_CHOLESKY_DIM
    asleep = model.opt.enableflags & mujoco_warp.EnableBit.SLEEP
    return newton and blocked and not asleep and data.njmax > 0 and model.opt.iterations > 0
