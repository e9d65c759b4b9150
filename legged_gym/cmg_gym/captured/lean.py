"""What MuJoCo Warp launches in every step, done faster or left out where it does nothing for this model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import warp as wp
from mjlab.sim.sim import Simulation
from mujoco import mjtSensor  # pyright: ignore[reportAttributeAccessIssue]
from mujoco_warp._src import smooth

from cmg_gym.captured import solver

UNSORTED = (0, 3)
"""Contact sensors that show what they find as it comes, or the net force: nothing has to be sorted for them."""


@contextmanager
def lean(sim: Simulation) -> Iterator[None]:
    """Within it, ``mujoco_warp``'s functions launch no kernels of :func:`idle_kernels`, and the inertia matrix is
    factorised by :func:`cmg_gym.captured.solver.factor_solve`."""
    idle = idle_kernels(sim)
    launch, launch_tiled, factor_solve = wp.launch, wp.launch_tiled, smooth.factor_solve_i

    def unless_idle(run: Any) -> Any:
        def launched(kernel: Any, *arguments: Any, **named: Any) -> Any:
            return None if kernel.key.startswith(idle) else run(kernel, *arguments, **named)

        return launched

    wp.launch, wp.launch_tiled = unless_idle(launch), unless_idle(launch_tiled)
    if solver.is_small(sim.wp_model):
        smooth.factor_solve_i = solver.factor_solve
    try:
        yield
    finally:
        wp.launch, wp.launch_tiled, smooth.factor_solve_i = launch, launch_tiled, factor_solve


def idle_kernels(sim: Simulation) -> tuple[str, ...]:
    """The names of kernels that do nothing for the model of ``sim``: gravity compensation where no body has any,
    tactile sensors and the sorting of contacts where no sensor needs it."""
    model = sim.mj_model
    names = []
    if not model.body_gravcomp.any() and "body_gravcomp" not in sim.expanded_fields:
        names.append("_gravity_force")
    if not (model.sensor_type == mjtSensor.mjSENS_TACTILE).any():
        names.append("_preprocess_tactile_contacts")
    reductions = model.sensor_intprm[model.sensor_type == mjtSensor.mjSENS_CONTACT, 1]
    if all(reduction in UNSORTED for reduction in reductions):
        names.append("_contact_sort")
    return tuple(names)
