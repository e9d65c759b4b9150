"""The handle of a simulation: what is known before it is prepared, and the simulation itself from then on."""

import warnings

from isaacgym.simulation import Simulation
from isaacgym.structs import GymError, SimParams
from isaacgym.worlds import Worlds


class Sim:
    """What ``create_sim`` returns.

    Attributes:
        params: the settings; ``device``: torch's name of where it runs; ``graphics_device``: -1 draws nothing.
        time: simulated so far, in s.
        worlds: environments and ground.
    """

    def __init__(self, params: SimParams, device: str, graphics_device: int):
        self.params, self.device, self.graphics_device, self.time = params, device, graphics_device, 0.0
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
        self._simulation = Simulation(self.worlds, self.params, self.device)
        self.worlds.prepared = True

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
