"""The inertia matrix as the threads of a world factorise it: a warp for each world."""

# Warp compiles these functions from their source: its types are not Python's, and a number that a loop changes has to
# be made by its type.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: UP018

import functools
from typing import Any

import warp as wp

from cmg_gym.captured.newton_step import make_newton_step

THREADS = 32
"""Of a world: a warp waits for nobody."""


@wp.func_native(snippet="WP_TILE_SYNC();")
def wait(): ...


@wp.func
def spread(M_elemid: wp.array2d[int], M: wp.array[float], h: wp.array2d[float], nv: int, tid: int):
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
    """A kernel that solves M x = y of ``nv`` degrees of freedom, launched with :data:`THREADS` for a world.

    Args:
        blocks: worlds that a multiprocessor works on at a time, at least.
    """
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
        spread(M_elemid, M_in[world], h[world], NV, tid)
        wait()
        newton_step(h[world], y[world], x[world])
        for dof in range(tid, NV, wp.block_dim()):
            x[world, dof] = -x[world, dof]

    return solve_inertia
