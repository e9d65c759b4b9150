"""``CMGMotionGenerator``: joint references frame by frame, under the names that existing training code calls."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Dict, Tuple

import torch

from cmg_runtime.device.lifetime import Closable
from cmg_runtime.device.memory import require_memory
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.compiled import engine_folder
from cmg_runtime.inputs import EnvSelection, as_count, as_rows, require_choice, select_envs
from cmg_runtime.loading import load_engine
from cmg_runtime.motion_generator.stopwatch import Stopwatch
from cmg_runtime.motion_generator.trajectories import Trajectories
from cmg_runtime.window.footprint import rollout_bytes
from cmg_runtime.window.kinematics import BodyTransforms

MODES = ("pregenerated", "realtime")


class CMGMotionGenerator(Closable):
    """Joint motion for ``num_envs`` environments at the engine's 50 frames a second.

    :meth:`get_motion` gives the current frame and then moves on: the first call after a reset gives the initial state.
    The next frame is only made when somebody asks for it, so a command that is set between two calls is already at
    work in the frame of the second call. In both modes a new command continues from the frame that was given last,
    without a ramp.

    - "realtime": one frame of the network for every call.
    - "pregenerated": ``preload_duration`` frames are made at once by a reset or a new command and then only indexed.
      After the last of them the first comes again: a jump in the motion, counted in :meth:`get_performance_stats`,
      which warns of it.

    Environments may be moved on separately: those that ``env_ids`` leaves out keep their frame. ``env_ids`` is None
    (every environment), distinct ids [n], or a bool mask [num_envs]; with a mask, data and results have a row for
    every environment.

    A command outside the engine's ``command_range`` is clamped and counted (``engine.report()``). Wrong arguments
    raise :class:`EngineError`; values that are not finite do so where they are on the host, and on a GPU are ignored
    and counted. In realtime mode the host never waits for the GPU; a pregenerated reset waits. :meth:`close` frees all.

    Args:
        model_path: an engine folder, or a checkpoint, which is compiled once (see :func:`engine_folder`).
        data_path: the data file with a checkpoint's normalisation stats, where it has none inside.
        num_envs: environments.
        device: "cuda", "cuda:<index>" or "cpu".
        mode: "pregenerated" or "realtime".
        buffer_size: accepted because existing code passes it. Nothing is buffered ahead: a frame is cheap.
        preload_duration: T, frames that a pregenerated trajectory has after its initial state. They take
            ``num_envs * (T + 1) * motion_dim * 4`` bytes (4096 environments, 500 frames: 476 MB).
        backend, precision, seed: as for :func:`load_engine`; the seed is of the initial states.

    Attributes:
        engine: the engine underneath. Do not step or reset it yourself.
        current_commands: [num_envs, 3] commands after clamping, m/s, m/s, rad/s: a read-only live view.
    """

    @torch.inference_mode(False)  # its tensors could not be updated outside of the caller's inference mode
    def __init__(
        self,
        model_path: str | Path,
        data_path: str | Path | None = None,
        num_envs: int = 4096,
        device: str | torch.device = "cuda",
        mode: str = "pregenerated",
        buffer_size: int = 100,
        preload_duration: int = 500,
        *,
        backend: str = "auto",
        precision: str | None = None,
        seed: int = 0,
    ) -> None:
        as_count(buffer_size, "buffer_size")
        preload_duration = as_count(preload_duration, "preload_duration")
        require_choice(mode, "mode", MODES)
        self.mode = mode
        folder = engine_folder(model_path, data_path)
        self.engine = load_engine(folder, num_envs, device, backend, precision, seed, command_ramp_s=0.0)
        self.num_envs = self.engine.num_envs
        self.device = self.engine.device
        if mode == "pregenerated":
            widths = self.engine.bank.shape[1], self.engine.command.shape[1]
            needed = rollout_bytes(self.num_envs, preload_duration, *widths)
            what = f"a preload_duration of {preload_duration} frames for {self.num_envs} environments"
            require_memory(needed, self.device, what, "take a shorter one or mode='realtime'")
        self.current_commands = self.engine.command
        self.preload_duration = preload_duration
        self._num_joints = len(self.engine.joint_names)
        self._ready = False
        # Environments whose current frame was given out, so that the next one is due: bools on the device, used
        # where they differ; the host remembers whether they are all alike.
        self._due = torch.zeros(self.num_envs, 1, dtype=torch.bool, device=self.device)
        self._all_due: bool | None = False  # None: they differ
        self._trajectories = Trajectories(self.num_envs, preload_duration, self.device)
        self._stopwatch = Stopwatch(self.device)
        self._transforms: BodyTransforms | None = None
        self._made()

    def _owned(self) -> list[Any]:
        return [self.engine]

    @torch.no_grad()
    def reset(self, env_ids: Any = None, init_motion: Any = None, commands: Any = None) -> None:
        """Start environments anew; :meth:`get_motion` gives their initial state next.

        The first reset starts every environment; those that it does not name, from the bank at command zero.

        Args:
            env_ids: which; see the class.
            init_motion: [n, motion_dim] or [motion_dim], rad and rad/s; None draws from the engine's bank.
            commands: [n, 3] or [3]; None keeps the old ones (zero at first).
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        if self._ready and self.mode == "pregenerated" and init_motion is not None:
            # So that where the engine ignores init_motion, what it keeps is the current frame, not the last reset's.
            # On a host a current frame that diverged must not stop the reset that mends it.
            self.engine.reset(env_ids, envs.read(self._trajectories.current()).nan_to_num(0.0, 0.0, 0.0))
        self.engine.reset(env_ids, init_motion, commands)
        if not self._ready and not envs.is_all:
            self.engine.reset(envs.others(torch.arange(self.num_envs, device=self.device)))
            envs = EnvSelection(self.num_envs)
        self._ready = True
        self._set_due(envs, False)
        if self.mode == "pregenerated":
            self._generate(envs, self._engine_motion())

    @torch.no_grad()
    def update_commands(self, commands: Any, env_ids: Any = None) -> None:
        """Change commands. The motion goes on from the frame given last; the next frame is under the new command.

        In pregenerated mode the trajectories of these environments are generated anew from that frame.

        Args:
            commands: [n, 3] or [3], m/s, m/s, rad/s.
            env_ids: which; see the class.
        """
        self._require_reset()
        envs = select_envs(env_ids, self.num_envs, self.device)
        self.engine.set_command(commands, env_ids)
        if self.mode == "pregenerated":
            self._generate(envs, self._trajectories.current())

    @torch.no_grad()
    def get_motion(self, env_ids: Any = None, advance: bool = True) -> Tuple[torch.Tensor, torch.Tensor]:
        """The current frame; these environments then move on by one.

        Args:
            env_ids: which; see the class.
            advance: False only looks: the next call gives the same frame again.

        Returns:
            dof_pos and dof_vel [n, num_joints], rad and rad/s. New tensors, which stay as they are.
        """
        motion = self._look(env_ids, advance)
        return motion[:, : self._num_joints], motion[:, self._num_joints :]

    @torch.no_grad()
    def get_full_motion_data(self, env_ids: Any = None, advance: bool = True) -> Dict[str, torch.Tensor]:
        """As :meth:`get_motion`, by name: ``dof_pos``, ``dof_vel`` and both together as ``motion_raw``."""
        motion, joints = self._look(env_ids, advance), self._num_joints
        return {"dof_pos": motion[:, :joints], "dof_vel": motion[:, joints:], "motion_raw": motion}

    @torch.no_grad()
    def get_motion_with_body_transforms(
        self, env_ids: Any = None, base_pos: Any = None, base_rot: Any = None, advance: bool = True
    ) -> Dict[str, torch.Tensor]:
        """As :meth:`get_motion`, with the poses of all bodies of the robot.

        Args:
            base_pos: [n, 3] or [3] position of the root in the world, m; None for the origin.
            base_rot: [n, 4] or [4] its orientation (w, x, y, z); None for upright, facing x.

        Returns:
            ``dof_positions``, ``dof_velocities`` [n, num_joints]; ``body_positions`` [n, B, 3] m and
            ``body_rotations`` [n, B, 4] (w, x, y, z), both in the world, in the order of the manifest's
            ``robot.body_names``.

        Raises:
            EngineError: the engine folder has no robot.
        """
        transforms = self._bodies()
        envs = select_envs(env_ids, self.num_envs, self.device)
        base_pos = [0.0, 0.0, 0.0] if base_pos is None else base_pos
        base_rot = [1.0, 0.0, 0.0, 0.0] if base_rot is None else base_rot
        position = as_rows(base_pos, envs, 3, "base_pos", self.device)
        orientation = as_rows(base_rot, envs, 4, "base_rot", self.device)
        dof_pos, dof_vel = self.get_motion(env_ids, advance)
        body_pos, body_rot = transforms(dof_pos, position, orientation)
        return {
            "dof_positions": dof_pos,
            "dof_velocities": dof_vel,
            "body_positions": body_pos,
            "body_rotations": body_rot,
        }

    def get_performance_stats(self) -> Dict[str, float]:
        """What inference takes and how often trajectories began again (the host waits). Warns where they did.

        Returns:
            ``avg_inference_ms``, ``max_inference_ms``, ``min_inference_ms`` of the last 100 inferences (a frame in
            realtime mode, a set of trajectories in pregenerated mode; 0 without any), ``num_inferences`` so far, and
            ``frames_wrapped``: how often a pregenerated trajectory began again.
        """
        times = self._stopwatch.milliseconds() or [0.0]
        wraps = int(self._trajectories.wraps)
        if wraps:
            text = f"trajectories of {self.preload_duration} frames ended and began again {wraps} times"
            warnings.warn(f"{text}; raise preload_duration, or reset more often", RuntimeWarning, stacklevel=2)
        return {
            "avg_inference_ms": sum(times) / len(times),
            "max_inference_ms": max(times),
            "min_inference_ms": min(times),
            "num_inferences": float(self._stopwatch.count),
            "frames_wrapped": float(wraps),
        }

    @torch.no_grad()
    def switch_mode(self, new_mode: str) -> None:
        """Change the mode. Motions and commands go on from where they are."""
        if new_mode == self.mode:
            return
        require_choice(new_mode, "mode", MODES)
        motion = self._look(None, advance=False)
        if new_mode == "pregenerated":
            self._generate(EnvSelection(self.num_envs), motion)  # which may not fit: then nothing has changed
        else:
            self._trajectories.clear()
        self.mode = new_mode
        self.engine.reset(motion=motion)

    def _require_reset(self) -> None:
        if not self._ready:
            raise EngineError("no environment was reset yet; call reset() first")

    def _look(self, env_ids: Any, advance: bool) -> torch.Tensor:
        """The current frames [n, motion_dim] of ``env_ids``, in a new tensor; with ``advance``, the next are due."""
        self._require_reset()
        envs = select_envs(env_ids, self.num_envs, self.device)
        self._catch_up(envs)
        motion = envs.read(self._engine_motion() if self.mode == "realtime" else self._trajectories.current())
        if advance:
            self._set_due(envs, True)
        return motion

    def _engine_motion(self) -> torch.Tensor:
        return torch.cat([self.engine.dof_pos, self.engine.dof_vel], dim=1)

    def _set_due(self, envs: EnvSelection, due: bool) -> None:
        if envs.is_all:
            self._all_due = due
        elif self._all_due is not due:
            if self._all_due is not None:
                self._due.fill_(self._all_due)
            envs.write(self._due, torch.full_like(envs.read(self._due), due))
            self._all_due = None

    def _catch_up(self, envs: EnvSelection) -> None:
        """Make the frames of ``envs`` that are due."""
        if self._all_due is False:
            return
        everybody = envs.is_all
        if self._all_due and everybody:
            self._advance(None)
        else:
            if self._all_due:
                self._due.fill_(True)
            now = torch.zeros_like(self._due)
            envs.write(now, torch.ones_like(envs.read(now)))
            now &= self._due
            self._advance(now)
            self._due &= ~now
        self._all_due = False if everybody else None

    def _advance(self, due: torch.Tensor | None) -> None:
        """One frame forward: those that ``due`` [num_envs, 1] bool names, or everybody."""
        if self.mode == "pregenerated":
            self._trajectories.advance(due)
            return
        with self._stopwatch.measure():
            self.engine.step(None if due is None else due.squeeze(1))

    def _generate(self, envs: EnvSelection, motion: torch.Tensor) -> None:
        """Trajectories of ``envs`` from ``motion`` [num_envs, motion_dim] under their commands."""
        if envs.mask is not None:
            envs = select_envs(envs.mask.nonzero().squeeze(1), self.num_envs, self.device)
        if envs.is_all:
            self._trajectories.clear()  # so that old and new are not held at once
        # Not in the caller's inference mode: outside of it the trajectories could not be updated.
        with torch.inference_mode(False), self._stopwatch.measure():
            frames = self.engine.rollout(envs.read(motion), envs.read(self.engine.command), self.preload_duration)
        self._trajectories.replace(envs, frames)

    def _bodies(self) -> BodyTransforms:
        if self._transforms is None:
            chain = self.engine.manifest.robot
            if chain is None:
                raise EngineError("this engine folder has no robot, so bodies are unknown; rebuild it with --robot")
            self._transforms = BodyTransforms(chain, self.device)
        return self._transforms
