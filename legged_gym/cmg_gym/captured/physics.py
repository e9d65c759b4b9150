"""Physics in two halves: what depends on positions and velocities, and what depends on controls too.

mjlab ends a step with ``forward``, and begins the next one with a step of physics, which computes all of that again
from the same state. Here the end computes the first half, and the first step of physics only goes on with the second.

Most kernels of a step are too small for a GPU. So what does not need each other runs at the same time: contacts and
constraints beside inertia and forces, sensors beside the integration, and in the solver likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco_warp
import torch
import warp as wp
from mjlab.sim.sim import Simulation
from mujoco import mjtSensor, mjtStage  # pyright: ignore[reportAttributeAccessIssue]

from cmg_gym.captured.beside import Beside
from cmg_gym.captured.lean import lean
from cmg_gym.captured.solver import solve
from cmg_runtime.device.graphs import no_garbage_collection

INTEGRATORS = {
    mujoco_warp.IntegratorType.EULER: mujoco_warp.euler,
    mujoco_warp.IntegratorType.IMPLICIT: mujoco_warp.implicit,
    mujoco_warp.IntegratorType.IMPLICITFAST: mujoco_warp.implicit,
}


class Physics:
    """The halves of a simulation's step.

    Attributes:
        halved: whether its step can be halved.
        first_half, second_half, step: as the functions of these names; there if it can be.
    """

    def __init__(self, sim: Simulation) -> None:
        self.halved = _can_be_halved(sim.wp_model) and not sim.nan_guard.enabled
        if self.halved:
            beside = Beside(sim.wp_device, _is_independent(sim.wp_model))
            self.first_half = _program(sim, first_half, beside)
            self.second_half = _program(sim, second_half, beside)
            self.step = _program(sim, step, beside)
        self._sim = sim

    def forces(self) -> list[torch.Tensor]:
        """What the first half leaves as the last step of physics had it, but for contact sensors: views."""
        model, data = self._sim.mj_model, self._sim.data
        views = [getattr(data, name)[:] for name in FORCES]
        of_forces = model.sensor_needstage == mjtStage.mjSTAGE_ACC
        for sensor in (of_forces & (model.sensor_type != mjtSensor.mjSENS_CONTACT)).nonzero()[0]:
            first = model.sensor_adr[sensor]
            views.append(data.sensordata[:, first : first + model.sensor_dim[sensor]])
        return views


FORCES = (
    "qacc",
    "qacc_smooth",
    "qfrc_smooth",
    "qfrc_actuator",
    "qfrc_constraint",
    "actuator_force",
    "cacc",
    "cfrc_int",
)


def _can_be_halved(model: Any) -> bool:
    """Whether a step of ``model`` is the two halves: not with Runge-Kutta, sleeping, energy, callbacks or tendons."""
    flags = mujoco_warp.EnableBit.SLEEP | mujoco_warp.EnableBit.ENERGY
    others = model.callback.control or model.ntendon
    return model.opt.integrator in INTEGRATORS and not model.opt.enableflags & flags and not others


def _is_independent(model: Any) -> bool:
    """Whether constraints and forces do not need each other: equalities read velocities, adhesion reads contacts."""
    return not model.neq and not model.nacttrnbody


def first_half(model: Any, data: Any, beside: Beside) -> None:
    """As ``mujoco_warp.forward`` up to velocities. What sensors show of forces and accelerations stays."""
    _begin(model, data, beside)
    beside.end()
    mujoco_warp.sensor_pos(model, data)
    mujoco_warp.sensor_vel(model, data)


def second_half(model: Any, data: Any, beside: Beside) -> None:
    """The rest of ``mujoco_warp.step``, from a state whose first half is there: the same to the bit."""
    _accelerate(model, data)
    _finish(model, data, beside)


def step(model: Any, data: Any, beside: Beside) -> None:
    """As ``mujoco_warp.step``."""
    _begin(model, data, beside)
    _accelerate(model, data)
    beside.end()
    _finish(model, data, beside)


def _begin(model: Any, data: Any, beside: Beside) -> None:
    """Positions and velocities; contacts and constraints are beside it when this returns."""
    mujoco_warp.fwd_kinematics(model, data)
    with beside.work():
        if model.opt.run_collision_detection:
            mujoco_warp.collision(model, data)
        mujoco_warp.make_constraint(model, data)
    mujoco_warp.crb(model, data)
    mujoco_warp.transmission(model, data)
    mujoco_warp.fwd_velocity(model, data)


def _accelerate(model: Any, data: Any) -> None:
    """What accelerates without constraints."""
    mujoco_warp.fwd_actuation(model, data)
    mujoco_warp.fwd_acceleration(model, data, factorize=True)


def _finish(model: Any, data: Any, beside: Beside) -> None:
    data.sensordata.zero_()  # as step does; what was there of the first half comes again
    mujoco_warp.sensor_pos(model, data)
    mujoco_warp.sensor_vel(model, data)
    solve(model, data, beside)
    if (
        model.sensor_rne_postconstraint or model.nhistory
    ):  # such sensors read velocities, or time, which integrating writes
        mujoco_warp.sensor_acc(model, data)
        INTEGRATORS[model.opt.integrator](model, data)
        return
    with beside.work():
        mujoco_warp.sensor_acc(model, data)
    INTEGRATORS[model.opt.integrator](model, data)
    beside.end()


def _program(sim: Simulation, run: Callable[[Any, Any, Beside], None], beside: Beside) -> Callable[[], None]:
    """What does ``run(model, data, beside)``: launches a graph of it, where the simulation uses graphs."""
    model, data, graph = sim.wp_model, sim.wp_data, None
    if sim.use_cuda_graph:
        with lean(sim), no_garbage_collection(), wp.ScopedDevice(sim.wp_device), wp.ScopedCapture() as capture:
            run(model, data, beside)
        graph = capture.graph

    def launch() -> None:
        with wp.ScopedDevice(sim.wp_device):
            if graph is not None:
                wp.capture_launch(graph)
                return
            with lean(sim):
                run(model, data, beside)

    return launch
