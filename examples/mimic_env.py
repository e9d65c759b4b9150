"""A motion-mimicking environment in the shape of TWIST's, small enough to read: Isaac Gym's API and ``MotionLibCMG``.

Zero action tracks the reference: the joint target is the reference's position plus the scaled action.
"""

# Constants become names of gymapi when it is imported.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cmg_runtime.isaac_gym import require_same_joints
from cmg_runtime.motion_lib import MotionLibCMG
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES
from isaacgym import gymapi, gymtorch
from isaacgym.gymutil import parse_device_str
from isaacgym.torch_utils import quat_rotate_inverse


@dataclass(frozen=True)
class MimicCfg:
    """What an environment is made of."""

    engine: Path
    """The engine folder."""
    urdf: Path
    """The robot, with the engine's joints, or a G1's without those of the wrists."""
    num_envs: int = 64
    device: str = "cpu"
    mode: str = "realtime"
    backend: str = "auto"
    num_motions: int = 256
    """Of the pregenerated mode."""
    motion_length: int = 500
    """Frames that an episode lasts at most."""
    look_ahead: tuple[int, ...] = (1, 5, 10, 20, 40)
    """Frames of the reference that the policy sees."""
    key_bodies: tuple[str, ...] = KEY_BODIES
    dt: float = 0.005
    """Seconds of a step of physics."""
    decimation: int = 4
    """Steps of physics in one of the environment."""
    stiffness: float = 80.0
    """N m/rad, of every joint."""
    damping: float = 2.0
    """N m s/rad."""
    armature: float = 0.02
    """kg m^2, of every joint's motor: what keeps light limbs steady at these steps of physics."""
    action_scale: float = 0.25
    """rad."""
    max_body_error: float = 0.7
    """m, of any key body in the root's frame, beyond which an episode ends."""
    max_height_error: float = 0.25
    """m, of the root, likewise."""
    curriculum_gain: float = 0.05
    """By which a motion's weight in the draw grows after an early end, and falls after a full episode."""
    seed: int = 0


