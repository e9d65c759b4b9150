"""The command term that owns the generator: velocity commands in, reference motion out, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
import tyro
from mjlab.entity import Entity
from mjlab.managers import CommandTerm, CommandTermCfg
from mjlab.utils.lab_api.math import quat_apply, quat_apply_inverse, quat_from_euler_xyz

from cmg_gym.mdp.captures import Captures
from cmg_gym.mdp.command_stages import TRAINING_STAGES, CommandStage, StagedCommands
from cmg_gym.mdp.episodes import NextEpisodes, StartNoise, disturbed
from cmg_gym.mdp.ghost import ghost_of
from cmg_gym.mdp.heading import heading_of
from cmg_gym.mdp.reference_sources import PregeneratedSource, RealtimeSource, ReferenceSource
from cmg_gym.mdp.start_states import StartStates
from cmg_runtime import Engine, EngineError, ReferenceFrames, load_engine
from cmg_runtime.backends import BACKENDS

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.viewer.debug_visualizer import DebugVisualizer
    from mujoco import MjModel  # pyright: ignore[reportAttributeAccessIssue]

COMMAND_NAME = "reference"
"""Of the term in the task."""

COMMANDS_EVERY = 20
"""Control steps. New commands take effect together, and next episodes are drawn together: all cost little more than a
few."""

AVERAGED_S = 1.0
"""s: about a gait cycle (1.1 s at 0.8 m/s, 0.9 s at 1.2 m/s)."""

_BACKEND_HELP = f"auto, or one of the runtime's backends: {', '.join(reversed(BACKENDS))}."


def heading_velocity(robot: Entity, heading: torch.Tensor) -> torch.Tensor:
    """[num_envs, 3] roots' velocities forward and to the left (m/s) in ``heading`` [num_envs, 4], yaw rates (rad/s)."""
    velocity = quat_apply_inverse(heading, robot.data.root_link_lin_vel_w)
    return torch.cat([velocity[:, :2], robot.data.root_link_ang_vel_w[:, 2:]], dim=1)


@dataclass(kw_only=True)
class ReferenceCommandCfg(CommandTermCfg):
    """Configuration of :class:`ReferenceCommand`."""

    entity_name: str = "robot"
    engine: str
    """The engine folder."""
    cmg_backend: Annotated[str, tyro.conf.arg(help=_BACKEND_HELP)] = "auto"
    cmg_mode: Literal["realtime", "pregenerated"] = "realtime"
    """Whether frames are generated as they are needed, or looked up in trajectories made at the start."""
    precision: Literal["fp32", "fp16"] | None = None
    command_ramp_s: float = 0.5
    offsets: tuple[int, ...] = ()
    """Frames ahead that some term asks for; 0 and 1 are always there. The largest sets the engine's horizon."""
    key_bodies: tuple[str, ...] = ()
    stages: tuple[CommandStage, ...] = TRAINING_STAGES
    standing_share: float = 0.1
    one_axis_share: float = 0.4
    slow_share: float = 0.3
    num_trajectories: int = 1024
    """Trajectories that episodes start from."""
    start_span_s: float = 2.0
    """How much of each, after it has settled, episodes start from."""
    trajectory_seed: int | None = None
    """Of these trajectories: one for all GPUs of a training. None: the environment's, which is another on each."""
    pregenerated_s: float = 20.0
    """How far a pregenerated reference goes on behind it. Then it repeats: give it the episode's length."""
    start_noise: StartNoise | None = None
    start_height: float = 0.005
    """m above the ground, so that noise of the joints does not put a foot into it."""

    def build(self, env: ManagerBasedRlEnv) -> ReferenceCommand:
        return ReferenceCommand(self, env)


