"""``Gym``, whose methods are Isaac Gym's API: the simulation, its ground and environments; the rest it inherits.

Names and arguments are Isaac Gym's, and so is what they return. A method that is not there raises one line.
"""

import copy
import time
from typing import Any

import torch

from isaacgym.actors import ActorCalls
from isaacgym.assets import AssetCalls
from isaacgym.ground import heightfield, plane, triangle_mesh
from isaacgym.sim import Sim
from isaacgym.structs import (
    GymError,
    HeightFieldParams,
    PlaneParams,
    SimParams,
    SimType,
    Transform,
    TriangleMeshParams,
    UpAxis,
    Vec3,
)
from isaacgym.tensor_calls import TensorCalls
from isaacgym.viewer import ViewerCalls
from isaacgym.worlds import Env


class MissingMethodError(GymError, AttributeError):
    """A method of Isaac Gym's that is not there; an AttributeError too, so that ``hasattr`` says no."""


class Gym(AssetCalls, ActorCalls, TensorCalls, ViewerCalls):
    """The API, as :func:`isaacgym.gymapi.acquire_gym` gives it."""

    def __getattr__(self, name: str) -> Any:
        raise MissingMethodError(
            f"gym.{name} is not there: docs/isaacgym.md lists what is; use what does the same, or leave it out"
        )

    # ---- the simulation ----

    def create_sim(
        self,
        compute_device: int = 0,
        graphics_device: int = 0,
        type: SimType = SimType.SIM_PHYSX,
        params: SimParams | None = None,
    ) -> Sim:
        """A simulation on ``cuda:compute_device`` if the parameters ask for the GPU pipeline, else on the CPU."""
        params = SimParams() if params is None else params
        if params.up_axis != UpAxis.UP_AXIS_Z:
            raise GymError(
                "the up axis is y; here z is up: set sim_params.up_axis = gymapi.UP_AXIS_Z, and gravity along z"
            )
        on_gpu = params.use_gpu_pipeline and compute_device >= 0
        if on_gpu and not torch.cuda.is_available():
            raise GymError("use_gpu_pipeline is set, but torch sees no CUDA device; clear it to simulate on the CPU")
        if params.substeps < 1:
            raise GymError(f"substeps is {params.substeps}; at least 1 is expected")
        if not params.dt > 0.0:
            raise GymError(f"dt is {params.dt} s; more than 0 is expected")
        return Sim(params, f"cuda:{compute_device}" if on_gpu else "cpu", graphics_device)

    def prepare_sim(self, sim: Sim) -> bool:
        """Builds the model of all environments, its state and its tensors."""
        sim.prepare()
        return True

    def destroy_sim(self, sim: Sim) -> None:
        """Frees it as soon as nobody holds its tensors."""
        sim.destroy()

    def get_sim_params(self, sim: Sim) -> SimParams:
        return copy.copy(sim.params)

    def set_sim_params(self, sim: Sim, params: SimParams) -> None:
        """Gravity and dt count from the next ``simulate``; substeps stay."""
        if sim.prepared:
            sim.simulation.set_params(params)
        sim.params = copy.copy(params)

    def simulate(self, sim: Sim) -> None:
        """Moves all environments one dt on; tensors follow when they are refreshed."""
        sim.simulation.simulate()
        sim.time, sim.frames = sim.time + sim.params.dt, sim.frames + 1

    def fetch_results(self, sim: Sim, wait_for_latest_sim_step: bool = True) -> None:
        """Nothing: results are there for whatever runs on torch's stream."""

    def get_sim_time(self, sim: Sim) -> float:
        """Simulated time in s."""
        return sim.time

    def get_elapsed_time(self, sim: Sim) -> float:
        """Seconds of the wall's clock since ``prepare_sim`` was done."""
        return time.monotonic() - sim.started

    def get_frame_count(self, sim: Sim) -> int:
        return sim.frames

    # ---- the ground ----

    def add_ground(self, sim: Sim, params: PlaneParams) -> None:
        sim.worlds.add_ground(plane(params))

    def add_heightfield(self, sim: Sim, samples: Any, params: HeightFieldParams) -> None:
        sim.worlds.add_ground(heightfield(samples, params))

    def add_triangle_mesh(self, sim: Sim, vertices: Any, triangles: Any, params: TriangleMeshParams) -> None:
        sim.worlds.add_ground(triangle_mesh(vertices, triangles, params))

    # ---- environments ----

    def create_env(self, sim: Sim, lower: Vec3, upper: Vec3, num_per_row: int) -> Env:
        """An environment; bounds and rows move nothing, each environment is a world of its own around the origin."""
        return sim.worlds.add_env()

    def get_env(self, sim: Sim, index: int) -> Env:
        return sim.worlds.envs[index]

    def get_env_count(self, sim: Sim) -> int:
        return len(sim.worlds.envs)

    def get_env_origin(self, env: Env) -> Vec3:
        return Vec3()

    def create_actor(
        self,
        env: Env,
        asset: Any,
        pose: Transform,
        name: str = "",
        group: int = -1,
        filter: int = -1,
        segmentationId: int = 0,
    ) -> int:
        """The environment's actor; a ``filter`` above 0 keeps its shapes from meeting each other, -1 is their own."""
        env.worlds.add_actor(env, asset, pose, name, filter)
        return 0

    def begin_aggregate(self, env: Env, max_bodies: int, max_shapes: int, self_collisions: bool) -> bool:
        """Nothing: PhysX's way to collide faster."""
        return True

    def end_aggregate(self, env: Env) -> bool:
        return True
