"""MuJoCo Warp's Newton solver as one kernel.

MuJoCo Warp launches thirteen kernels for an iteration of all worlds, as long as one of them has not converged. Most
have after three or four, and of some thousand worlds one takes all that it may: the later iterations are launches for a
handful of worlds. Here a warp takes a world through all of it and ends with it. What is computed is the same.
"""

from __future__ import annotations

from typing import Any

import mujoco_warp
import warp as wp
from mujoco_warp._src import types

from cmg_gym.captured.inertia_kernel import THREADS, make_inertia_kernel
from cmg_gym.captured.newton_step import MOST
from cmg_gym.captured.solver_kernel import make_kernel

BLOCKS = 16
"""Worlds that a multiprocessor works on at a time, at least: it leaves each thread 128 registers."""


def solve(model: Any, data: Any) -> None:
    """As ``mujoco_warp.solve``."""
    if not _fits(model, data):
        mujoco_warp.solve(model, data)
        return
    warmstart = not model.opt.disableflags & mujoco_warp.DisableBit.WARMSTART
    worlds, nv, rows = data.nworld, model.nv, data.njmax
    vectors = [wp.empty((worlds, size), dtype=float) for size in (rows, rows, nv, nv, nv)]
    Jaref, jv, mv, search, grad = vectors
    wp.launch_tiled(
        make_kernel(model.opt.ls_iterations, nv, BLOCKS),
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
            grad,
            wp.empty((worlds, nv, nv), dtype=float),
            wp.empty((worlds, rows), dtype=int),
            wp.empty(worlds, dtype=int),
        ],
        block_dim=THREADS,
    )


def factor_solve(model: Any, data: Any, M: Any, L: Any, D: Any, x: Any, y: Any) -> None:
    """As MuJoCo Warp's ``factor_solve_i``, M x = y, but that the factor is not kept in ``L`` and ``D``."""
    wp.launch_tiled(
        make_inertia_kernel(model.nv, BLOCKS),
        dim=data.nworld,
        inputs=[model.M_elemid, M, y],
        outputs=[wp.empty((data.nworld, model.nv, model.nv), dtype=float), x],
        block_dim=THREADS,
    )


def is_small(model: Any) -> bool:
    """Whether a warp can factorise matrices of ``model``'s size."""
    return model.is_sparse and model.nv <= MOST


def _fits(model: Any, data: Any) -> bool:
    """Whether the solver is the one that the kernel is written for."""
    newton = model.opt.solver == types.SolverType.NEWTON and model.opt.cone == types.ConeType.PYRAMIDAL
    asleep = model.opt.enableflags & mujoco_warp.EnableBit.SLEEP
    return newton and is_small(model) and not asleep and data.njmax > 0 and model.opt.iterations > 0
