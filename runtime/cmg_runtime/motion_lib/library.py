"""``MotionLibCMG``: TWIST's motion library interface, with reference motion from a compiled generator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Sequence

import torch

from cmg_runtime.commands.sampler import CommandSampler
from cmg_runtime.device import resolve_device
from cmg_runtime.device.lifetime import Closable
from cmg_runtime.device.memory import require_memory
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.compiled import engine_folder
from cmg_runtime.folder.manifest import read_manifest
from cmg_runtime.inputs import as_count, as_floats, as_integers, require_choice, select_envs
from cmg_runtime.loading import load_engine
from cmg_runtime.motion_lib.catalogue import MotionCatalogue
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES, kept_joints, known_bodies
from cmg_runtime.motion_lib.sampling import MotionSampler
from cmg_runtime.motion_lib.sources import PoolSource, QueryReport, WindowSource
from cmg_runtime.window.footprint import pool_bytes
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.plain.queries import MotionFrames
from cmg_runtime.window.twins import make_frame_queries

MODES = ("pregenerated", "realtime")

HORIZON = 96
"""Frames: TWIST looks 95 frames past the current one."""


class MotionLibCMG(MotionCatalogue, Closable):
    """Reference motions by id and time, seven tensors a query.

    - "pregenerated": ``num_motions`` trajectories are made at construction, each under a command of its own, and then
      only looked up. A motion lasts ``motion_length`` frames, but goes on for as many and ``horizon`` more, because
      TWIST starts at a random time, stays for the motion's length, and looks ahead all the while. After those it begins
      again where it ended, as in a viewer that never resets: the root goes on from its place and heading, the joints
      jump. It takes ``num_motions * (2 * motion_length + horizon)`` times some 400 bytes (1024 of 500 frames: 0.5 GB).
    - "realtime": motion ids are environment ids. :meth:`reset` starts an environment's motion, :meth:`step`, called
      once in every environment step, moves all of them one frame on, and times count from an environment's last
      reset. ``horizon`` frames from the current one on can be seen; a time before or past them gives the nearest of
      them and is counted. :meth:`update_commands` changes commands on the way.

    Where a time lies between two frames, everything is interpolated. Tensors that come out are new and the caller's
    to change; tensors that go in are never changed. On CUDA nothing makes the host wait but construction and
    :meth:`report`. Ids and times may be tensors on the library's device, or tensors, arrays and lists on the host:
    there, ids out of range and times that are not finite raise; on a GPU such an id fails PyTorch's device-side
    assert, and such a time counts as 0 s and is counted. :meth:`close`, or a ``with`` block's end, frees everything.

    Args:
        cmg_model_path: an engine folder, or a checkpoint (see :func:`cmg_runtime.folder.compiled.engine_folder`).
        cmg_data_path: the data file with a checkpoint's stats, where it has none inside.
        num_motions: trajectories of the pregenerated mode.
        motion_length: frames that a motion lasts.
        num_envs: environments; the motions of the realtime mode.
        device: "cuda", "cuda:<index>" or "cpu".
        dof_dim: the engine's number of joints, or that less its six wrist joints (29 and 23 on a G1).
        fps: frames a second, the engine's.
        mode: "pregenerated" or "realtime".
        backend, precision, seed: as for :func:`load_engine`; the seed is of everything random here.
        body_names: bodies of ``local_body_pos``, in order: key bodies, or all links of the simulated robot. One that
            the engine's robot does not have reads NaN.
        horizon: frames to look ahead, the current one included.
        command_ramp_s: seconds in which a command of :meth:`update_commands` is reached.
        commands: [num_motions, 3] of the pregenerated trajectories; None spreads them over the engine's range.

    Attributes:
        joint_names: joints of ``dof_pos`` and ``dof_vel``, in order.
        body_names: as given.
        mode, device, fps: as given.

    Raises:
        EngineError: a wrong argument, the motions do not fit into memory, or the engine folder has no robot.
    """

    @torch.inference_mode(False)  # counters made under the caller's inference mode could not be updated outside it
    def __init__(
        self,
        cmg_model_path: str | Path,
        cmg_data_path: str | Path | None = None,
        num_motions: int = 1024,
        motion_length: int = 500,
        num_envs: int = 4096,
        device: str | torch.device = "cuda",
        dof_dim: int = 29,
        fps: float = 50.0,
        *,
        mode: str = "pregenerated",
        backend: str = "auto",
        precision: str | None = None,
        body_names: Sequence[str] = KEY_BODIES,
        horizon: int = HORIZON,
        command_ramp_s: float = 0.5,
        commands: Any = None,
        seed: int = 0,
    ) -> None:
        require_choice(mode, "mode", MODES)
        num_motions, motion_length = as_count(num_motions, "num_motions"), as_count(motion_length, "motion_length")
        num_envs, horizon = as_count(num_envs, "num_envs"), as_count(horizon, "horizon")
        folder = engine_folder(cmg_model_path, cmg_data_path)
        manifest = read_manifest(folder)
        if float(fps) != manifest.fps:
            raise EngineError(f"fps is {fps!r}, the engine's frames are {manifest.fps:g} a second; set fps to that")
        kept = kept_joints(manifest, dof_dim)
        known = known_bodies(manifest, body_names)
        if manifest.sizes.command_dim != 3:
            raise EngineError(f"commands have {manifest.sizes.command_dim} entries; expected vx, vy and yaw rate")
        realtime, num_frames = mode == "realtime", 2 * motion_length + horizon
        if not realtime:
            needed = pool_bytes(num_motions, num_frames, FrameLayout(manifest.sizes.num_joints, len(known), True))
            what = f"a library of {num_motions} motions of {motion_length} frames"
            require_memory(needed, resolve_device(device), what, "take fewer or shorter ones")
        engine = load_engine(
            folder,
            num_envs,
            device,
            backend,
            precision,
            seed,
            horizon=horizon if realtime else 1,
            command_ramp_s=command_ramp_s if realtime else 0.0,
            key_bodies=[body_names[index] for index in known],
        )
        self.mode = mode
        self.fps = engine.fps
        self.num_envs = num_envs
        self.joint_names = tuple(manifest.joint_names[index] for index in kept)
        low, high = manifest.command_range.min, manifest.command_range.max
        self._commands = CommandSampler(num_motions, engine.device, *zip(low, high), seed=seed)
        if realtime:
            # So that every id means something at once.
            engine.reset(command=self._commands.sample_batch(num_envs), command_at_once=True)
            source = WindowSource(engine)
        else:
            drawn = self._commands.sample_uniform() if commands is None else commands
            source = PoolSource(engine, num_motions, drawn, num_frames)
        super().__init__(source, motion_length / engine.fps, body_names, known, engine.device)
        self._window = source if isinstance(source, WindowSource) else None
        self._engine = engine
        bodies = [known.index(index) if index in known else -1 for index in range(len(body_names))]
        self._queries = make_frame_queries(source.rows, kept, bodies, engine.fps)
        self._sampler = MotionSampler(source.commands, seed)
        self._made()

    def _owned(self) -> list[Any]:
        return [self._engine]

    def sample_motions(
        self, n: int, motion_difficulty: Any = None, curriculum_level: float | None = None
    ) -> torch.Tensor:
        """Draw motion ids [n] int64. In realtime mode ids are environments: :meth:`reset` gives those; here only
        ``n == num_envs`` has an answer, all of them.

        Args:
            motion_difficulty: [num_motions] weights of the draw.
            curriculum_level: 0 draws among the quarter with the smallest commands, 1 among all; None: all.

        Raises:
            EngineError: see :class:`MotionSampler`; in realtime mode another n.
        """
        n = as_count(n, "n", least=0)
        if self._window is not None:
            if n != self.num_envs:
                raise EngineError(
                    f"in realtime mode motion ids are environment ids, so {n} of them cannot be drawn; "
                    "call reset(env_ids), which gives them"
                )
            return torch.arange(n, device=self.device)
        return self._sampler.draw(n, motion_difficulty, curriculum_level)

    def sample_time(self, motion_ids: Any) -> torch.Tensor:
        """Times [n] float32, s, to start motions at: within their length, or 0 in realtime mode."""
        n = len(self._ids(motion_ids))
        return self._sampler.draw_times(n, self._length if self._window is None else 0.0)

    def reset(
        self,
        env_ids: Any,
        commands: Any = None,
        motion_difficulty: Any = None,
        curriculum_level: float | None = None,
    ) -> torch.Tensor:
        """Motions for environments whose episode begins.

        Args:
            env_ids: [n] integers; None for every environment.
            commands: [n, 3] or [3], of the realtime mode, in force at once; None draws them.
            motion_difficulty, curriculum_level: as in :meth:`sample_motions`. In realtime mode there is nothing to
                weight; the level scales the range that commands are drawn from.

        Returns:
            Motion ids [n] int64 on the device: drawn ones, or in realtime mode the environments' own.

        Raises:
            EngineError: wrong arguments, or commands in pregenerated mode.
        """
        everyone = torch.arange(self.num_envs, device=self.device)
        ids = everyone if env_ids is None else as_integers(env_ids, None, "env_ids", self.device, self.num_envs)
        if self._window is None:
            if commands is not None:
                raise EngineError("pregenerated motions keep their commands; leave commands out, or use realtime mode")
            return self.sample_motions(len(ids), motion_difficulty, curriculum_level)
        if commands is None:
            level = 1.0 if curriculum_level is None else curriculum_level
            commands = self._commands.sample_batch(len(ids), "curriculum", level)
        self._engine.reset(None if env_ids is None else ids, command=commands, command_at_once=True)
        self._window.restarted(select_envs(ids, self.num_envs, self.device))
        return ids.clone()  # ids may be the caller's own tensor

    def step(self) -> None:
        """Call once in every environment step, before its first query: realtime motions move on by one frame, 1/fps
        seconds. In pregenerated mode there is nothing to do."""
        if self._window is not None:
            self._window.step()

    def update_commands(self, commands: Any, env_ids: Any = None) -> None:
        """Change commands in realtime mode; the motions go on from their current frames.

        Args:
            commands: [n, 3] or [3], clamped to the engine's range. NaN raises, or on a GPU is ignored and counted.
            env_ids: None for every environment, distinct ids [n], or a bool mask [num_envs].

        Raises:
            EngineError: wrong arguments, or pregenerated mode.
        """
        if self._window is None:
            raise EngineError("pregenerated motions keep their commands; choose another motion, or use realtime mode")
        self._engine.set_command(commands, env_ids)

    @torch.no_grad()
    def calc_motion_frame(self, motion_ids: Any, motion_times: Any) -> MotionFrames:
        """The reference at ``motion_times[i]`` of motion ``motion_ids[i]``, for every i.

        Args:
            motion_ids: [N] integers.
            motion_times: [N] s. Negative times give the first frame, and are counted; past the end see the class.

        Returns:
            ``root_pos`` [N, 3] m, world; ``root_rot`` [N, 4] quaternion (x, y, z, w), world, yaw only; ``root_vel``
            [N, 3] m/s, world; ``root_ang_vel`` [N, 3] rad/s, world; ``dof_pos``, ``dof_vel`` [N, dof_dim] rad, rad/s;
            ``local_body_pos`` [N, B, 3] m, in the root's frame, in the order of ``body_names``. float32.
            Every motion begins at the world's origin, heading along x, on ground of height 0, at every reset too.

        Raises:
            EngineError: wrong shape, type, device or length; on the host, ids out of range or times not finite.
        """
        ids = self._ids(motion_ids)
        times = as_floats(motion_times, [(len(ids),)], "motion_times", self.device)
        return self._queries.answer(ids, times)

    def report(self) -> QueryReport:
        """Read the counters from the device (the host waits); warns where one is not zero, and of clamped commands. In
        realtime mode, times past the end usually mean that :meth:`step` is not called."""
        self._engine.report()
        report = QueryReport(*self._queries.counts.tolist())
        if any(report):
            warnings.warn(f"motion library in {self.mode} mode: {report}", RuntimeWarning, stacklevel=2)
        return report


def create_motion_lib_cmg(
    cfg: Any, num_envs: int, device: str | torch.device, body_names: Sequence[str] | None = None
) -> MotionLibCMG:
    """The motion library that a TWIST configuration asks for.

    Args:
        cfg: ``cfg.motion`` has ``cmg_model_path``, and may have ``cmg_data_path``, ``cmg_mode`` ("pregenerated"),
            ``cmg_num_motions`` (1024), ``cmg_motion_length`` (500 frames), ``cmg_backend`` ("auto"), ``dof_dim`` (29),
            ``fps`` (50) and ``key_bodies`` (TWIST's).
        num_envs: environments.
        device: the simulation's.
        body_names: bodies of ``local_body_pos``; None for ``key_bodies``.

    Raises:
        EngineError: ``cmg_model_path`` is missing; see :class:`MotionLibCMG`.
    """
    motion = cfg.motion
    if not getattr(motion, "cmg_model_path", None):
        raise EngineError("cfg.motion.cmg_model_path is missing; expected an engine folder or a checkpoint")
    return MotionLibCMG(
        motion.cmg_model_path,
        getattr(motion, "cmg_data_path", None),
        getattr(motion, "cmg_num_motions", 1024),
        getattr(motion, "cmg_motion_length", 500),
        num_envs,
        device,
        getattr(motion, "dof_dim", 29),
        getattr(motion, "fps", 50.0),
        mode=getattr(motion, "cmg_mode", "pregenerated"),
        backend=getattr(motion, "cmg_backend", "auto"),
        body_names=body_names if body_names is not None else getattr(motion, "key_bodies", KEY_BODIES),
    )
