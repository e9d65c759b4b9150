"""Generated motion + command -> rows of the window: root motion, kinematics, and the writing itself.

This is everything that a step does besides the network, in one place, so that one kernel can do it. The class here
is plain torch, for every device. A faster one subclasses it and overrides :meth:`FrameWriter.append`, and of a rebuild
:meth:`FrameWriter.place`, :meth:`FrameWriter.commands`, :meth:`FrameWriter.extend` and :meth:`FrameWriter.finish`;
:mod:`cmg_runtime.window.twins` chooses.

Root motion. The root stands at (x, y, z) with heading yaw. Over the frame of ``dt = 1 / fps`` that leads to a new
frame the command in force ``(vx, vy, w)`` holds in the heading frame, which is an arc, integrated exactly:

    half = w dt / 2
    (x, y) += dt * sin(half) / half * R(yaw + half) (vx, vy)
    yaw += w dt, wrapped to [-pi, pi]
    z = ground - lowest point of the soles in the root's frame

so the lowest point of a sole always touches the ground: in a running flight phase too. Velocities are semi-analytic:
``root_vel`` is ``R(yaw) (vx, vy)`` of the frame's own heading and command in force, and vertically the difference
``(z - z before) * fps`` (0 in the frame that a reset places); ``root_ang_vel`` is ``(0, 0, w)``.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence, Tuple

import torch

from cmg_runtime.device.precision import full_precision
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.geometry import turn, wrap, yaw_from_upright
from cmg_runtime.window.kinematics import ForwardKinematics
from cmg_runtime.window.state import WindowBuffers

KINEMATICS_ROWS = 4096
"""Frames that go through the torch kinematics together: about 5 MB for each of its intermediate results on a G1."""


class FrameWriter:
    """Makes the rows of new frames and writes them into a window.

    All methods enqueue on the current stream, never wait, and write only the buffers they are given, in place, so that
    a CUDA graph can record them. In what follows ``n`` is a number of environments, ``D`` the motion state's width and
    ``W = layout.width``; every float is float32. A *root state* is (x, y, z, yaw): m, m, m, rad, in the world.

    Args:
        manifest: of the engine. Without a robot the root's z is the ground's, and there are no key bodies.
        key_bodies: indices of the key bodies in the robot's chain.
        device: where everything lives.

    Attributes:
        layout: of the rows.
        key_body_names: of the key bodies, in order.
    """

    def __init__(self, manifest: Manifest, key_bodies: Sequence[int], device: torch.device) -> None:
        robot = manifest.robot
        self.layout = FrameLayout(manifest.sizes.num_joints, len(key_bodies), robot is not None)
        self.key_body_names = () if robot is None else tuple(robot.body_names[index] for index in key_bodies)
        self._dt = 1.0 / manifest.fps
        self._fps = manifest.fps
        self._kinematics = None if robot is None else ForwardKinematics(robot, device)
        self._key_bodies = torch.tensor(list(key_bodies), dtype=torch.long, device=device)

    def append(self, buffers: WindowBuffers, number: torch.Tensor, moving: Optional[torch.Tensor] = None) -> None:
        """The part of a step that follows the network: environments move one frame forward.

        Reads ``next_motion`` (the network's result), ``next_command`` (the command in force that led to it),
        ``newest_root``, ``ground``, the ramps. Then, of each environment that moves:

        1. the new frame's row goes to row ``head`` of ``flat_ring`` (the old current frame's);
        2. ``newest_motion`` and ``newest_root`` become the new frame's;
        3. ``head`` advances to the row of the next frame;
        4. ``current`` becomes the motion state of the frame that ``head`` now names;
        5. ``ramp.elapsed`` grows by 1, and ``next_command`` becomes the ramp at ``elapsed + horizon``;
        6. ``number`` grows by 1.

        What this leaves in the scratch column means nothing; its frames are left alone.

        Args:
            number: [columns] int64, of each column's current frame.
            moving: [num_envs] bool, the environments that move; all others keep their bits. None: all of them move.
        """
        n, columns = buffers.num_envs, buffers.ring.shape[1]
        envs = EnvSelection(n, mask=moving)
        next_motion, head, root = buffers.next_motion[:n], buffers.head[:n], buffers.newest_root[:n]
        if moving is not None:
            root = root.clone()
        rows = self.rows(next_motion.unsqueeze(0), buffers.next_command[:n].unsqueeze(0), root, buffers.ground[:n])[0]
        if moving is not None:
            rows = torch.where(moving.unsqueeze(1), rows, buffers.flat_ring.index_select(0, head))
        buffers.flat_ring.index_copy_(0, head, rows)
        envs.write(buffers.newest_motion[:n], next_motion)
        envs.write(buffers.newest_root[:n], root)
        head.add_(columns if moving is None else moving * columns).remainder_(len(buffers.flat_ring))
        envs.write(buffers.current[:n], buffers.flat_ring[:, : self.layout.motion_dim].index_select(0, head))
        buffers.ramp.advance(moving)
        envs.write(buffers.next_command[:n], buffers.ramp.at(buffers.horizon)[:n])
        number[:n].add_(1 if moving is None else moving)

    def extend(
        self,
        buffers: WindowBuffers,
        ids: torch.Tensor,
        motions: torch.Tensor,
        commands: torch.Tensor,
        root: torch.Tensor,
        first: int,
    ) -> None:
        """Write consecutive frames of some environments into the window: part of a rebuild.

        Args:
            ids: [n] int64 columns of the window. The scratch column (index ``num_envs``) may occur many times, with
                any contents; its rows are never read.
            motions: [T, n, D] motion states of the frames at offsets ``first .. first + T - 1`` from the current one.
            commands: [T, n, 3] the command in force that led to each.
            root: [n, 4] root state of the frame before; becomes the last frame's, in place.
            first: at least 1.
        """
        rows = self.rows(motions, commands, root, buffers.ground.index_select(0, ids))
        places = buffers.places(ids, first, len(motions)).flatten()
        buffers.flat_ring.index_copy_(0, places, rows.flatten(0, 1))

    def place(self, buffers: WindowBuffers, ids: torch.Tensor, root: torch.Tensor) -> None:
        """Write the current frame of those of ``ids`` that a reset has placed (``fresh``); the others keep theirs.

        The row is made of ``current``, ``placement``, ``ground`` and the ramp at ``elapsed``; its vertical velocity
        is 0. ``fresh`` is cleared.

        Args:
            ids: [n] as in :meth:`extend`.
            root: [n, 4], overwritten with the root state of the current frame, placed or not.
        """
        layout, places = self.layout, buffers.places(ids, 0, 1).flatten()
        fresh = buffers.fresh.index_select(0, ids).unsqueeze(1)
        before = buffers.flat_ring.index_select(0, places)
        yaw = yaw_from_upright(before[:, layout.root_rot : layout.root_vel]).unsqueeze(1)
        root.copy_(torch.cat([before[:, layout.root_pos : layout.root_rot], yaw], dim=1))

        placed = buffers.placement.index_select(0, ids)
        motion, ground = buffers.current.index_select(0, ids), buffers.ground.index_select(0, ids)
        row = self.first_rows(motion, buffers.ramp.at(0, ids), placed, ground)
        buffers.flat_ring.index_copy_(0, places, torch.where(fresh, row, before))
        root.copy_(torch.where(fresh, placed, root))
        buffers.fresh.index_fill_(0, ids, False)

    def commands(self, buffers: WindowBuffers, ids: torch.Tensor, first: int, out: torch.Tensor) -> None:
        """Write the commands in force from ``first`` frames after the current one on: part of a rebuild.

        Args:
            ids: [n] as in :meth:`extend`.
            out: [T, n, 3], overwritten; contiguous in n.
        """
        offsets = torch.arange(first, first + len(out), dtype=torch.float32, device=ids.device).unsqueeze(1)
        out.copy_(buffers.ramp.at(offsets, ids))

    def finish(self, buffers: WindowBuffers, ids: torch.Tensor, motion: torch.Tensor, root: torch.Tensor) -> None:
        """Leave what the next step goes on from, at the end of a rebuild.

        Args:
            ids: [n] as in :meth:`extend`.
            motion: [n, D] motion state of the frame at offset ``horizon - 1``, contiguous.
            root: [n, 4] its root state.
        """
        buffers.newest_motion.index_copy_(0, ids, motion)
        buffers.newest_root.index_copy_(0, ids, root)
        buffers.next_command.index_copy_(0, ids, buffers.ramp.at(buffers.horizon, ids))

    def first_rows(
        self, motion: torch.Tensor, command: torch.Tensor, root: torch.Tensor, ground: torch.Tensor
    ) -> torch.Tensor:
        """Rows of frames that nothing led to: their vertical velocity is 0.

        Args:
            motion: [n, D], rad and rad/s.
            command: [n, 3] in force.
            root: [n, 4] root state; its z is set, in place.
            ground: [n], m.

        Returns:
            [n, W], a new tensor.
        """
        height, bodies = self._heights_and_bodies(motion[:, : self.layout.num_joints])
        root[:, 2] = ground + height
        return self._assemble(motion, command, root, torch.zeros_like(height), bodies)

    def rows(
        self, motions: torch.Tensor, commands: torch.Tensor, root: torch.Tensor, ground: torch.Tensor
    ) -> torch.Tensor:
        """Rows of consecutive frames, as a new tensor.

        Args:
            motions: [T, n, D], rad and rad/s.
            commands: [T, n, 3] the command in force that led to each frame; m/s, m/s, rad/s in the heading frame.
            root: [n, 4] root state of the frame before the first; becomes the last frame's, in place.
            ground: [n] height of the ground under each environment, m.

        Returns:
            [T, n, W].
        """
        height, bodies = self._heights_and_bodies(motions[..., : self.layout.num_joints])
        z = ground + height
        vertical = torch.diff(torch.cat([root[None, :, 2], z]), dim=0) * self._fps
        poses = integrate(root, commands, self._dt)
        poses[..., 2] = z
        root.copy_(poses[-1])
        return self._assemble(motions, commands, poses, vertical, bodies)

    def _heights_and_bodies(self, dof_pos: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Root height above the ground [..] and key bodies in the root's frame [.., B * 3]."""
        if self._kinematics is None:
            return torch.zeros_like(dof_pos[..., 0]), dof_pos[..., :0]
        heights, bodies = [], []
        with full_precision(dof_pos.device):
            for part in dof_pos.reshape(-1, dof_pos.shape[-1]).split(KINEMATICS_ROWS):
                positions, rotations = self._kinematics(part)
                heights.append(-self._kinematics.sole_heights(positions, rotations).amin(dim=-1))
                bodies.append(positions.index_select(1, self._key_bodies).flatten(1))
        shape = dof_pos.shape[:-1]
        return torch.cat(heights).reshape(shape), torch.cat(bodies).reshape(shape + (-1,))

    def _assemble(
        self,
        motion: torch.Tensor,
        command: torch.Tensor,
        pose: torch.Tensor,
        vertical: torch.Tensor,
        bodies: torch.Tensor,
    ) -> torch.Tensor:
        """[.., W] from motion [.., D], command [.., 3], root state [.., 4], z velocity [..], bodies [.., B * 3]."""
        yaw, rate = pose[..., 3], command[..., 2]
        zero = torch.zeros_like(yaw)
        vx, vy = turn(command[..., 0], command[..., 1], yaw)
        w, z = torch.cos(yaw / 2), torch.sin(yaw / 2)
        root = torch.stack([w, zero, zero, z, vx, vy, vertical, zero, zero, rate], dim=-1)
        unused = zero.unsqueeze(-1).expand(zero.shape + (self.layout.width - self.layout.used,))
        return torch.cat([motion, pose[..., :3], root, bodies, unused], dim=-1)


