"""What engines keep on their device: allocated once, at addresses that never change, so that CUDA graphs can be
replayed. Commands' ramps and current frames, and the window's memory where there is one."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.device.graphs import GraphRecorder, Piece, can_be_captured, run_eagerly
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.guard import Guard
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.draws import Draws


class CommandRamp:
    """The command in force: linear from ``initial`` to ``target`` in ``num_frames`` frames, then ``target``.

    Args:
        columns: environments, and the scratch column of padded batches.
        command_dim: floats of a command.
        num_frames: length of a ramp, not necessarily whole. 0: the target is in force at once.

    Attributes:
        initial, target: [columns, command_dim] float32, in physical units.
        elapsed: [columns] float32, frames from the start of the ramp to the current frame. Float, so that it
            needs no conversion and stops counting at 2^24 instead of overflowing.
    """

    def __init__(self, columns: int, command_dim: int, num_frames: float, device: torch.device) -> None:
        self.num_frames = num_frames
        self.initial = torch.zeros(columns, command_dim, dtype=torch.float32, device=device)
        self.target = torch.zeros_like(self.initial)
        self.elapsed = torch.zeros(columns, dtype=torch.float32, device=device)

    def at(self, offset: Union[int, torch.Tensor], ids: Optional[torch.Tensor] = None) -> torch.Tensor:
        """The command in force ``offset`` frames after the current one.

        Args:
            offset: an integer, or float32 [T, 1].
            ids: [n] int64; None for every column.

        Returns:
            [n, command_dim], or [T, n, command_dim].
        """
        initial, target, elapsed = self.initial, self.target, self.elapsed
        if ids is not None:
            initial, target, elapsed = (state.index_select(0, ids) for state in (initial, target, elapsed))
        elapsed = elapsed + offset
        if self.num_frames <= 0:
            return target.expand(elapsed.shape + target.shape[-1:])
        share = (elapsed / self.num_frames).clamp(max=1).unsqueeze(-1)
        return torch.lerp(initial, target, share)  # exactly the target at 1

    def now(self) -> torch.Tensor:
        """[columns, command_dim]: the command in force at the current frame; a new tensor."""
        if self.num_frames <= 0:
            return self.target.clone()
        return torch.lerp(self.initial, self.target, (self.elapsed / self.num_frames).clamp_(max=1).unsqueeze(-1))

    def advance(self, moving: Optional[torch.Tensor] = None) -> None:
        """One frame on, in every column or, of the environments, in those that ``moving`` [num_envs] bool chooses."""
        if moving is None:
            self.elapsed.add_(1)
        else:
            self.elapsed[: len(moving)].add_(moving)

    def retarget(self, envs: EnvSelection, targets: torch.Tensor, finite: torch.Tensor) -> None:
        """Start ramps from the commands in force to ``targets``.

        Environments whose target is the one they have already go on as they are, so that setting the same command
        every step is the same as setting it once.

        Args:
            envs: of the first columns.
            targets: [envs.num_rows, command_dim] float32.
            finite: [envs.num_rows] bool; the environments of the others go on too.
        """
        first = slice(0, len(self.elapsed) - 1)
        initial, target, elapsed = (envs.read(state[first]) for state in (self.initial, self.target, self.elapsed))
        restart = finite & (targets != target).any(dim=1)
        rows = restart.unsqueeze(1)
        in_force = envs.read(self.now()[first])
        envs.write(self.initial[first], torch.where(rows, in_force, initial))
        envs.write(self.target[first], torch.where(rows, targets, target))
        envs.write(self.elapsed[first], torch.where(restart, torch.zeros_like(elapsed), elapsed))

    def finish(self, envs: EnvSelection) -> None:
        """End the ramps of some environments: their targets are in force at once."""
        rows = slice(0, len(self.elapsed) - 1)
        target = envs.read(self.target[rows])
        envs.write(self.initial[rows], target)


class EngineState:
    """The current frame and the command of every environment, at addresses that never change.

    Attributes:
        num_envs, device: of the engine.
        current: [num_envs + 1, motion_dim] float32, rad and rad/s, the motion state of the current frame. The last
            row here and below belongs to no environment: see :class:`WindowBuffers`.
        next_motion: [num_envs + 1, motion_dim], what the network makes.
        next_command: [num_envs + 1, command_dim], the command in force that the network's next step is given.
        draws: rows of the guard's bank for resets, drawn by the engine's own generator.
        moving: [num_envs] bool, the environments that a step of some moves on.
        ramp: the ramps of the commands.
        backend: the network.
        guard: to be applied to every frame that the network makes, before anything reads it.
        captures_network: whether the network is part of CUDA graphs. If not, it is called beside them. True on
            a CPU.
    """

    def __init__(
        self,
        manifest: Manifest,
        num_envs: int,
        device: torch.device,
        ramp_frames: float,
        backend: Backend,
        guard: Guard,
        seed: int,
    ) -> None:
        self.num_envs = num_envs
        self.device = device
        self.backend = backend
        self.guard = guard
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self.draws = Draws(len(guard.bank), num_envs, self._generator)
        self._rest = torch.tensor(manifest.stats.motion_mean, dtype=torch.float32, device=device)
        self.current = self._rest.repeat(num_envs + 1, 1)
        self.next_motion = torch.empty_like(self.current)
        self.ramp = CommandRamp(num_envs + 1, manifest.sizes.command_dim, ramp_frames, device)
        self.next_command = torch.zeros_like(self.ramp.target)
        self.moving = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.captures_network = device.type == "cpu" or (
            backend.capturable and can_be_captured(self.infer_from_current, device)
        )

    def draw(self, n: int) -> torch.Tensor:
        """Rows [n] int64 of the guard's bank, drawn by the engine's own generator, a new tensor."""
        return torch.randint(len(self.guard.bank), (n,), generator=self._generator, device=self.device)

    def clear(self) -> None:
        """As it was made: undoes the steps of warm-ups. A window is not valid then until its rebuild."""
        self.current.copy_(self._rest.expand_as(self.current))
        self.next_command.zero_()
        self.guard.clear()
        for tensor in (self.ramp.initial, self.ramp.target, self.ramp.elapsed):
            tensor.zero_()

    def infer_from_current(self) -> None:
        """The frame after the current one, into ``next_motion``: a backend may not write where it still reads."""
        n = self.num_envs
        self.backend.step(self.current[:n], self.next_command[:n], self.next_motion[:n])


@dataclass
class WindowBuffers:
    """What a window keeps on the device. Everything is contiguous; floats are float32.

    There is one column an environment and one more, the scratch column (index ``num_envs``), where the padding of
    batches goes. Its contents mean nothing.

    Attributes:
        num_envs: environments; ``columns = num_envs + 1``.
        horizon: frames of the window, at least 2, the current one included.
        ring: [horizon, columns, W] rows of :class:`cmg_runtime.window.frames.FrameLayout`.
        flat_ring: [horizon * columns, W], the same memory. The frame of column c at offset k from its current one is
            in row ``(head[c] + k * columns) % (horizon * columns)``.
        head: [columns] int64, the row of ``flat_ring`` with each column's current frame: a multiple of ``columns``,
            and the column.
        current: [columns, D] motion state of the current frame: what callers see as dof_pos and dof_vel.
        newest_motion: [columns, D] motion state of the frame at offset ``horizon - 1``: the network's input.
        newest_root: [columns, 4] its root state: x, y, z (m), yaw (rad), world.
        next_motion: [columns, D] the network's result: the frame at offset ``horizon``.
        next_command: [columns, 3] command in force that leads to that frame: the network's other input.
        ramp: the ramps of the commands.
        ground: [columns] height of the ground under each environment, m.
        placement: [columns, 4] the place that was last given for each environment, by a reset or a start: x, y, height
            of the ground (m), yaw (rad), world. Zeros before any.
        fresh: [columns] bool, True between a reset and the rebuild that follows it.
    """

    num_envs: int
    horizon: int
    ring: torch.Tensor
    current: torch.Tensor
    next_motion: torch.Tensor
    next_command: torch.Tensor
    ramp: CommandRamp
    head: torch.Tensor = field(init=False)
    newest_motion: torch.Tensor = field(init=False)
    newest_root: torch.Tensor = field(init=False)
    ground: torch.Tensor = field(init=False)
    placement: torch.Tensor = field(init=False)
    fresh: torch.Tensor = field(init=False)

    @staticmethod
    def of(state: EngineState, horizon: int, width: int) -> WindowBuffers:
        """Those of an engine, whose rows have ``width`` floats."""
        ring = torch.zeros(horizon, state.num_envs + 1, width, dtype=torch.float32, device=state.device)
        shared = state.current, state.next_motion, state.next_command, state.ramp
        return WindowBuffers(state.num_envs, horizon, ring, *shared)

    def __post_init__(self) -> None:
        columns, device = len(self.current), self.current.device
        self.head = torch.arange(columns, device=device)
        self.newest_motion = self.current.clone()
        self.newest_root = torch.zeros(columns, 4, dtype=torch.float32, device=device)
        self.ground = torch.zeros(columns, dtype=torch.float32, device=device)
        self.placement = torch.zeros(columns, 4, dtype=torch.float32, device=device)
        self.fresh = torch.zeros(columns, dtype=torch.bool, device=device)
        self.flat_ring = self.ring.view(-1, self.ring.shape[-1])
        self._ahead = torch.arange(0, len(self.flat_ring), columns, device=device).unsqueeze(1)

    def places(self, ids: torch.Tensor, first: int, count: int) -> torch.Tensor:
        """[count, n] int64: rows of ``flat_ring`` with the frames of columns ``ids`` from offset ``first`` on."""
        return (self.head.index_select(0, ids) + self._ahead[first : first + count]).remainder(len(self.flat_ring))


class Steps:
    """The step of every environment, and the step of some. Both run the network for all; they differ in what is kept.

    Args:
        infer: the network, into ``next_motion``. It is given None, or the mask [num_envs] bool of those that move.
        commit: with the same; it keeps the results of those that move alone.
    """

    def __init__(
        self,
        state: EngineState,
        infer: Callable[[Optional[torch.Tensor]], None],
        commit: Callable[[Optional[torch.Tensor]], None],
    ) -> None:
        self._moving = state.moving
        self._pieces = [
            [Piece(functools.partial(infer, moving), state.captures_network), Piece(functools.partial(commit, moving))]
            for moving in (None, state.moving)
        ]
        self._all: Any = functools.partial(run_eagerly, self._pieces[0])
        self._some: Any = functools.partial(run_eagerly, self._pieces[1])

    def record(self, recorder: GraphRecorder) -> None:
        """As CUDA graphs. The step of some too, though few ask for it: it takes no memory of its own but the graph's
        nodes, and nobody has to wait for it in the middle of a run, or finds that it cannot be recorded within a
        graph of his own."""
        self._all, self._some = (recorder.record(pieces) for pieces in self._pieces)

    def run(self, moving: Optional[torch.Tensor]) -> None:
        """Every environment one frame forward, or those that ``moving`` [num_envs] bool chooses."""
        if moving is None:
            self._all()
        else:
            self._moving.copy_(moving)
            self._some()
