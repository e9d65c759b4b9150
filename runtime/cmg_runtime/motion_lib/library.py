"""``MotionLibCMG``: TWIST's motion library interface, with reference motion from a compiled generator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

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
from cmg_runtime.motion_lib.reach import farthest
from cmg_runtime.motion_lib.report import QueryReport
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES, kept_joints, known_bodies
from cmg_runtime.motion_lib.slots import SLOTS_PER_ENV, SlotSource, frames_in
from cmg_runtime.motion_lib.trajectories import PoolSource
from cmg_runtime.window.footprint import pool_bytes
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.plain.queries import MotionFrames
from cmg_runtime.window.twins import make_frame_queries

MODES = ("pregenerated", "realtime")

HORIZON = 96
"""Frames: TWIST looks 95 frames past the current one."""

ELSEWHERE = {
    "preload_duration": "motion_length is the frames that a motion lasts",
    "buffer_size": "nothing is buffered, so leave it out",
    "buffer_frames": "horizon is the frames that can be looked ahead",
    "dof_pos_pool": "calc_motion_frame(motion_ids, motion_times) gives frames",
    "dof_vel_pool": "calc_motion_frame(motion_ids, motion_times) gives frames",
    "motion_pool": "calc_motion_frame(motion_ids, motion_times) gives frames",
}
"""Arguments and attributes of other implementations that are not here, and what is."""


class MotionLibCMG(MotionCatalogue, Closable):
    """Reference motions by id and time, seven tensors a query.

    - "pregenerated": ``num_motions`` trajectories are made at construction, each under a command of its own, and then
      only looked up. A motion lasts ``motion_length`` frames, but goes on for as many and ``horizon`` more, because
      TWIST starts at a random time, stays for the motion's length, and looks ahead all the while. After those it begins
      again where it ended, as in a viewer that never resets: the root goes on from its place and heading, the joints
      jump. It takes ``num_motions * (2 * motion_length + horizon)`` times some 400 bytes (1024 of 500 frames: 0.5 GB).
    - "realtime": ``2 * num_envs`` motions, each under a command of its own, generated as they are asked for.
      :meth:`sample_motions` gives motions that nobody asks for any more; the first time that is asked for is where
      such a motion begins, at the world's origin along x. From there on a motion follows the times of the queries:
      it moves on when one looks past the ``horizon`` frames that it keeps ready. Where time goes back, or further on
      than ``control_dt`` (at most some frames a query), the motion goes on from the frame that it is at, under the new
      time; after a step back its root begins at the origin again. Nothing has to be called for this, and nothing but
      queries moves a motion; who wants to steer has :meth:`reset`, :meth:`step` and :meth:`update_commands`.

    Where a time lies between two frames, everything is interpolated. Tensors that come out are new and the caller's
    to change; tensors that go in are never changed. On CUDA nothing makes the host wait but construction and
    :meth:`report`. Ids and times may be tensors on the library's device, or tensors, arrays and lists on the host:
    there, ids out of range and times that are not finite raise; on a GPU such an id fails PyTorch's device-side
    assert, and such a time is counted, and gives some frame of the motion. :meth:`close`, or a ``with`` block's end,
    frees everything.

    Args:
        cmg_model_path: an engine folder, or a checkpoint (see :func:`cmg_runtime.folder.compiled.engine_folder`).
        cmg_data_path: the data file with a checkpoint's stats, where it has none inside.
        num_motions: trajectories of the pregenerated mode.
        motion_length: frames that a motion lasts.
        num_envs: environments.
        device: "cuda", "cuda:<index>" or "cpu".
        dof_dim: the engine's number of joints, or that less its six wrist joints (29 and 23 on a G1).
        fps: frames a second, the engine's.
        mode: "pregenerated" or "realtime".
        backend, precision, seed: as for :func:`load_engine`; the seed is of everything random here.
        body_names: bodies of ``local_body_pos``, in order: key bodies, or all links of the simulated robot. One that
            the engine's robot does not have reads NaN.
        horizon: frames to look ahead, the current one included.
        command_ramp_s: seconds in which a command of :meth:`update_commands` is reached.
        control_dt: seconds from one environment step to the next, which realtime motions can follow; None: a frame.
        commands: [M, 3] of the motions, M as of the mode; None spreads them over the engine's range.

    Attributes:
        joint_names: joints of ``dof_pos`` and ``dof_vel``, in order.
        body_names: as given.
        mode, device, fps, num_envs, dof_dim, motion_length: as given.
        dt: 1 / fps, s.
        safe_motion_length: motion_length; all of a motion can be played, with ``horizon`` frames ahead.
        max_distance: the largest distance, m, of a root from where its motion began, in what an episode can last: a
            motion's length, after a start that in pregenerated mode is anywhere in it.

    Raises:
        EngineError: a wrong argument, the motions do not fit into memory, or the engine folder has no robot.
        TypeError: an argument that is not here; the message names what is, where other implementations have it.
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
        control_dt: float | None = None,
        commands: Any = None,
        seed: int = 0,
        **others: Any,
    ) -> None:
        for name in others:
            raise TypeError(f"MotionLibCMG() has no argument {name!r}{_elsewhere(name)}")
        require_choice(mode, "mode", MODES)
        num_motions, motion_length = as_count(num_motions, "num_motions"), as_count(motion_length, "motion_length")
        num_envs, horizon = as_count(num_envs, "num_envs"), as_count(horizon, "horizon")
        frames_at_once = frames_in(control_dt, fps)
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
            SLOTS_PER_ENV * num_envs if realtime else num_envs,
            device,
            backend,
            precision,
            seed,
            horizon=horizon if realtime else 1,
            command_ramp_s=command_ramp_s if realtime else 0.0,
            key_bodies=[body_names[index] for index in known],
        )
        self.mode = mode
        self.fps, self.dt = engine.fps, 1 / engine.fps
        self.num_envs, self.dof_dim = num_envs, len(kept)
        self.motion_length = self.safe_motion_length = motion_length
        self.joint_names = tuple(manifest.joint_names[index] for index in kept)
        if commands is None:
            low, high = manifest.command_range.min, manifest.command_range.max
            size = engine.num_envs if realtime else num_motions
            commands = CommandSampler(size, engine.device, *zip(low, high), seed=seed).sample_uniform()
        source: PoolSource | SlotSource
        if realtime:
            source = SlotSource(engine, num_envs, commands, frames_at_once, seed)
        else:
            source = PoolSource(engine, num_motions, commands, num_frames, seed)
        super().__init__(source, motion_length / engine.fps, body_names, known, engine.device)
        self.max_distance = farthest(source.commands, (1 if realtime else 2) * self._length)
        self._engine = engine
        bodies = [known.index(index) if index in known else -1 for index in range(len(body_names))]
        self._queries = make_frame_queries(source.rows, kept, bodies, engine.fps)
        self._warned = False
        self._made()

    if not TYPE_CHECKING:  # type checkers would take every name to be there

        def __getattr__(self, name: str) -> Any:
            if self._ended is None and name in ELSEWHERE:
                raise AttributeError(f"MotionLibCMG has no attribute {name!r}{_elsewhere(name)}")
            return super().__getattr__(name)

    @property
    def motion_commands(self) -> torch.Tensor:
        """[num_motions, 3] the motions' commands, m/s, m/s, rad/s. A new tensor."""
        return self._source.commands.clone()

    def _owned(self) -> list[Any]:
        return [self._engine]

    def sample_motions(
        self, n: int, motion_difficulty: Any = None, curriculum_level: float | None = None
    ) -> torch.Tensor:
        """Draw motion ids [n] int64: in pregenerated mode with repetition, in realtime mode distinct motions that
        nobody asks for any more, which then begin anew: a query of ``num_envs`` motions has left them out since they
        were named. Where no such is left, those named longest ago are drawn, whatever their weights.

        Args:
            motion_difficulty: [num_motions] weights of the draw.
            curriculum_level: 0 draws among the quarter with the smallest commands, 1 among all; None: all. In realtime
                mode, where so few of these are free, the next larger ones follow.

        Raises:
            EngineError: weights of another shape, negative or all 0 (on a GPU negative ones count as 0), a level
                outside 0..1, or in realtime mode more than ``num_motions``.
        """
        return self._source.draw(as_count(n, "n", least=0), motion_difficulty, curriculum_level)

    def sample_time(self, motion_ids: Any) -> torch.Tensor:
        """Times [n] float32, s, to start motions at: within their length, or 0 in realtime mode."""
        return self._source.draw_times(len(self._ids(motion_ids)), self._length)

    def reset(
        self,
        env_ids: Any,
        commands: Any = None,
        motion_difficulty: Any = None,
        curriculum_level: float | None = None,
    ) -> torch.Tensor:
        """:meth:`sample_motions` for environments, which :meth:`update_commands` can name afterwards.

        Args:
            env_ids: [n] integers; None for every environment.
            commands: [n, 3] or [3], of the realtime mode, in force at once; None for the motions' own.
            motion_difficulty, curriculum_level: as in :meth:`sample_motions`.

        Returns:
            Motion ids [n] int64 on the device.

        Raises:
            EngineError: wrong arguments, or commands in pregenerated mode.
        """
        if env_ids is None:
            ids = torch.arange(self.num_envs, device=self.device)
        else:
            ids = as_integers(env_ids, None, "env_ids", self.device, self.num_envs)
        return self._source.draw_for(ids, commands, motion_difficulty, curriculum_level)

    def step(self) -> None:
        """Move all realtime motions one frame on, 1/fps seconds. Need not be called: queries do it for the motions that
        they name. In pregenerated mode there is nothing to do."""
        self._source.step()

    def update_commands(self, commands: Any, env_ids: Any = None, motion_ids: Any = None) -> None:
        """Change commands in realtime mode; the motions go on from their current frames. A motion that is drawn again
        has its own command again.

        Args:
            commands: [n, 3] or [3], clamped to the engine's range. NaN raises, or on a GPU is ignored and counted.
            env_ids: None for every environment, distinct ids [n], or a bool mask [num_envs]: the motions that
                :meth:`reset` gave them last; before that, motion i is environment i's.
            motion_ids: distinct motion ids [n], or a bool mask [num_motions], instead.

        Raises:
            EngineError: wrong arguments, or pregenerated mode.
        """
        if motion_ids is None:
            chosen = select_envs(env_ids, self.num_envs, self.device)
        elif env_ids is None:
            chosen = select_envs(motion_ids, self.num_motions(), self.device, "motion_ids")
        else:
            raise EngineError("update_commands() has env_ids and motion_ids; expected one of them")
        self._source.update_commands(commands, chosen, of_envs=motion_ids is None)

    @torch.no_grad()
    def calc_motion_frame(self, motion_ids: Any, motion_times: Any) -> MotionFrames:
        """The reference at ``motion_times[i]`` of motion ``motion_ids[i]``, for every i.

        Args:
            motion_ids: [N] integers.
            motion_times: [N] s. Pregenerated motions give their first frame for negative ones, and count them; past the
                end see the class.

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
        self._source.follow(ids, times)
        return self._queries.answer(ids, times)

    def report(self) -> QueryReport:
        """Read the counters from the device (the host waits). The first time that one but ``jumped`` is not zero, warn;
        and of clamped commands."""
        self._engine.report()
        report = QueryReport(int(self._source.jumped), *self._queries.counts.tolist())
        if any(report._replace(jumped=0)) and not self._warned:
            self._warned = True
            warnings.warn(f"motion library in {self.mode} mode: {report}", RuntimeWarning, stacklevel=2)
        return report


def _elsewhere(name: str) -> str:
    return f"; {ELSEWHERE[name]}" if name in ELSEWHERE else ""
