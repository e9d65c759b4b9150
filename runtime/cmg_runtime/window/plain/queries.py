"""Reference frames at times between frames, out of rows that are there already: a window's or a pool's.

The class here is plain torch, for every device; on CUDA it is some hundred small kernels. A faster one subclasses it;
:mod:`cmg_runtime.window.twins` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch

from cmg_runtime.window.frames import FrameLayout, ReferenceFrames
from cmg_runtime.window.geometry import blend_quat, turn_rows, turn_upright, yaw_from_upright

ON_A_FRAME = 1e-3
"""Frames. Times this close to a frame are taken to be on it: seconds in float32 hardly ever are exactly."""

ROUNDING = 5e-7
"""Of a time: how far off float32 may have it, after the few operations that callers make times with."""


class MotionFrames(NamedTuple):
    """Frames of motions as motion libraries give them: [M, ...] float32, contiguous.

    Attributes:
        root_pos: [M, 3] m, world.
        root_rot: [M, 4] quaternion (x, y, z, w), world, x = y = 0.
        root_vel: [M, 3] m/s, world.
        root_ang_vel: [M, 3] rad/s, world.
        dof_pos, dof_vel: [M, D] rad, rad/s.
        local_body_pos: [M, B, 3] m, in the root's frame.
    """

    root_pos: torch.Tensor
    root_rot: torch.Tensor
    root_vel: torch.Tensor
    root_ang_vel: torch.Tensor
    dof_pos: torch.Tensor
    dof_vel: torch.Tensor
    local_body_pos: torch.Tensor


@dataclass(frozen=True)
class MotionRows:
    """Where the frames of motions are. The tensors are read at every query, so their owner may change them in place.

    Attributes:
        rows: [F, columns, W] float32.
        layout: what a row's floats are.
        head: [num_motions] int64, the row of each motion's frame 0, in ``rows`` flattened to [F * columns, W]; each of
            the F - 1 frames that follow is ``columns`` rows further on, round and round.
        clock: [num_motions] float32, the time of a motion's frame 0, in frames; None: 0.
        origin: [num_motions, 3] float32: x, y (m) and yaw (rad), in the world that answers are in, of the origin of the
            world that the motion's frames are in. None: one and the same world.
        repeats: past its last frame a motion begins again where it ended: the root goes on from its last place and
            heading, the joints jump. Otherwise its last frame stands for all that follow.
    """

    rows: torch.Tensor
    layout: FrameLayout
    head: torch.Tensor
    clock: Optional[torch.Tensor] = None
    origin: Optional[torch.Tensor] = None
    repeats: bool = False


def frame_positions(
    times: torch.Tensor, fps: float, clock: Union[torch.Tensor, float]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Where ``times`` [M], s, lie: in frames after frame number ``clock`` ([M], or one for all).

    Returns:
        Positions [M], whole where a time is on a frame, and whether each is finite [M]; 0 stands for others.
    """
    frame = times * fps
    position = frame - clock
    finite = torch.isfinite(position)
    position = position.masked_fill(~finite, 0.0)
    nearest = position.round()
    return torch.where((position - nearest).abs() < ON_A_FRAME + ROUNDING * frame.abs(), nearest, position), finite


