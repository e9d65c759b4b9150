"""The handle of a simulation: what is known before it is prepared, and the simulation itself from then on."""

import copy
import threading
import time
import warnings

import numpy as np
import torch
import warp as wp

from isaacgym.model import shape_friction, shape_geoms
from isaacgym.simulation import Simulation
from isaacgym.structs import GymError, SimParams
from isaacgym.worlds import Env, Worlds

LONG = 10.0
"""Seconds after which prepare_sim says what it is waiting for."""
COMPILING = "prepare_sim: MuJoCo Warp compiles its kernels, for minutes the first time; then they are in Warp's cache"

if wp.config.log_level == wp.LOG_INFO:  # a line for each of some fifty modules would bury what the user's code prints
    wp.config.log_level = wp.LOG_WARNING


class Sim:
    """What ``create_sim`` returns.

    Attributes:
        params: the settings; ``device``: torch's name of where it runs; ``graphics_device``: -1 draws nothing.
        time, frames: simulated so far, in s and in calls of ``simulate``.
        started: when it was prepared, by ``time.monotonic``.
        worlds: environments and ground.
    """

    def __init__(self, params: SimParams, device: str, graphics_device: int):
        self.params, self.device, self.graphics_device = copy.copy(params), device, graphics_device
        self.time, self.frames = 0.0, 0
        self.started = time.monotonic()
        self.worlds = Worlds()
        self._simulation: Simulation | None = None

    @property
    def prepared(self) -> bool:
        return self._simulation is not None

    @property
    def simulation(self) -> Simulation:
        if self._simulation is None:
            raise GymError("the simulation is not prepared; call prepare_sim once all actors are there")
        return self._simulation

    def prepare(self) -> None:
        if self.prepared:
            return
        self._warn_of_what_is_not_simulated()
        waiting = threading.Timer(LONG, print, [COMPILING], {"flush": True})
        waiting.daemon = True
        waiting.start()
        try:
            self._simulation = Simulation(self.worlds, self.params, self.device)
        finally:
            waiting.cancel()
        self.worlds.write_friction = self._write_friction
        self.started = time.monotonic()

    def _write_friction(self, env: Env) -> None:
        """On torch's current stream, as all that changes the simulation."""
        geoms = shape_geoms(self.simulation.mj_model)
        values = shape_friction([env.actor], self.worlds.grounds)[0].astype(np.float32)
        friction = wp.to_torch(self.simulation.model.geom_friction)
        friction[env.index, geoms, 0] = torch.from_numpy(values).to(friction.device)

    def destroy(self) -> None:
        self._simulation, self.worlds = None, Worlds()

    def _warn_of_what_is_not_simulated(self) -> None:
        """One line on settings that would change the motion in PhysX and have no counterpart in MuJoCo."""
        options, shapes = self.worlds.asset.options, self.worlds.asset.shape_properties
        names = [name for name in ("angular_damping", "linear_damping") if getattr(options, name) != 0.0]
        if any(shape.restitution != 0.0 for shape in shapes):
            names.append("restitution of shapes")
        if names:
            warnings.warn(
                f"{', '.join(names)}: not 0, and without effect here (nor have velocity limits and sim_params.physx)",
                UserWarning,
                stacklevel=4,
            )
