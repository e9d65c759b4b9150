"""The engine: the reference motion of every environment, one frame forward at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ContextManager, Sequence

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.device.lifetime import Closable
from cmg_runtime.device.memory import room_for
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.limits import limits
from cmg_runtime.folder.manifest import Artifact, Manifest
from cmg_runtime.guard import Guard, GuardWatch
from cmg_runtime.inputs import EnvSelection, as_count, as_floats, as_integers, as_mask, as_rows, select_envs
from cmg_runtime.window.footprint import pool_bytes, rollout_bytes
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.future_view import FutureView
from cmg_runtime.window.offsets import as_offsets
from cmg_runtime.window.plain.queries import MotionRows
from cmg_runtime.window.plain.rows import FrameWriter, require_root_motion
from cmg_runtime.window.plain.starts import PoolStarts
from cmg_runtime.window.planned_starts import PlannedStarts
from cmg_runtime.window.pool import TrajectoryPool, generate_pool
from cmg_runtime.window.readiness import Readiness, of_a_sound_engine
from cmg_runtime.window.report import Counters, Report
from cmg_runtime.window.ring import Window
from cmg_runtime.window.rollout import as_commands, per_frame, roll_out
from cmg_runtime.window.single_frame import SingleFrame
from cmg_runtime.window.state import EngineState, WindowBuffers
from cmg_runtime.window.twins import bad_row_replacement, make_changes, make_pool_starts


@dataclass(frozen=True)
class EngineOptions:
    """What whoever loads an engine chooses: arguments of :func:`cmg_runtime.load_engine`, checked."""

    num_envs: int
    device: torch.device
    horizon: int
    command_ramp_s: float
    seed: int


@dataclass(frozen=True)
class Selected:
    """A backend that is loaded and ready, the artifact that it runs, and in one sentence why it was chosen."""

    backend: Backend
    artifact: Artifact
    why: str


class Engine(Closable):
    """Motion references for ``num_envs`` environments. Made by :func:`cmg_runtime.load_engine`.

    A motion state is [joint positions (rad), joint velocities (rad/s)] in the order of :attr:`joint_names`; a
    command is (vx, vy, yaw rate) in m/s, m/s, rad/s in the robot's own frame; a frame is ``1 / fps`` seconds.

    A reset is a new beginning: its command is in force from its frame on. A change of command by :meth:`set_command` is
    approached linearly: the command in force moves from what it is to the new one in ``command_ramp_s`` seconds. With
    0 s the frames after the current one are under the new command at once.

    With a horizon of at least 2 the engine holds a window: the current frame and the ``horizon - 1`` frames that
    follow if no command changes, with the root's motion and the key bodies. A step generates one frame, at the far
    end; a reset or a new command makes the windows of its environments anew, from their current frame. Each environment
    has a place of its own in time: a step, a reset or a command of some leaves all others as they are, bit for bit.

    Arguments may be tensors, numpy arrays or lists of any real type, on the host or on the engine's device; a
    single row stands for all rows. ``env_ids`` is None (every environment), distinct ids [n], or a bool mask
    [num_envs]; the data that goes with a mask has one row per environment, of which the chosen are used.
    A wrong argument raises :class:`EngineError` and leaves the engine as it was.

    On a CUDA device the host never waits for the GPU once every environment has been reset. Values that are on
    the GPU already, or go with a mask, are therefore not looked at: rows that are not finite are ignored and counted
    (see :meth:`report`), an id out of range fails PyTorch's device-side assert, and of an id given twice one row
    wins. On the host all three raise. How many environments a mask chooses is not looked at either: with a window, a
    mask costs as much as all environments, and ids at most as much as the next of 16, 64, 256, 1024 or ``num_envs``.
    Steps and rebuilt windows are CUDA graphs on the caller's current stream.

    :meth:`close`, or the end of ``with load_engine(...) as engine:``, frees the backend's session, the buffers and the
    graphs, as dropping the engine and all that it made does. After that every use raises :class:`EngineError`, also of
    future views and planned starts; pools, and tensors that the caller holds, stay. A CUDA graph of the caller's own
    with steps of the engine must not be replayed then. An engine cannot be pickled or copied: load it in the worker
    that needs it. A forked worker may use the one it inherits, on a CPU (:mod:`cmg_runtime.device.forks`).

    Attributes:
        num_envs, device: environments in the batch, and where everything lives.
        joint_names, fps: one name per joint; frames a second.
        horizon: frames of the window, the current one included; 1 without a window.
        key_body_names: names of the key bodies in the order of ``key_body_pos``.
        command_range: (min, max), [command_dim] each, on the device. Commands are clamped to it.
        dof_pos, dof_vel: the current frame [num_envs, num_joints], rad and rad/s: read-only live views of a buffer
            that :meth:`step` and :meth:`reset` overwrite in place. Their addresses never change; clone what must last.
        command: the commands [num_envs, command_dim] that were set last, after clamping; a live view too.
        bank: initial motion states [K, motion_dim] that :meth:`reset` draws from.
        backend_name, precision: what computes: one of :data:`cmg_runtime.backends.BACKENDS`; "fp32" or "fp16".
        selection: one sentence on why that backend and precision were chosen.
        manifest: everything that the engine folder says about itself.
    """

    def __init__(
        self,
        manifest: Manifest,
        bank: torch.Tensor,
        selected: Selected,
        writer: FrameWriter | None,
        options: EngineOptions,
    ) -> None:
        num_envs, device = options.num_envs, options.device
        self.num_envs = num_envs
        self.device = device
        self.joint_names = manifest.joint_names
        self.fps = manifest.fps
        self.horizon = options.horizon
        self.key_body_names = () if writer is None else writer.key_body_names
        self._counters = Counters(manifest.command_range, device)
        self.command_range = self._counters.command_range
        self.bank = bank
        self.backend_name = selected.artifact.backend
        self.precision = selected.artifact.precision
        self.selection = selected.why
        self.manifest = manifest
        self._backend = selected.backend
        self._writer = writer
        low, high = limits(manifest, bank)
        self._guard = Guard(low, high, bank, num_envs, self._counters.replaced, bad_row_replacement(device))
        ramp_frames = options.command_ramp_s * manifest.fps
        self._state = EngineState(manifest, num_envs, device, ramp_frames, self._backend, self._guard, options.seed)
        current = self._state.current[:num_envs]
        self.command = self._state.ramp.target[:num_envs]
        self.dof_pos = current[:, : manifest.sizes.num_joints]
        self.dof_vel = current[:, manifest.sizes.num_joints :]
        self._window = self._pool_starts = buffers = None
        if self.horizon > 1:
            root_writer = require_root_motion(writer)
            buffers = WindowBuffers.of(self._state, self.horizon, root_writer.layout.width)
            self._pool_starts = make_pool_starts(buffers, self._counters, root_writer)
        self._changes = make_changes(self._state, self._counters, buffers)
        if buffers is not None:
            self._window = Window(self._state, buffers, require_root_motion(writer), self._changes)
        self._stepper = self._window or SingleFrame(self._state, self._changes)
        self._stepper.clear()
        self._guard.clear()
        self._watch = GuardWatch(self._counters.replaced, repr(self))
        self._ready = Readiness(num_envs)
        self._made()

    def _owned(self) -> list[Any]:
        buffers = [] if self._window is None else [self._window.buffers]
        return [self._backend, self._state, self._stepper, *buffers]

    def _end(self, why: str) -> None:
        self._ready.end(why)
        super()._end(why)

    def __repr__(self) -> str:
        if self._ended is not None:
            return f"Engine({self._ended})"
        return (
            f"Engine({self.manifest.name!r}, num_envs={self.num_envs}, device='{self.device}', "
            f"backend={self.backend_name!r}, precision={self.precision!r}, horizon={self.horizon})"
        )

    @property
    @of_a_sound_engine
    def command_in_force(self) -> torch.Tensor:
        """The commands [num_envs, command_dim] at the current frame, on their way to :attr:`command`. A new tensor."""
        return self._state.ramp.now()[: self.num_envs]

    @of_a_sound_engine
    def reset(
        self,
        env_ids: Any = None,
        motion: Any = None,
        command: Any = None,
        root_pos: Any = None,
        root_rot: Any = None,
    ) -> None:
        """Set the current frame of some environments, and make their windows anew; the others keep theirs bit for bit.

        Args:
            env_ids: which; see the class.
            motion: [n, motion_dim] or [motion_dim], physical units; it becomes the current frame. None draws
                from the bank with the engine's own seeded generator.
            command: [n, command_dim] or [command_dim], in force from the current frame on: no ramp. None keeps what was
                set last (zero at first), and a ramp to it ends here.
            root_pos: [n, 3] or [3], world, m: the point on the ground below the root, an environment's origin for
                example. x and y become the root's; z is the ground's height from now on, and the root's height above
                it comes from kinematics. None: what was last given for the environment, here or to :meth:`start`,
                (0, 0, 0) at first. Needs a window.
            root_rot: [n, 4] or [4], world, quaternion (w, x, y, z) of any length but 0. Only its heading (yaw) is
                used. None: what was last given, along x at first. Needs a window.
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        commands = None if command is None else as_rows(command, envs, self.command.shape[1], "command", self.device)
        positions = self._pose_rows(root_pos, 3, envs, "root_pos")
        rotations = self._pose_rows(root_rot, 4, envs, "root_rot")
        motions = self._changes.draw(envs.num_rows) if motion is None else self._motions(motion, envs)
        with self._ready:
            self._changes.reset(envs, motions, positions, rotations, commands)
            self._stepper.rebuild(envs)
            self._ready.note(envs)

    @of_a_sound_engine
    def start(
        self,
        pool: TrajectoryPool,
        trajectory_ids: Any,
        frame_ids: Any,
        env_ids: Any = None,
        root_pos: Any = None,
        root_rot: Any = None,
    ) -> None:
        """Let environments go on from the middle of a pool's trajectories. As good as a reset, at the cost of a copy.

        The window is the frame and those that follow it in the pool, moved to the new place; from there on the engine
        generates. The command is the trajectory's, in force as it was there.

        Args:
            pool: made by :meth:`make_pool` of an engine like this one, with commands [num_trajectories, 3].
            trajectory_ids: [n] integers, or [num_envs] with a mask.
            frame_ids: [n] integers in 0..num_frames-horizon; others give the nearest and are counted by the pool.
            env_ids: which; see the class.
            root_pos, root_rot: as in :meth:`reset`, which remembers what is given here and the other way round.

        Raises:
            EngineError: a wrong argument, a pool that does not fit, or the engine has no window.
        """
        starts = self._starts_from(pool, "start()")
        envs = select_envs(env_ids, self.num_envs, self.device)
        trajectories, frames = pool.checked(trajectory_ids, frame_ids, envs.num_rows, envs.mask)
        positions = self._pose_rows(root_pos, 3, envs, "root_pos")
        rotations = self._pose_rows(root_rot, 4, envs, "root_rot")
        with self._ready:
            starts.start(pool, envs, trajectories, frames, positions, rotations)
            self._ready.note(envs)

    @of_a_sound_engine
    def planned_starts(self, pool: TrajectoryPool) -> PlannedStarts:
        """As :meth:`start`, for whoever begins, from places of ``pool`` that are planned for every environment.

        Raises:
            EngineError: a pool that does not fit, or the engine has no window or has failed.
        """
        starts = self._starts_from(pool, "planned_starts()")
        return PlannedStarts(self.start, starts, pool, self.num_envs, self._ready)

    @of_a_sound_engine
    def set_command(self, command: Any, env_ids: Any = None) -> None:
        """Change the command of some environments; the motion goes on from the current frame, which stays as it is.

        The new command is approached in ``command_ramp_s``. The windows of these environments are made anew. A command
        that an environment has already changes nothing about its ramp.

        Args:
            command: [n, command_dim] or [command_dim]. Entries outside :attr:`command_range` are clamped and counted.
            env_ids: which; see the class.
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        commands = as_rows(command, envs, self.command.shape[1], "command", self.device)
        with self._ready:
            self._changes.set_command(envs, commands)
            self._stepper.rebuild(envs)

    @of_a_sound_engine
    def step(self, moving: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Move every environment one frame forward, or those that ``moving`` chooses; the others keep every bit.

        Args:
            moving: bool mask [num_envs], on the engine's device or the host. It costs what a step of all costs, and the
                copy of the mask.

        Returns:
            :attr:`dof_pos` and :attr:`dof_vel`, the new current frame: after a reset, the first generated one.

        Raises:
            EngineError: some environment was never reset, a wrong mask, or the engine has failed.
        """
        self._ready.require_reset("step()")
        mask = None if moving is None else as_mask(moving, self.num_envs, "moving", self.device)
        with self._ready:
            self._stepper.step(mask)
        self._watch.step()
        return self.dof_pos, self.dof_vel

    @of_a_sound_engine
    def future(self, offsets: Sequence[int]) -> ReferenceFrames:
        """Frames ahead of every environment.

        Args:
            offsets: K integers in 0..horizon-1, frames after the current one. Their tensor is kept from call to call.

        Returns:
            [num_envs, K, ...]: views of one new tensor, not contiguous.

        Raises:
            EngineError: an offset is outside the window, the engine has none, or some environment was never reset.
        """
        window = self._require_window("future()")
        self._ready.require_reset("future()")
        wanted = as_offsets(offsets)
        with self._room_for_frames(len(wanted) * self.num_envs):
            return window.future(wanted)

    @of_a_sound_engine
    def future_view(self, offsets: Sequence[int]) -> FutureView:
        """As :meth:`future`, and the command in force, in memory of their own that each refresh overwrites.

        Args:
            offsets: as of :meth:`future`.

        Raises:
            EngineError: an offset is outside the window, or the engine has none or has failed.
        """
        window, wanted = self._require_window("future_view()"), as_offsets(offsets)
        with self._room_for_frames(len(wanted) * self.num_envs):
            return FutureView(window, wanted, self._ready)

    @of_a_sound_engine
    def frames(self, env_ids: Any, offsets: Any) -> ReferenceFrames:
        """Single frames: the one at ``offsets[i]`` of environment ``env_ids[i]``, for every i.

        Args:
            env_ids: [M] integers; an environment may occur many times.
            offsets: [M] integers. Those outside 0..horizon-1 give the window's first or last frame, and are counted.

        Returns:
            [M, ...]: views of one new tensor.

        Raises:
            EngineError: not integers, unequal lengths, an environment out of range (on the host), no window, no reset.
        """
        window = self._require_window("frames()")
        self._ready.require_reset("frames()")
        ids = as_integers(env_ids, None, "env_ids", self.device, self.num_envs)
        wanted = as_integers(offsets, len(ids), "offsets", self.device)
        with self._room_for_frames(len(ids)):
            return window.lookup(ids, self._counters.clamp_lookups(wanted, self.horizon - 1))

    @of_a_sound_engine
    def motion_rows(self) -> MotionRows:
        """The windows as motions, to be queried at times between frames by
        :func:`cmg_runtime.window.twins.make_frame_queries`: live tensors, not to be written.

        Raises:
            EngineError: the engine has no window or has failed.
        """
        return self._require_window("motion_rows()").motion_rows()

    @of_a_sound_engine
    def rollout(self, motion: Any, commands: Any, num_frames: int | None = None) -> torch.Tensor:
        """Roll out any number of motions, apart from the engine's environments.

        Commands are clamped and counted, and in force at once: there is no ramp. The host waits.

        Args:
            motion: [n, motion_dim], physical units, the frame that each rollout starts from.
            commands: [n, T, command_dim], a command per frame, or [n, command_dim] or [command_dim], held.
            num_frames: T. Needed, and allowed, only for commands that are held.

        Raises:
            EngineError: a wrong argument, or the result does not fit into memory.

        Returns:
            [n, T + 1, motion_dim]: ``motion``, then the T generated frames. A new tensor.
        """
        state = as_floats(motion, [(None, self.bank.shape[1])], "motion", self.device)
        self._guard.require_within(state, "motion")
        given = per_frame(as_commands(commands, len(state), self.command.shape[1], self.device), num_frames)
        n, frames, width = given.shape
        what = f"a rollout of {n} motions over {frames} frames"
        with room_for(rollout_bytes(n, frames, state.shape[1], width), self.device, what, "ask for fewer"):
            return roll_out(self._backend, self._guard, state, self._counters.clamp_commands(given))

    @of_a_sound_engine
    def make_pool(self, num_trajectories: int, num_frames: int, commands: Any, motion: Any = None) -> TrajectoryPool:
        """Generate trajectories once, to be only looked up afterwards. The engine's environments are left alone.

        Takes some 400 bytes a frame (a G1 with nine key bodies). Commands are clamped and counted. The host waits.

        Args:
            num_trajectories, num_frames: P and F, at least 1; F includes the initial state.
            commands: [P, F - 1, 3], a command per generated frame, in force at once; or [P, 3] or [3], approached
                from zero in ``command_ramp_s`` and held.
            motion: [P, motion_dim] or [motion_dim], the initial states. None draws them from the bank.

        Raises:
            EngineError: a wrong argument, the pool does not fit into memory, or the engine's commands are not (vx, vy,
                yaw rate).
        """
        n, num_frames = as_count(num_trajectories, "num_trajectories"), as_count(num_frames, "num_frames")
        writer = require_root_motion(self._writer)
        what = f"a pool of {n} trajectories of {num_frames} frames"
        with room_for(pool_bytes(n, num_frames, writer.layout), self.device, what, "make fewer or shorter ones"):
            given = as_commands(commands, n, 3, self.device, num_frames - 1)
            initial = self.bank[self._state.draw(n)] if motion is None else self._motions(motion, EnvSelection(n))
            self._guard.require_within(initial, "motion")
            held, ramp_frames = self._counters.clamp_commands(given), self._state.ramp.num_frames
            return generate_pool(self._backend, writer, self._guard, self.fps, initial, held, num_frames, ramp_frames)

    @of_a_sound_engine
    def report(self) -> Report:
        """Read the counters from the device (the host waits). The first time that one is not zero, warn."""
        return self._counters.report(repr(self))

    def _pose_rows(self, values: Any, width: int, envs: EnvSelection, name: str) -> torch.Tensor | None:
        if values is None:
            return None
        self._require_window(name)
        return as_rows(values, envs, width, name, self.device)

    def _room_for_frames(self, count: int) -> ContextManager[None]:
        """Where ``count`` frames of the window are copied. A GPU is not asked in a query: its allocator refuses."""
        if self.device.type != "cpu":
            return contextlib.nullcontext()
        needed = 4 * count * require_root_motion(self._writer).layout.width
        return room_for(needed, self.device, f"a copy of {count} frames", "ask for fewer")

    def _motions(self, values: Any, envs: EnvSelection) -> torch.Tensor:
        return as_rows(values, envs, self.bank.shape[1], "motion", self.device, self._guard.require_within)

    def _starts_from(self, pool: TrajectoryPool, name: str) -> PoolStarts:
        self._require_window(name)
        assert self._pool_starts is not None
        self._pool_starts.require_fit(pool)
        return self._pool_starts

    def _require_window(self, name: str) -> Window:
        if self._window is None:
            raise EngineError(f"{name} needs a window, and horizon is 1; load the engine with a horizon of 2 or more")
        return self._window