def integrate(root: torch.Tensor, commands: torch.Tensor, dt: float) -> torch.Tensor:
    """Root states [T, n, 4] after each of ``commands`` [T, n, 3], from ``root`` [n, 4]; z stays. See the module.

    Any float type. An arc's chord points along the heading at half its time.
    """
    angle = commands[..., 2] * dt
    yaw = root[:, 3] + torch.cumsum(angle, dim=0)
    half = angle / 2
    chord = dt * torch.sinc(half / math.pi)
    dx, dy = turn(commands[..., 0] * chord, commands[..., 1] * chord, yaw - half)
    x, y = root[:, 0] + torch.cumsum(dx, dim=0), root[:, 1] + torch.cumsum(dy, dim=0)
    return torch.stack([x, y, root[:, 2].expand_as(x), wrap(yaw)], dim=-1)


def key_body_indices(manifest: Manifest, names: Optional[Sequence[str]]) -> Tuple[int, ...]:
    """Indices in the robot's chain of the bodies called ``names``; None stands for every body of it.

    Raises:
        EngineError: there is no such body, or no robot.
    """
    robot = manifest.robot
    if names is None:
        return () if robot is None else tuple(range(len(robot.body_names)))
    if isinstance(names, str):
        raise EngineError(f"key_bodies is {names!r}; expected a list of body names")
    if robot is None:
        raise EngineError("key_bodies needs a robot and this engine folder has none; rebuild it with one")
    try:
        return tuple(robot.body_index(name) for name in names)
    except KeyError as error:
        raise EngineError(f"key_bodies: {error.args[0]}") from None


def require_root_motion(writer: Optional[FrameWriter]) -> FrameWriter:
    """``writer``. Raises :class:`EngineError` where there is none."""
    if writer is None:
        raise EngineError("root motion needs commands (vx, vy, yaw rate) and this engine's are others; use horizon=1")
    return writer