class ReferenceCommand(CommandTerm):
    """Velocity commands, and the reference motion that the generator makes of them.

    Of every environment the *current* frame (offset 0) goes with the robot's present state, and the *target* (offset
    1) is where the robot should be at the end of the control step that is about to begin. So the reward, which mjlab
    computes before commands advance, compares the robot with the target, and zero action aims at it.

    An episode begins in the current frame of a settled gait, with the robot in that state, under the command of that
    gait, which is near to the episode's own. Its own, and every new one in mid-episode, is approached in a ramp; a
    command that is held (:meth:`hold`) is there from the start.

    Attributes:
        engine: the generator.
        source, states: what asks it for frames, and where episodes start.
        offsets: frames ahead that there are, ascending.
        frames: [num_envs, K, ...] the reference at the offsets of :meth:`places`; overwritten at every step.
        command: [num_envs, 3] the command in force at the current frame, m/s, m/s, rad/s, in the heading frame.
        mean_error: [num_envs, 3] moving average of the robot's velocity less that command, e <- e + (v - c - e) dt /
            AVERAGED_S, from zero at an episode's start.
    """

    cfg: ReferenceCommandCfg

    launches_graphs = True
    """Its update: the engine's own, which cannot be part of another."""
    reads = ("robot_heading",)
    """Methods without arguments that compute from the robot's state alone, so that once is enough for all who ask."""

    def __init__(self, cfg: ReferenceCommandCfg, env: ManagerBasedRlEnv) -> None:
        super().__init__(cfg, env)
        self.robot: Entity = env.scene[cfg.entity_name]
        self.offsets = offsets = tuple(sorted({0, 1, *cfg.offsets}))
        seed = env.cfg.seed or 0
        self.engine = self._load_engine(cfg.cmg_backend)
        self._require_same_robot()
        shares = cfg.standing_share, cfg.one_axis_share, cfg.slow_share
        self.sampler = StagedCommands(cfg.stages, self.engine.command_range, *shares, seed)
        num_frames, ahead = round(cfg.start_span_s * self.engine.fps), offsets[-1]
        if cfg.cmg_mode == "pregenerated":
            ahead += round(cfg.pregenerated_s * self.engine.fps)
        trajectory_seed = seed if cfg.trajectory_seed is None else cfg.trajectory_seed
        self.states = StartStates(self.engine, cfg.num_trajectories, num_frames, ahead, seed, trajectory_seed)
        self.source: ReferenceSource = (
            RealtimeSource(self.engine, self.states, offsets)
            if cfg.cmg_mode == "realtime"
            else PregeneratedSource(self.states, self.num_envs, offsets, self.engine.device)
        )
        key_bodies = [self.robot.body_names.index(name) for name in self.engine.key_body_names]
        self._key_body_ids = torch.tensor(key_bodies, device=self.device)
        self._places: dict[tuple[int, ...], torch.Tensor] = {}
        self._wanted = torch.zeros(self.num_envs, 3, device=self.device)
        self._changed = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._until_change = 0
        self._starting = torch.zeros_like(self._changed)
        self._held = False
        self._num_robots = getattr(env, "num_robots", self.num_envs)  # a captured environment has a spare world behind
        self._ghost: MjModel | None = None
        everyone = torch.arange(self.num_envs, device=self.device)
        names = ("error_vel_xy", "error_yaw_rate", "error_joint")
        self._errors = torch.zeros(len(names), self.num_envs, device=self.device)  # means over the episode so far
        self._num_measured = torch.zeros(self.num_envs, device=self.device)
        self.mean_error = torch.zeros(self.num_envs, 3, device=self.device)
        self.metrics = dict(zip(names, self._errors, strict=True))
        self._next: NextEpisodes | None = None
        self.draw_episodes()
        # The other managers look at the reference once before the first reset.
        self._start(everyone)
        self._update_command(everyone)

    @property
    def command(self) -> torch.Tensor:
        return self._command

    @property
    def target(self) -> ReferenceFrames:
        """[num_envs, ...]: where the robot should be at the end of the control step."""
        return ReferenceFrames(*(field[:, 1] for field in self.frames))

    def places(self, offsets: Sequence[int]) -> torch.Tensor:
        """Where the frames at ``offsets`` stand in the second dimension of :attr:`frames`.

        int64, kept on the device: a list would be copied there at every use.
        """
        wanted = tuple(offsets)
        if wanted not in self._places:
            self._places[wanted] = torch.tensor([self.offsets.index(offset) for offset in wanted], device=self.device)
        return self._places[wanted]

    def hold(self, command: torch.Tensor | Sequence[float]) -> None:
        """Give every environment its command [num_envs, 3] or [3] for good: from its next reset, or by a ramp from the
        next step on."""
        wanted = torch.as_tensor(command, dtype=torch.float32, device=self.device)
        self._wanted[: len(wanted) if wanted.dim() == 2 else None] = wanted
        self._held = True
        self._changed[:] = True
        self._until_change = 0
        self.draw_episodes()
        self._graphs_are_outdated()

    def use_backend(self, backend: str) -> None:
        """Generate with another backend from here on; reset the environment next."""
        self.engine = self._load_engine(backend)
        self.source = RealtimeSource(self.engine, self.states, self.offsets)
        self._changed[:] = False
        self.draw_episodes()
        self._graphs_are_outdated()

    def _graphs_are_outdated(self) -> None:
        """Tell an environment that has captured this term's code: it reads other tensors, or takes other ways, now."""
        if isinstance(self._env, Captures):
            self._env.capture_again()

    def _load_engine(self, backend: str) -> Engine:
        cfg = self.cfg
        return load_engine(
            cfg.engine,
            self.num_envs,
            self.device,
            backend=backend,
            precision=cfg.precision,
            seed=self._env.cfg.seed or 0,
            horizon=self.offsets[-1] + 1,
            command_ramp_s=cfg.command_ramp_s,
            key_bodies=cfg.key_bodies,
        )

    def reset(self, env_ids: torch.Tensor | slice | None) -> dict[str, float]:
        assert isinstance(env_ids, torch.Tensor)
        extras = super().reset(env_ids)
        self._changed[env_ids] = not self._held  # an episode starts under the command of its trajectory
        self._start(env_ids)
        return extras

    def draw_episodes(self) -> None:
        """Draw how the next episode of every environment begins."""
        commands = self._wanted if self._held else self.sampler.draw(self.num_envs)
        starts = self.states.draw(commands)
        frames, origin = starts.frames, self._env.scene.env_origins
        heading = self._draw_headings()
        velocity = quat_apply(heading, quat_apply_inverse(frames.root_rot, frames.root_vel))
        height = frames.root_pos[:, 2] + self.cfg.start_height
        root_pos = torch.stack([origin[:, 0], origin[:, 1], origin[:, 2] + height], dim=1)
        root = torch.cat([root_pos, heading, velocity, frames.root_ang_vel], dim=1)
        limits = self.robot.data.soft_joint_pos_limits
        states = disturbed(root, frames.dof_pos, frames.dof_vel, limits, self.cfg.start_noise)
        drawn = NextEpisodes(commands, *states)
        if self._next is None:
            self._next = drawn
        self._next.copy_(drawn)
        self.source.plan(starts, origin, heading, commands if self._held else None)

    def _draw_headings(self) -> torch.Tensor:
        """[num_envs, 4] quaternions (w, x, y, z) of random headings."""
        zero = torch.zeros(self.num_envs, device=self.device)
        return quat_from_euler_xyz(zero, zero, torch.empty_like(zero).uniform_(-math.pi, math.pi))

    def _start(self, env_ids: torch.Tensor) -> None:
        """Put the robots of ``env_ids`` into settled gait; the engine follows in :meth:`_update_command`.

        mjlab updates commands of every environment right after a reset; only there, behind the step, is the place for
        a current frame that goes with the robot's state.
        """
        following = self._next
        assert following is not None
        self.robot.write_joint_state_to_sim(following.dof_pos[env_ids], following.dof_vel[env_ids], env_ids=env_ids)
        self.robot.write_root_state_to_sim(following.root[env_ids], env_ids=env_ids)
        self.robot.reset(env_ids=env_ids)
        self._starting[env_ids] = True

    def _resample_command(self, env_ids: torch.Tensor) -> None:
        if self._held:
            return
        assert self._next is not None
        self._wanted[env_ids] = self._next.commands[env_ids]
        self._changed[env_ids] = True

    def _update_command(self, env_ids: torch.Tensor | None) -> None:
        if env_ids is None:
            self.source.step()
        if self._held:  # what follows is generated, and nobody needs that of a spare world, which begins in every step
            self._starting[self._num_robots :] = False
        self.source.start(self._starting)
        # What mjlab has measured since the reset was of the episode before.
        self._errors.masked_fill_(self._starting, 0.0)
        self._num_measured.masked_fill_(self._starting, 0.0)
        self.mean_error.masked_fill_(self._starting.unsqueeze(1), 0.0)
        self._starting.zero_()
        if env_ids is None:
            self._pass_on_changes()
        else:
            self.draw_episodes()  # the environment may be reset again before the next step
        self.frames = self.source.frames()
        self._command = self.source.command

    def _pass_on_changes(self) -> None:
        self._until_change -= 1
        if self._until_change < 0:
            self._until_change = COMMANDS_EVERY - 1
            self.source.set_command(self._changed, self._wanted)
            self._changed.zero_()
            self.draw_episodes()

    def _update_metrics(self) -> None:
        error = self.robot_velocity() - self._command
        self.mean_error += (error - self.mean_error) * (self._env.step_dt / AVERAGED_S)
        joints = (self.robot.data.joint_pos - self.target.dof_pos).square().mean(dim=1).sqrt()
        errors = torch.stack([error[:, :2].norm(dim=1), error[:, 2].abs(), joints])
        self._num_measured += 1
        self._errors += (errors - self._errors) / self._num_measured

    def robot_heading(self) -> torch.Tensor:
        """[num_envs, 4] quaternions (w, x, y, z) of the robots' headings: turns about z only."""
        return heading_of(self.robot.data.root_link_quat_w)

    def robot_velocity(self) -> torch.Tensor:
        """[num_envs, 3] roots' velocities forward and to the left (m/s), in heading frames, and yaw rates (rad/s)."""
        return heading_velocity(self.robot, self.robot_heading())

    def robot_key_bodies(self) -> torch.Tensor:
        """[num_envs, B, 3] the robots' key bodies from the root, in the heading frame, m."""
        data, ids = self.robot.data, self._key_body_ids
        offset = data.body_link_pos_w[:, ids] - data.root_link_pos_w.unsqueeze(1)
        return quat_apply_inverse(self.robot_heading().unsqueeze(1).expand(-1, len(ids), -1), offset)

    def _require_same_robot(self) -> None:
        if tuple(self.robot.joint_names) != tuple(self.engine.joint_names):
            raise EngineError(
                f"engine {self.engine.manifest.name!r} has other joints than the robot, or in another order; "
                f"expected {', '.join(self.robot.joint_names)}"
            )
        if not math.isclose(self.engine.fps * self._env.step_dt, 1.0, rel_tol=1e-6):
            raise EngineError(
                f"the engine makes {self.engine.fps:g} frames a second and the environment {1 / self._env.step_dt:g} "
                "control steps; set the environment's decimation so that they are equal"
            )

    def _debug_vis_impl(self, visualizer: DebugVisualizer) -> None:
        """The reference as a ghost: where the robot is, in its heading, in the pose and height of the current frame."""
        if self._ghost is None:
            self._ghost = ghost_of(self._env.sim.mj_model)
        indexing = self.robot.indexing
        root_adr, joint_adr = indexing.free_joint_q_adr.cpu().numpy(), indexing.joint_q_adr.cpu().numpy()
        heading = self.robot_heading()
        for env_id in visualizer.get_env_indices(self.num_envs):
            qpos = self._env.sim.mj_model.qpos0.copy()
            qpos[root_adr[:2]] = self.robot.data.root_link_pos_w[env_id, :2].cpu().numpy()
            qpos[root_adr[2]] = float(self.frames.root_pos[env_id, 0, 2])
            qpos[root_adr[3:]] = heading[env_id].cpu().numpy()
            qpos[joint_adr] = self.frames.dof_pos[env_id, 0].cpu().numpy()
            visualizer.add_ghost_mesh(qpos, model=self._ghost, label=f"reference_{env_id}")


def reference(env: ManagerBasedRlEnv, command_name: str = COMMAND_NAME) -> ReferenceCommand:
    """The environment's reference command term."""
    return cast(ReferenceCommand, env.command_manager.get_term(command_name))