class MimicEnv:
    """Robots that follow motions of a library.

    Attributes:
        motion_lib: the library.
        motion_ids [N], start_times [N] s: which motion each environment follows, and where in it its episode began.
        episode_length [N]: steps since an episode began; as in legged_gym, it may be set to random numbers once.
        difficulty [num_motions]: weights of the draw.
        root_states [N, 13], dof_pos, dof_vel [N, D], body_pos [N, B, 3]: the simulation's, world frame.
        ref_root_pos [N, 3], ref_root_rot [N, 4], ref_dof_pos [N, D], ref_bodies [N, K, 3]: the reference now; key
            bodies in the root's frame.
    """

    def __init__(self, cfg: MimicCfg) -> None:
        self.cfg, self.device, self.num_envs = cfg, cfg.device, cfg.num_envs
        self.step_dt = cfg.dt * cfg.decimation
        self.gym = gymapi.acquire_gym()
        self._make_simulation()
        self._wrap_tensors()
        self.motion_lib = MotionLibCMG(
            cfg.engine,
            num_motions=cfg.num_motions,
            motion_length=cfg.motion_length,
            num_envs=cfg.num_envs,
            device=cfg.device,
            dof_dim=self.num_dof,
            mode=cfg.mode,
            backend=cfg.backend,
            body_names=cfg.key_bodies,
            horizon=max(cfg.look_ahead) + 1,
            control_dt=self.step_dt,
            seed=cfg.seed,
        )
        names = require_same_joints(self.motion_lib.joint_names, self.gym, self.envs[0], self.actors[0])
        self.key_ids = torch.tensor([names.index(name) for name in cfg.key_bodies], device=self.device)
        self.look_ahead = torch.tensor(cfg.look_ahead, device=self.device) / self.motion_lib.fps
        self.max_episode_length = round(cfg.motion_length / self.motion_lib.fps / self.step_dt)
        self.difficulty = torch.ones(self.motion_lib.num_motions(), device=self.device)
        self.motion_ids = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self.start_times = torch.zeros(self.num_envs, device=self.device)
        self.episode_length = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self.last_actions = torch.zeros(self.num_envs, self.num_dof, device=self.device)
        self.gravity = torch.tensor([0.0, 0.0, -1.0], device=self.device).expand(self.num_envs, 3)
        self.reset_idx(torch.arange(self.num_envs, device=self.device))

    def _make_simulation(self) -> None:
        cfg, gym = self.cfg, self.gym
        params = gymapi.SimParams()
        params.dt, params.substeps, params.up_axis = cfg.dt, 1, gymapi.UP_AXIS_Z
        params.gravity = gymapi.Vec3(0.0, 0.0, -9.81)
        kind, index = parse_device_str(cfg.device)
        params.use_gpu_pipeline = params.physx.use_gpu = kind == "cuda"
        self.sim = gym.create_sim(index, -1, gymapi.SIM_PHYSX, params)
        ground = gymapi.PlaneParams()
        ground.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        gym.add_ground(self.sim, ground)
        options = gymapi.AssetOptions()
        options.default_dof_drive_mode = gymapi.DOF_MODE_EFFORT
        options.collapse_fixed_joints = False  # hands and head are bodies
        options.armature, options.angular_damping = cfg.armature, 0.0
        asset = gym.load_asset(self.sim, str(cfg.urdf.parent), cfg.urdf.name, options)
        self.num_dof = gym.get_asset_dof_count(asset)
        limits = gym.get_asset_dof_properties(asset)
        self.max_torques = torch.tensor(limits["effort"], device=cfg.device)
        self.envs, self.actors = [], []
        reach, pose = gymapi.Vec3(2.0, 2.0, 2.0), gymapi.Transform()
        pose.p = gymapi.Vec3(0.0, 0.0, 1.0)
        for number in range(cfg.num_envs):
            self.envs.append(gym.create_env(self.sim, -reach, reach, max(1, int(cfg.num_envs**0.5))))
            self.actors.append(gym.create_actor(self.envs[-1], asset, pose, "robot", number, 0))
        gym.prepare_sim(self.sim)
        origins = [gym.get_env_origin(env) for env in self.envs]
        self.origins = torch.tensor([[origin.x, origin.y, origin.z] for origin in origins], device=cfg.device)

    def _wrap_tensors(self) -> None:
        gym, sim = self.gym, self.sim
        self.root_states = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim))
        self.dof_states = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim))
        bodies = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim))
        self.dof_pos, self.dof_vel = self.dof_states.view(self.num_envs, self.num_dof, 2).unbind(-1)
        self.body_pos = bodies.view(self.num_envs, -1, 13)[..., :3]

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step of ``decimation * dt`` seconds under ``actions`` [N, D]; observations [N, O] (of the new episode
        where one ended), rewards [N], and who ended [N] bool."""
        cfg, gym, sim = self.cfg, self.gym, self.sim
        targets = self.ref_dof_pos + cfg.action_scale * actions
        for _ in range(cfg.decimation):
            torques = cfg.stiffness * (targets - self.dof_pos) - cfg.damping * self.dof_vel
            torques = torch.clamp(torques, -self.max_torques, self.max_torques)
            gym.set_dof_actuation_force_tensor(sim, gymtorch.unwrap_tensor(torques))
            gym.simulate(sim)
            gym.fetch_results(sim, True)
            gym.refresh_dof_state_tensor(sim)
        gym.refresh_actor_root_state_tensor(sim)
        gym.refresh_rigid_body_state_tensor(sim)
        self.episode_length += 1
        self.last_actions[:] = actions
        self._update_reference()
        bodies_off = (self._bodies() - self.ref_bodies).norm(dim=-1)
        follows = bodies_off.amax(dim=1) < cfg.max_body_error
        follows &= (self.root_states[:, 2] - self.ref_root_pos[:, 2]).abs() < cfg.max_height_error
        ended = ~follows | (self.episode_length >= self.max_episode_length)
        rewards = torch.exp(-2.0 * (self.dof_pos - self.ref_dof_pos).square().mean(dim=1))
        rewards += torch.exp(-20.0 * bodies_off.square().mean(dim=1))
        env_ids = ended.nonzero().flatten()
        self._update_difficulty(env_ids)
        self.reset_idx(env_ids)
        return self.observe(), rewards, ended

    def reset_idx(self, env_ids: torch.Tensor) -> None:
        """Begin new episodes of ``env_ids`` [n]: motions are drawn, and the robots put where these begin."""
        if not len(env_ids):
            return
        ids = self.motion_lib.sample_motions(len(env_ids), motion_difficulty=self.difficulty)
        self.motion_ids[env_ids] = ids
        self.start_times[env_ids] = self.motion_lib.sample_time(ids)
        self.episode_length[env_ids] = 0
        self.last_actions[env_ids] = 0.0
        root_pos, root_rot, root_vel, root_ang_vel, dof_pos, dof_vel, _ = self.motion_lib.calc_motion_frame(
            ids, self.start_times[env_ids]
        )
        states = torch.cat([root_pos + self.origins[env_ids], root_rot, root_vel, root_ang_vel], dim=1)
        self.root_states[env_ids] = states
        self.dof_pos[env_ids], self.dof_vel[env_ids] = dof_pos, dof_vel
        indices = env_ids.int()
        whose = gymtorch.unwrap_tensor(indices), len(indices)
        self.gym.set_actor_root_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.root_states), *whose)
        self.gym.set_dof_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.dof_states), *whose)
        self._update_reference()

    def observe(self) -> torch.Tensor:
        """What the policy sees, [N, O]: its own joints, turning and uprightness, then the reference ahead."""
        rotation = self.root_states[:, 3:7]
        own = [
            self.dof_pos - self.ref_dof_pos,
            self.dof_vel,
            quat_rotate_inverse(rotation, self.root_states[:, 10:13]),
            quat_rotate_inverse(rotation, self.gravity),
            self.last_actions,
        ]
        return torch.cat([*own, self.reference_ahead().flatten(1)], dim=1)

    def reference_ahead(self) -> torch.Tensor:
        """The reference at the ``look_ahead`` frames, [N, L, 7 + D + 3 K]: height, velocity and turning of the root in
        its own frame, joints, key bodies."""
        times = (self._times()[:, None] + self.look_ahead).flatten()
        ids = self.motion_ids.repeat_interleave(len(self.look_ahead))
        root_pos, root_rot, root_vel, root_ang_vel, dof_pos, _, bodies = self.motion_lib.calc_motion_frame(ids, times)
        turning = quat_rotate_inverse(root_rot, root_ang_vel)
        velocity = quat_rotate_inverse(root_rot, root_vel)
        frames = torch.cat([root_pos[:, 2:], velocity, turning, dof_pos, bodies.flatten(1)], dim=1)
        return frames.view(self.num_envs, len(self.look_ahead), -1)

    def _times(self) -> torch.Tensor:
        return self.start_times + self.episode_length * self.step_dt

    def _update_reference(self) -> None:
        frames = self.motion_lib.calc_motion_frame(self.motion_ids, self._times())
        self.ref_root_pos, self.ref_root_rot, _, _, self.ref_dof_pos, _, self.ref_bodies = frames

    def _bodies(self) -> torch.Tensor:
        """Key bodies [N, K, 3] in the root's frame."""
        away = self.body_pos[:, self.key_ids] - self.root_states[:, None, :3]
        rotation = self.root_states[:, None, 3:7].expand(-1, len(self.key_ids), -1)
        return quat_rotate_inverse(rotation.reshape(-1, 4), away.reshape(-1, 3)).view_as(away)

    def _update_difficulty(self, env_ids: torch.Tensor) -> None:
        """Motions that end early come more often, those that are followed to the end less."""
        done = self.episode_length[env_ids] / self.max_episode_length
        gain = self.cfg.curriculum_gain * ((done < 0.5).float() - (done > 0.95).float())
        self.difficulty.scatter_reduce_(0, self.motion_ids[env_ids], 1.0 + gain, "prod").clamp_(0.1, 10.0)
