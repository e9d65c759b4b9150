"""The simulation of all environments on MuJoCo Warp, and the tensors that users hold.

A ``simulate`` is its substeps as one CUDA graph, launched on torch's current stream; on the CPU the same code runs
eagerly. Kinematics after it run when somebody asks for bodies. Tensors keep their addresses from prepare_sim on. An
environment whose numbers explode begins anew where it was created, at rest, and a warning counts it.

Not checked against Isaac Gym, which nobody here has: whether the velocities of bodies are those of their origins (they
are here) or of their centres of mass, and whether efforts last longer than one ``simulate`` (here until they are set
anew; external forces last one).
"""

# Warp takes kernels and arrays as other types than it declares.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import warnings

import mujoco
import mujoco_warp as mjwarp
import numpy as np
import torch
import warp as wp

from isaacgym import ground_contacts, step_kernels, tensors
from isaacgym.buffers import buffer_sizes
from isaacgym.graphs import TorchStream, can_capture, captured
from isaacgym.model import compile_model, target_gains
from isaacgym.step_report import StepReport
from isaacgym.structs import GymError, SimParams
from isaacgym.worlds import Worlds

ITERATIONS, LINE_SEARCH_ITERATIONS = 10, 20  # of the solver: enough for legged robots from a warm start
LARGEST_POSITION, LARGEST_VELOCITY = 1e6, 1e4  # m or rad, m/s or rad/s: an environment with more has diverged


