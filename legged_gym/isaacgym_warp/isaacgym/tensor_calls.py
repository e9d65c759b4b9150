"""``Gym``'s methods on tensors.

``acquire_..._tensor`` gives torch tensors, float32, whose addresses stay; ``refresh_..._tensor`` fills them from the
simulation; ``set_...`` writes tensors of the same shape to it, ``..._indexed`` for the actors named by int32 indices
alone: all others keep every bit.
"""

import torch

from isaacgym.sim import Sim
from isaacgym.structs import CoordinateSpace


class TensorCalls:
    """States, forces and controls of all environments."""

    def acquire_actor_root_state_tensor(self, sim: Sim) -> torch.Tensor:
        """[N, 13]: position, rotation x, y, z, w, linear and angular velocity, all in the world's frame."""
        return sim.simulation.root_state

    def acquire_dof_state_tensor(self, sim: Sim) -> torch.Tensor:
        """[N * D, 2]: position and velocity."""
        return sim.simulation.dof_state.view(-1, 2)

    def acquire_rigid_body_state_tensor(self, sim: Sim) -> torch.Tensor:
        """[N * B, 13], as roots; velocities are those of the bodies' origins."""
        return sim.simulation.body_state.view(-1, 13)

    def acquire_net_contact_force_tensor(self, sim: Sim) -> torch.Tensor:
        """[N * B, 3] N in the world's frame: the sum of the last substep's contact forces on each body."""
        return sim.simulation.net_contact_force.view(-1, 3)

    def acquire_force_sensor_tensor(self, sim: Sim) -> torch.Tensor:
        """[N * S, 6]: force [N] and moment [Nm] of the body's contacts, about the sensor's origin, in its frame."""
        return sim.simulation.force_sensor.view(-1, 6)

    def acquire_dof_force_tensor(self, sim: Sim) -> torch.Tensor:
        """[N * D]: what drives and efforts apply to each DOF."""
        return sim.simulation.dof_force.view(-1)

    def refresh_actor_root_state_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_root_states()
        return True

    def refresh_dof_state_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_dof_states()
        return True

    def refresh_rigid_body_state_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_body_states()
        return True

    def refresh_net_contact_force_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_contact_forces()
        return True

    def refresh_force_sensor_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_force_sensors()
        return True

    def refresh_dof_force_tensor(self, sim: Sim) -> bool:
        sim.simulation.refresh_dof_forces()
        return True

    def set_actor_root_state_tensor(self, sim: Sim, states: torch.Tensor) -> bool:
        sim.simulation.write_root_states(states, sim.simulation.all_indices)
        return True

    def set_actor_root_state_tensor_indexed(
        self, sim: Sim, states: torch.Tensor, indices: torch.Tensor, count: int
    ) -> bool:
        sim.simulation.write_root_states(states, indices.flatten()[:count])
        return True

    def set_dof_state_tensor(self, sim: Sim, states: torch.Tensor) -> bool:
        sim.simulation.write_dof_states(states, sim.simulation.all_indices)
        return True

    def set_dof_state_tensor_indexed(self, sim: Sim, states: torch.Tensor, indices: torch.Tensor, count: int) -> bool:
        sim.simulation.write_dof_states(states, indices.flatten()[:count])
        return True

    def set_dof_actuation_force_tensor(self, sim: Sim, forces: torch.Tensor) -> bool:
        """[N * D] Nm or N, on top of the drives and not clamped; they stay until they are set anew."""
        sim.simulation.write_efforts(forces, sim.simulation.all_indices)
        return True

    def set_dof_actuation_force_tensor_indexed(
        self, sim: Sim, forces: torch.Tensor, indices: torch.Tensor, count: int
    ) -> bool:
        sim.simulation.write_efforts(forces, indices.flatten()[:count])
        return True

    def set_dof_position_target_tensor(self, sim: Sim, targets: torch.Tensor) -> bool:
        """[N * D], for DOFs whose drive mode is DOF_MODE_POS."""
        sim.simulation.write_targets(targets, sim.simulation.all_indices, velocity=False)
        return True

    def set_dof_position_target_tensor_indexed(
        self, sim: Sim, targets: torch.Tensor, indices: torch.Tensor, count: int
    ) -> bool:
        sim.simulation.write_targets(targets, indices.flatten()[:count], velocity=False)
        return True

    def set_dof_velocity_target_tensor(self, sim: Sim, targets: torch.Tensor) -> bool:
        """[N * D], for DOFs whose drive mode is DOF_MODE_VEL."""
        sim.simulation.write_targets(targets, sim.simulation.all_indices, velocity=True)
        return True

    def set_dof_velocity_target_tensor_indexed(
        self, sim: Sim, targets: torch.Tensor, indices: torch.Tensor, count: int
    ) -> bool:
        sim.simulation.write_targets(targets, indices.flatten()[:count], velocity=True)
        return True

    def apply_rigid_body_force_tensors(
        self,
        sim: Sim,
        forceTensor: torch.Tensor | None = None,
        torqueTensor: torch.Tensor | None = None,
        space: CoordinateSpace = CoordinateSpace.ENV_SPACE,
    ) -> bool:
        """[N * B, 3] each, at the bodies' centres of mass, for the next ``simulate``; LOCAL_SPACE: along the bodies."""
        sim.simulation.add_external_forces(forceTensor, None, torqueTensor, _local(space))
        return True

    def apply_rigid_body_force_at_pos_tensors(
        self,
        sim: Sim,
        forceTensor: torch.Tensor,
        posTensor: torch.Tensor,
        space: CoordinateSpace = CoordinateSpace.ENV_SPACE,
    ) -> bool:
        """Forces at positions, [N * B, 3] each and both in ``space``, for the next ``simulate``."""
        sim.simulation.add_external_forces(forceTensor, posTensor, None, _local(space))
        return True


def _local(space: CoordinateSpace) -> bool:
    """Environments stand at the world's origin, so their space is the world's."""
    return space == CoordinateSpace.LOCAL_SPACE