class FrameQueries:
    """Answers queries, in plain torch.

    Args:
        motions: where frames are.
        joints: [D] joints of ``dof_pos`` and ``dof_vel``, in order, by their index in a row.
        bodies: [B] bodies of ``local_body_pos``, in order, by their index in a row; -1 stands for one that rows do not
            have, which reads NaN.
        fps: frames a second.

    Attributes:
        counts: [3] int64, the times so far that were before frame 0, past the last frame, and not finite.
    """

    def __init__(self, motions: MotionRows, joints: Sequence[int], bodies: Sequence[int], fps: float) -> None:
        rows = motions.rows
        self._motions = motions
        self._fps = fps
        self._last = len(rows) - 1
        self._end = torch.full((), float(self._last), device=rows.device)
        self._joints = torch.tensor(list(joints), dtype=torch.int64, device=rows.device)
        self._bodies = torch.tensor(list(bodies), dtype=torch.int64, device=rows.device)
        self.counts = torch.zeros(3, dtype=torch.int64, device=rows.device)
        self._way: Optional[torch.Tensor] = None
        if motions.repeats:  # [num_motions, 3]: x, y and half the turn of a whole motion
            end = self._lookup(torch.arange(len(motions.head), device=rows.device), self._last)
            self._way = torch.cat([end.root_pos[:, :2], yaw_from_upright(end.root_rot)[:, None] / 2], dim=1)

    def answer(self, ids: torch.Tensor, times: torch.Tensor) -> MotionFrames:
        """Frames of motions ``ids`` [M] int64 at ``times`` [M] float32, s; new tensors.

        Between two frames everything is blended linearly, the root's orientation as a unit quaternion along the shorter
        arc. Two frames are hundredths of a radian of yaw apart, where that differs from a turn at constant speed by
        1e-6 rad. A time before frame 0, or one that is not finite, gives frame 0.
        """
        position, loops = self._positions(ids, times)
        before = position.floor()
        weight = (position - before).unsqueeze(1)
        one, other = self._lookup(ids, before.long()), self._lookup(ids, position.ceil().long())
        fields = [torch.lerp(a, b, weight if a.dim() == 2 else weight.unsqueeze(2)) for a, b in zip(one, other)]
        frames = ReferenceFrames(*fields)._replace(root_rot=blend_quat(one.root_rot, other.root_rot, weight))
        if self._way is not None:
            frames = _carried_on(frames, self._way.index_select(0, ids), loops)
        if self._motions.origin is not None:
            x_y, yaw = self._motions.origin.index_select(0, ids).split([2, 1], dim=1)
            frames = _placed(frames, x_y, yaw.squeeze(1) / 2)
        bodies = frames.key_body_pos
        unknown = bodies.new_full((len(ids), 1, 3), float("nan"))  # the last, which -1 stands for
        places = self._bodies.remainder(bodies.shape[1] + 1)
        return MotionFrames(
            frames.root_pos,
            frames.root_rot.roll(-1, dims=1),  # from (w, x, y, z)
            frames.root_vel,
            frames.root_ang_vel,
            frames.dof_pos.index_select(1, self._joints),
            frames.dof_vel.index_select(1, self._joints),
            torch.cat([bodies, unknown], dim=1).index_select(1, places),
        )

    def _positions(self, ids: torch.Tensor, times: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """[M] where times are, in frames, 0 to the last; and [M] how often the motion began again before."""
        clock = self._motions.clock
        position, finite = frame_positions(times, self._fps, 0.0 if clock is None else clock.index_select(0, ids))
        self.counts += torch.stack([(position < 0).sum(), (position > self._last).sum(), (~finite).sum()])
        position = position.clamp(min=0)
        # By a tensor: a GPU would multiply by a number's reciprocal, and a motion's very end begin the next one.
        loops = (torch.ceil(position / self._end) - 1).clamp(min=0)
        if self._motions.repeats:
            position = position - loops * self._last
        return position.clamp(0, self._last), loops

    def _lookup(self, ids: torch.Tensor, frames: Union[torch.Tensor, int]) -> ReferenceFrames:
        """Frame ``frames[i]`` of motion ``ids[i]``, [M, ...]. An id that is out of range ``index_select`` refuses, on a
        GPU by PyTorch's device-side assert."""
        rows, head = self._motions.rows, self._motions.head.index_select(0, ids)
        places = (head + frames * rows.shape[1]).remainder(rows.shape[0] * rows.shape[1])
        return self._motions.layout.split(rows.flatten(0, 1).index_select(0, places))


def _carried_on(frames: ReferenceFrames, way: torch.Tensor, loops: torch.Tensor) -> ReferenceFrames:
    """``frames`` from where their motion has come to after ``loops`` [M] times ``way`` [M, 3].

    With d the way and psi the turn of one motion, the way after k is d + R(psi) d + ... + R((k-1) psi) d =
    sin(k psi / 2) / sin(psi / 2) R((k-1) psi / 2) d.
    """
    x_y, half = way[:, :2], way[:, 2]
    straight = torch.sin(half).abs() < 1e-6
    ratio = torch.sin(loops * half) / torch.sin(half).masked_fill(straight, 1.0)
    ratio = torch.where(straight, loops, ratio).unsqueeze(1)
    return _placed(frames, ratio * turn_rows(x_y, loops * half - half), loops * half)


def _placed(frames: ReferenceFrames, x_y: torch.Tensor, half_yaw: torch.Tensor) -> ReferenceFrames:
    """``frames`` turned about the world's origin by twice ``half_yaw`` [M], then moved by ``x_y`` [M, 2]."""
    return frames._replace(
        root_pos=turn_rows(frames.root_pos, 2 * half_yaw) + torch.nn.functional.pad(x_y, (0, 1)),
        root_vel=turn_rows(frames.root_vel, 2 * half_yaw),
        root_rot=turn_upright(frames.root_rot, half_yaw),
    )
