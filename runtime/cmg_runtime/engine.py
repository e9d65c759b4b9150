"""The engine: the current frame of every environment, one frame forward at a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import EnvSelection, as_floats, require_finite, select_envs
from cmg_runtime.manifest import Artifact, Manifest


@dataclass(frozen=True)
class Report:
    """What was done to a caller's data since the engine was loaded.

    Attributes:
        commands_clamped: commands (one per environment and call, or per frame of a rollout) with an entry
            outside the engine's command range.
        entries_clamped: single entries of commands outside the range.
        commands_ignored: commands on the GPU that were not finite; their environments kept the old one.
        motions_ignored: motion states on the GPU that were not finite; their environments kept the old one.
    """

    commands_clamped: int
    entries_clamped: int
    commands_ignored: int
    motions_ignored: int


_COMMANDS_CLAMPED, _ENTRIES_CLAMPED, _COMMANDS_IGNORED, _MOTIONS_IGNORED = range(4)  # places in the counters


class Engine:
    """Motion references for ``num_envs`` environments. Made by :func:`cmg_runtime.load_engine`.

    A motion state is [joint positions (rad), joint velocities (rad/s)] in the order of :attr:`joint_names`; a
    command is (vx, vy, yaw rate) in m/s, m/s, rad/s in the robot's own frame; a frame is ``1 / fps`` seconds.

    Arguments may be tensors, numpy arrays or lists of any real type, on the host or on the engine's device; a
    single row stands for all rows. ``env_ids`` is None (every environment), distinct ids [n], or a bool mask
    [num_envs]; the data that goes with a mask has one row per environment, of which the chosen are used.
    A wrong argument raises :class:`EngineError` and leaves the engine as it was.

    On a CUDA device the host never waits for the GPU once every environment has been reset. Values that are on
    the GPU already are therefore not looked at by the host: rows that are not finite are ignored and counted
    (see :meth:`report`), an id out of range fails PyTorch's device-side assert, and of an id given twice one row
    wins. On the host all three raise.

    Attributes:
        num_envs: environments in the batch.
        device: where everything lives.
        joint_names: one per joint.
        fps: frames a second.
        command_range: (min, max), [command_dim] each, on the device. Commands are clamped to it.
        dof_pos, dof_vel: the current frame [num_envs, num_joints], rad and rad/s: read-only live views, overwritten
            in place by :meth:`step` and :meth:`reset`. Their addresses never change; clone what must last.
        command: the commands in force [num_envs, command_dim], after clamping; a live view too.
        bank: initial motion states [K, motion_dim] that :meth:`reset` draws from.
        backend_name, precision: what computes: "torch", "torchscript", "onnx"; "fp32" or "fp16".
        selection: one sentence on why that backend and precision were chosen.
        manifest: everything that the engine folder says about itself.
    """

    def __init__(
        self,
        backend: Backend,
        artifact: Artifact,
        manifest: Manifest,
        bank: torch.Tensor,
        num_envs: int,
        device: torch.device,
        selection: str,
        seed: int,
    ) -> None:
        def constant(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.num_envs = num_envs
        self.device = device
        self.joint_names = manifest.joint_names
        self.fps = manifest.fps
        self.command_range = (constant(manifest.command_range.min), constant(manifest.command_range.max))
        self.bank = bank
        self.backend_name = artifact.backend
        self.precision = artifact.precision
        self.selection = selection
        self.manifest = manifest

        self._backend = backend
        self._motion = constant(manifest.stats.motion_mean).repeat(num_envs, 1)
        # A backend may not write where it still reads, so the next frame is made here and copied: the views stay put.
        self._next_motion = torch.empty_like(self._motion)
        self.command = torch.zeros(num_envs, manifest.sizes.command_dim, dtype=torch.float32, device=device)
        self.dof_pos = self._motion[:, : manifest.sizes.num_joints]
        self.dof_vel = self._motion[:, manifest.sizes.num_joints :]
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)
        self._warned = False
        self._not_reset: torch.Tensor | None = torch.ones(num_envs, dtype=torch.bool)  # None once all were

    def __repr__(self) -> str:
        return (
            f"Engine({self.manifest.name!r}, num_envs={self.num_envs}, device='{self.device}', "
            f"backend={self.backend_name!r}, precision={self.precision!r})"
        )

    @torch.no_grad()
    def reset(self, env_ids: Any = None, motion: Any = None, command: Any = None) -> None:
        """Set the current frame of some environments; the others keep theirs bit for bit.

        Args:
            env_ids: which; see the class.
            motion: [n, motion_dim] or [motion_dim], physical units; it becomes the current frame. None draws
                from the bank with the engine's own seeded generator.
            command: [n, command_dim] or [command_dim]. None keeps the old one (zero at first).
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        commands = None if command is None else self._rows(command, envs, self.command, "command")
        motions = self._draw(envs.num_rows) if motion is None else self._rows(motion, envs, self._motion, "motion")
        finite = self._count_ignored(motions, envs, _MOTIONS_IGNORED)
        envs.write(self._motion, torch.where(finite.unsqueeze(1), motions, envs.read(self._motion)))
        if commands is not None:
            self._write_command(envs, commands)
        self._note_reset(envs)

    @torch.no_grad()
    def set_command(self, command: Any, env_ids: Any = None) -> None:
        """Change the command of some environments from the next :meth:`step` on; the motion goes on from where it is.

        Args:
            command: [n, command_dim] or [command_dim]. Entries outside :attr:`command_range` are clamped and counted.
            env_ids: which; see the class.
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        self._write_command(envs, self._rows(command, envs, self.command, "command"))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Move every environment one frame forward.

        Returns:
            :attr:`dof_pos` and :attr:`dof_vel`, the new current frame: after a reset, the first generated one.

        Raises:
            EngineError: some environment was never reset.
        """
        if self._not_reset is not None:
            count = int(self._not_reset.sum())
            raise EngineError(f"{count} of {self.num_envs} environments were never reset; call reset() before step()")
        self._backend.step(self._motion, self.command, self._next_motion)
        self._motion.copy_(self._next_motion)
        return self.dof_pos, self.dof_vel

    @torch.no_grad()
    def rollout(self, motion: Any, commands: Any, num_frames: int | None = None) -> torch.Tensor:
        """Roll out any number of motions, apart from the engine's environments.

        Commands are clamped and counted as in :meth:`set_command`. On CUDA the host waits once, to check the input.

        Args:
            motion: [n, motion_dim], physical units, the frame that each rollout starts from.
            commands: [n, T, command_dim], a command per frame, or [n, command_dim] or [command_dim], held.
            num_frames: T. Needed, and allowed, only for commands that are held.

        Returns:
            [n, T + 1, motion_dim]: ``motion``, then the T generated frames. A new tensor.
        """
        width, command_width = self._motion.shape[1], self.command.shape[1]
        state = as_floats(motion, [(None, width)], "motion", self.device).clone(memory_format=torch.contiguous_format)
        n = len(state)
        shapes = [(n, None, command_width), (n, command_width), (command_width,)]
        given = as_floats(commands, shapes, "commands", self.device)
        require_finite(state, "motion")
        require_finite(given, "commands")
        per_frame = self._per_frame(given, n, num_frames)
        per_frame = self._clamp(per_frame, torch.ones_like(per_frame[..., 0], dtype=torch.bool))
        frames = torch.empty(n, per_frame.shape[1] + 1, width, dtype=torch.float32, device=self.device)
        frames[:, 0] = state
        following = torch.empty_like(state)
        for t in range(per_frame.shape[1] if n else 0):
            self._backend.step(state, per_frame[:, t].contiguous(), following)
            frames[:, t + 1] = following
            state, following = following, state
        return frames

    def report(self) -> Report:
        """Read the counters from the device (the host waits). The first time that one is not zero, warn."""
        counts = self._counts.tolist()
        report = Report(*counts)
        if any(counts) and not self._warned:
            self._warned = True
            low, high = ([round(value, 3) for value in bound.tolist()] for bound in self.command_range)
            warnings.warn(
                f"{self!r}: {report.commands_clamped} commands were clamped to {low} .. {high}; "
                f"{report.commands_ignored} commands and {report.motions_ignored} motions were not finite and ignored",
                RuntimeWarning,
                stacklevel=2,
            )
        return report

    def _rows(self, values: Any, envs: EnvSelection, state: torch.Tensor, name: str) -> torch.Tensor:
        width = state.shape[1]
        rows = as_floats(values, [(envs.num_rows, width), (width,)], name, self.device)
        return rows.expand(envs.num_rows, width)

    def _draw(self, n: int) -> torch.Tensor:
        return self.bank[torch.randint(len(self.bank), (n,), generator=self._generator, device=self.device)]

    def _write_command(self, envs: EnvSelection, commands: torch.Tensor) -> None:
        finite = self._count_ignored(commands, envs, _COMMANDS_IGNORED)
        clamped = self._clamp(commands, envs.chosen(finite))
        envs.write(self.command, torch.where(finite.unsqueeze(1), clamped, envs.read(self.command)))

    def _clamp(self, commands: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """``commands`` [..., command_dim] within the range; those that ``counted`` [...] names go into the counters."""
        clamped = torch.minimum(torch.maximum(commands, self.command_range[0]), self.command_range[1])
        outside = (clamped != commands) & counted.unsqueeze(-1)
        self._counts[_COMMANDS_CLAMPED] += outside.any(dim=-1).sum()
        self._counts[_ENTRIES_CLAMPED] += outside.sum()
        return clamped

    def _count_ignored(self, rows: torch.Tensor, envs: EnvSelection, counter: int) -> torch.Tensor:
        finite = torch.isfinite(rows).all(dim=1)
        self._counts[counter] += envs.chosen(~finite).sum()
        return finite

    def _per_frame(self, commands: torch.Tensor, n: int, num_frames: int | None) -> torch.Tensor:
        """Commands [n, T, command_dim] from what :meth:`rollout` takes."""
        if commands.dim() == 3:
            if num_frames not in (None, commands.shape[1]):
                raise EngineError(
                    f"num_frames is {num_frames!r} for commands of {commands.shape[1]} frames; leave it out"
                )
            return commands
        if not isinstance(num_frames, int) or num_frames < 0:
            raise EngineError(f"num_frames is {num_frames!r}; commands that are held need a number of frames")
        return commands.expand(n, -1).unsqueeze(1).expand(-1, num_frames, -1)

    def _note_reset(self, envs: EnvSelection) -> None:
        """Cross ``envs`` off the list of those never reset. Until the list is empty, GPU ids are copied to the host."""
        never = self._not_reset
        if never is None:
            return
        if envs.ids is not None:
            never[envs.ids.cpu()] = False
        elif envs.mask is not None:
            never &= ~envs.mask.cpu()
        else:
            never[:] = False
        if not bool(never.any()):
            self._not_reset = None