class Simulation:
    """All environments from prepare_sim on."""

    def __init__(self, worlds: Worlds, params: SimParams, device: str):
        self.device, self.wp_device = torch.device(device), wp.get_device(device)
        self.num_envs, self.substeps = len(worlds.envs), params.substeps
        self.fixed = worlds.asset.options.fix_base_link
        self.num_bodies, self.num_dofs = len(worlds.asset.body_names), len(worlds.asset.dof_names)
        self.qpos_start, self.qvel_start = (0, 0) if self.fixed else (7, 6)
        self.stream = TorchStream(self.wp_device)
        ground_contacts.install()
        model, per_world = compile_model(worlds)
        self.mj_model = model
        model.opt.iterations, model.opt.ls_iterations = ITERATIONS, LINE_SEARCH_ITERATIONS
        with wp.ScopedDevice(self.wp_device):
            self.model = on_device(model, {name: self.num_envs for name in per_world})
            for name, values in per_world.items():
                getattr(self.model, name).assign(values)
            self.model.opt.warn_overflow = False  # reported by this class
            nconmax, njmax = buffer_sizes(model, params)
            self.data = mjwarp.make_data(model, self.num_envs, nconmax=nconmax, njmax=njmax)
            self._make_tensors(worlds)
            # What is above ran on Warp's own stream; what users call runs on torch's.
            wp.synchronize_device(self.wp_device)
            self.set_params(params)
            self._set_poses(worlds)
            wp.synchronize_device(self.wp_device)
            self._capture()
            wp.synchronize_device(self.wp_device)

    def _make_tensors(self, worlds: Worlds) -> None:
        envs, bodies, dofs, device = self.num_envs, self.num_bodies, self.num_dofs, self.device
        sensors = worlds.asset.force_sensors

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        self.root_state, self.dof_state = zeros(envs, 13), zeros(envs, dofs, 2)
        self.body_state, self.dof_force = zeros(envs, bodies, 13), zeros(envs, dofs)
        self.net_contact_force, self.force_sensor = zeros(envs, bodies, 3), zeros(envs, len(sensors), 6)
        # What the last substep had; the users' tensors change when they are refreshed.
        self._contact_force, self._contact_moment = (wp.zeros((envs, bodies, 3), dtype=float) for _ in range(2))
        self._sensor_wrench = wp.zeros((envs, len(sensors), 6), dtype=float)
        self._sensors = [
            wp.array(np.array(values, np_type).reshape(len(sensors), *shape), dtype=dtype)
            for values, np_type, shape, dtype in (
                ([sensor.body for sensor in sensors], np.int32, (), int),
                ([[*sensor.pose.p] for sensor in sensors], np.float32, (3,), wp.vec3),
                ([[*sensor.pose.r] for sensor in sensors], np.float32, (4,), wp.quat),
                ([sensor.properties.use_world_frame for sensor in sensors], np.int32, (), int),
            )
        ]
        self.all_indices = torch.arange(envs, dtype=torch.int32, device=device)
        self._position_gain, self._velocity_gain = (
            torch.from_numpy(gain).to(device) for gain in target_gains(worlds.actors)
        )
        self._nothing = wp.empty((envs, 0, 3), dtype=float)
        self._contact_ids = wp.array(np.arange(self.data.naconmax), dtype=int)
        self._contact_forces = wp.zeros(self.data.naconmax, dtype=wp.spatial_vector)
        self._report = StepReport(self.data)
        self._diverged = wp.zeros(envs, dtype=int)

    def _set_poses(self, worlds: Worlds) -> None:
        rows = np.array([[*actor.pose.p, *actor.pose.r] for actor in worlds.actors], np.float32)
        self.root_state[:, :7] = torch.from_numpy(rows).to(self.device)
        self.write_root_states(self.root_state, self.all_indices)
        with self.stream():
            self._initial_qpos = wp.clone(self.data.qpos)

    def set_params(self, params: SimParams) -> None:
        """Takes over gravity and the time step; the captured graph reads both from where they are written."""
        if params.substeps != self.substeps:
            raise GymError(f"substeps became {params.substeps}; they stay {self.substeps} after prepare_sim")
        with self.stream():
            self.model.opt.gravity.fill_(wp.vec3(*params.gravity))
            self.model.opt.timestep.fill_(params.dt / params.substeps)

    # ---- steps ----

    def simulate(self) -> None:
        """Moves all environments one dt on."""
        with self.stream():
            self._step()
        self._kinematics_stale = True
        self._report.warn(stacklevel=3)

    def _substeps(self) -> None:
        for _ in range(self.substeps):
            mjwarp.step(self.model, self.data)
        data, force, moment = self.data, self._contact_force, self._contact_moment
        state = [data.qpos, data.qvel, data.qacc_warmstart, data.qfrc_actuator]
        wp.launch(
            step_kernels.start_diverged_anew,
            self.num_envs,
            [self._initial_qpos, LARGEST_POSITION, LARGEST_VELOCITY, *state],
            [self._diverged, self._report.noted],
        )
        data.xfrc_applied.zero_()
        force.zero_()
        moment.zero_()
        mjwarp.contact_force(self.model, data, self._contact_ids, True, self._contact_forces)
        contact = data.contact
        wp.launch(
            step_kernels.sum_contacts,
            data.naconmax,
            [self._diverged, data.nacon, self._contact_forces, contact.pos, contact.geom, contact.worldid],
            [self.model.geom_bodyid, data.xpos, force, moment],
        )
        if self.force_sensor.shape[1]:
            wp.launch(
                step_kernels.read_force_sensors,
                self.force_sensor.shape[:2],
                [*self._sensors, self._diverged, data.xquat, force, moment],
                [self._sensor_wrench],
            )
        self._report.note_overflow()

    def _kinematics(self) -> None:
        mjwarp.kinematics(self.model, self.data)
        mjwarp.com_pos(self.model, self.data)
        mjwarp.com_vel(self.model, self.data)

    def _capture(self) -> None:
        """Makes the two graphs. A first step, undone, loads what the captured one may not load."""
        self._kinematics_stale = True
        self._step, self._run_kinematics = self._substeps, self._kinematics
        if not can_capture(self.wp_device):
            return
        state = [self.data.qpos, self.data.qvel, self.data.qacc_warmstart, self.data.time]
        before = [wp.clone(array) for array in state]
        self._substeps()
        self._kinematics()
        for array, values in zip(state, before, strict=True):
            wp.copy(array, values)
        for array in (self._contact_force, self._contact_moment, self._sensor_wrench):
            array.zero_()
        self._step, self._run_kinematics = captured(self._substeps), captured(self._kinematics)

    def _fresh_kinematics(self) -> None:
        """Poses and velocities of bodies are those before the last substep until this has run."""
        if self._kinematics_stale:
            self._run_kinematics()
            self._kinematics_stale = False

    # ---- the users' tensors ----

    def refresh_root_states(self) -> None:
        data = self.data
        kernel, state = tensors.read_floating_roots, [data.qpos, data.qvel]
        if self.fixed:
            kernel, state = tensors.read_fixed_roots, [data.mocap_pos, data.mocap_quat]
        self._launch(kernel, self.num_envs, [*state, self._ctype(self.root_state)])

    def refresh_dof_states(self) -> None:
        starts = [self.qpos_start, self.qvel_start]
        inputs = [self.data.qpos, self.data.qvel, *starts, self._ctype(self.dof_state)]
        self._launch(tensors.read_dofs, (self.num_envs, self.num_dofs), inputs)

    def refresh_dof_forces(self) -> None:
        inputs = [self.data.qfrc_actuator, self.data.qfrc_applied, self.qvel_start, self._ctype(self.dof_force)]
        self._launch(tensors.read_dof_forces, (self.num_envs, self.num_dofs), inputs)

    def refresh_body_states(self) -> None:
        data = self.data
        with self.stream():
            self._fresh_kinematics()
        inputs = [self.model.body_rootid, data.xpos, data.xquat, data.cvel, data.subtree_com]
        self._launch(tensors.read_bodies, (self.num_envs, self.num_bodies), [*inputs, self._ctype(self.body_state)])

    def refresh_contact_forces(self) -> None:
        self.net_contact_force.copy_(wp.to_torch(self._contact_force))

    def refresh_force_sensors(self) -> None:
        self.force_sensor.copy_(wp.to_torch(self._sensor_wrench))

    def write_root_states(self, states: torch.Tensor, indices: torch.Tensor) -> None:
        data = self.data
        kernel, state = tensors.write_floating_roots, [data.qpos, data.qvel]
        if self.fixed:
            kernel, state = tensors.write_fixed_roots, [data.mocap_pos, data.mocap_quat]
        rows = self.checked(states, "root states", (self.num_envs, 13))
        self._launch(kernel, len(indices), [rows, self.checked_indices(indices), *state, data.qacc_warmstart])
        self._kinematics_stale = True

    def write_dof_states(self, states: torch.Tensor, indices: torch.Tensor) -> None:
        rows = self.checked(states, "DOF states", (self.num_envs, self.num_dofs, 2))
        inputs = [rows, self.checked_indices(indices), self.qpos_start, self.qvel_start]
        state = [self.data.qpos, self.data.qvel, self.data.qacc_warmstart]
        self._launch(tensors.write_dofs, (len(indices), self.num_dofs), [*inputs, *state])
        self._kinematics_stale = True

    def write_efforts(self, efforts: torch.Tensor, indices: torch.Tensor) -> None:
        rows = self.checked(efforts, "actuation forces", (self.num_envs, self.num_dofs))
        inputs = [rows, self.checked_indices(indices), self.qvel_start, self.data.qfrc_applied]
        self._launch(tensors.write_efforts, (len(indices), self.num_dofs), inputs)

    def write_targets(self, targets: torch.Tensor, indices: torch.Tensor, velocity: bool) -> None:
        rows = self.checked(targets, "targets", (self.num_envs, self.num_dofs))
        gain = self._ctype(self._velocity_gain if velocity else self._position_gain)
        inputs = [rows, self.checked_indices(indices), gain, self.data.ctrl]
        self._launch(tensors.write_targets, (len(indices), self.num_dofs), inputs)

    def add_external_forces(
        self,
        forces: torch.Tensor | None,
        positions: torch.Tensor | None,
        torques: torch.Tensor | None,
        local: bool,
    ) -> None:
        """Forces act at the bodies' centres of mass, or at ``positions``; for the next ``simulate``."""
        given = [("forces", forces), ("positions", positions), ("torques", torques)]
        shape = (self.num_envs, self.num_bodies, 3)
        arrays = [self._nothing if each is None else self.checked(each, name, shape) for name, each in given]
        data = self.data
        with self.stream():
            self._fresh_kinematics()
        inputs = [*arrays, int(local), data.xpos, data.xquat, data.xipos, data.xfrc_applied]
        self._launch(tensors.add_external_forces, shape[:2], inputs)

    def _launch(self, kernel: wp.Kernel, dim, inputs: list) -> None:
        with self.stream():
            wp.launch(kernel, dim, inputs)

    def _ctype(self, tensor: torch.Tensor):
        return wp.from_torch(tensor, return_ctype=True)

    def checked(self, tensor: torch.Tensor, what: str, shape: tuple[int, ...]):
        """A user's tensor for a kernel; its numbers may be arranged in other dimensions."""
        if tensor.dtype != torch.float32 or tensor.device != self.device or not tensor.is_contiguous():
            raise GymError(
                f"{what} are {tensor.dtype} on {tensor.device}, contiguous: {tensor.is_contiguous()}; "
                f"contiguous torch.float32 on {self.device} were expected"
            )
        if tensor.numel() != int(np.prod(shape)):
            raise GymError(f"{what} have the shape {tuple(tensor.shape)}; as many numbers as in {shape} were expected")
        return self._ctype(tensor.detach().view(shape))

    def checked_indices(self, indices: torch.Tensor):
        """Indices for a kernel. Only on the CPU they are compared with how many actors there are: a GPU would wait."""
        if indices.dtype != torch.int32 or indices.device != self.device or not indices.is_contiguous():
            raise GymError(
                f"actor indices are {indices.dtype} on {indices.device}; "
                f"contiguous torch.int32 on {self.device} were expected"
            )
        if not indices.is_cuda and len(indices) and not 0 <= indices.min() <= indices.max() < self.num_envs:
            raise GymError(
                f"actor indices go from {indices.min()} to {indices.max()}; there are {self.num_envs} actors"
            )
        return self._ctype(indices)


def on_device(model: mujoco.MjModel, batch_sizes: dict[str, int]) -> mjwarp.Model:
    """MuJoCo Warp's model, without its remark that a pair of shapes has one contact at a time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MULTICCD")
        return mjwarp.put_model(model, batch_sizes)
