"""What MuJoCo Warp launches in every step though it does nothing for this model, left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import warp as wp
from mjlab.sim.sim import Simulation
from mujoco import mjtObj, mjtSensor  # pyright: ignore[reportAttributeAccessIssue]

UNSORTED = (0, 3)
"""Contact sensors that show what they find as it comes, or the net force: nothing has to be sorted for them."""


@contextmanager
def lean(sim: Simulation) -> Iterator[None]:
    """Within it, ``mujoco_warp``'s functions launch no kernels of :func:`idle_kernels`."""
    idle = idle_kernels(sim)
    launch, launch_tiled = wp.launch, wp.launch_tiled

    def unless_idle(run: Any) -> Any:
        def launched(kernel: Any, *arguments: Any, **named: Any) -> Any:
            return None if kernel.key.startswith(idle) else run(kernel, *arguments, **named)

        return launched

    wp.launch, wp.launch_tiled = unless_idle(launch), unless_idle(launch_tiled)
    try:
        yield
    finally:
        wp.launch, wp.launch_tiled = launch, launch_tiled


def idle_kernels(sim: Simulation) -> tuple[str, ...]:
    """The names of kernels that do nothing for the model of ``sim``, or nothing that anybody reads."""
    model = sim.mj_model
    names = []
    if not model.body_gravcomp.any() and "body_gravcomp" not in sim.expanded_fields:
        names.append("_gravity_force")
    if not (model.sensor_type == mjtSensor.mjSENS_TACTILE).any():
        names.append("_preprocess_tactile_contacts")
    reductions = model.sensor_intprm[model.sensor_type == mjtSensor.mjSENS_CONTACT, 1]
    if all(reduction in UNSORTED for reduction in reductions):
        names.append("_contact_sort")
    if not model.ntendon:
        names.append("_qderiv_tendon_damping")
    if not model.na:
        names.append("_next_activation")
    seen = (*model.sensor_objtype, *model.sensor_reftype)
    if sim._sensor_context is None and mjtObj.mjOBJ_CAMERA not in seen:  # a window has its own
        names += ["_cam_local_to_global", "_light_local_to_global"]
    return tuple(names)
