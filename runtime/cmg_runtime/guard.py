"""The numerical guard: a generated frame that cannot be right never becomes part of a reference.

A row of a generated frame is bad unless every value is within its limits, which NaN is not. A bad row is replaced, on
the device, before anything else reads it, by the bank's row

    (frame_number + STRIDE * column) % K

where ``column`` is the environment and ``frame_number`` counts the environment's frames since the engine was loaded:
the same frame is replaced by the same state whether it was made by a step, a rebuild, or an engine without a window.
Nothing else changes: the command goes on, so does the root, and every other row keeps its bits.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Sequence, Tuple

import torch

from cmg_runtime import inputs
from cmg_runtime.device.triton_support import why_not
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Manifest

STRIDE = 2654435761
"""A prime: neighbours go on from different states."""

POSITION_MARGIN = 0.5
"""rad beyond a joint's limits: the bundled checkpoint goes 0.05 beyond at the edges of its command range."""

POSITION_DEVIATIONS = 8.0
"""Standard deviations of the data about its mean that are allowed even beyond a joint's limits: a checkpoint's data may
be of another variant of the robot. The bundled checkpoint's frames reach 5, but for what :data:`DEVIATIONS` says."""

FARTHEST_BEYOND = math.pi
"""rad beyond a joint's limits that neither deviations nor bank take a limit: stats in degrees must not make room for
themselves. Variants of one robot differ in their limits, and in where their joints are at 0, by less than half a turn;
the widest limit of the bundled checkpoint is 3.06 beyond its joint's."""

FARTHEST_TURN = 4 * math.pi
"""rad: as :data:`FARTHEST_BEYOND`, from 0, where no limit of the joint is known. No limb turns twice."""

DEVIATIONS = 50.0
"""Standard deviations of the data: half the width of limits that the robot does not set. The bundled checkpoint's
frames reach 10; where a command is reversed in the middle of a stride, one reversal in some hundred thousand leads to a
frame of up to 30, joints 0.7 rad beyond their limits."""

LOWEST_VELOCITY_LIMIT = 50.0
"""rad/s. No velocity limit is tighter than this: humanoids' joints turn at 20 to 40 at the most."""

HIGHEST_VELOCITY_LIMIT = 100.0
"""rad/s. None is wider either, whatever the stats say: it is more than twice the speed of the fastest joints. The
widest of the bundled checkpoint is 82."""

WATCH_EVERY = 256
"""Steps between two looks at the counter."""

WARN_EVERY_S = 10.0
"""Seconds between two warnings of one engine, at least."""


def limits(manifest: Manifest, bank: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """(low, high), [motion_dim] float32 each, on the bank's device: what a generated value must be within.

    Positions: the robot's joint limits and :data:`POSITION_MARGIN`, or :data:`POSITION_DEVIATIONS` if these are wider;
    without a limit :data:`DEVIATIONS` about the data's mean. Velocities: :data:`DEVIATIONS` about the data's mean, at
    least :data:`LOWEST_VELOCITY_LIMIT`. Every limit is widened to take in the bank, but none goes beyond
    :func:`outermost`: what the data may say about itself ends there.

    Raises:
        EngineError: a state of the bank is beyond that at a joint whose limits are known. Where they are not, the
            guard's take it in, and a warning says so.
    """
    num_joints = manifest.sizes.num_joints
    mean, std = (_float64(values) for values in (manifest.stats.motion_mean, manifest.stats.motion_std))
    lower, upper, limited = joint_limits(manifest)
    width = DEVIATIONS * std
    width[num_joints:].clamp_(min=LOWEST_VELOCITY_LIMIT)
    width[:num_joints] = torch.where(limited, POSITION_DEVIATIONS * std[:num_joints], width[:num_joints])
    low, high = mean - width, mean + width
    low[:num_joints] = torch.where(limited, torch.minimum(low[:num_joints], lower - POSITION_MARGIN), low[:num_joints])
    high[:num_joints] = torch.where(
        limited, torch.maximum(high[:num_joints], upper + POSITION_MARGIN), high[:num_joints]
    )
    states = bank.double().cpu()
    least, most = outermost(manifest)
    low = torch.maximum(torch.minimum(low, states.amin(dim=0)), least)
    high = torch.minimum(torch.maximum(high, states.amax(dim=0)), most)
    beyond = ((states < low) | (states > high)).nonzero()
    if len(beyond):
        at_known = beyond[limited.repeat(2)[beyond[:, 1]]]
        row, column = (at_known if len(at_known) else beyond)[0].tolist()
        said = (
            f"engine {manifest.name!r}: state {row} of its bank has {'dof_pos' if column < num_joints else 'dof_vel'} "
            f"{float(states[row, column]):.4g} at {manifest.joint_names[column % num_joints]}, expected "
            f"{float(low[column]):.4g} .. {float(high[column]):.4g} (rad, rad/s); stats or bank of its checkpoint may "
            "be in other units or in another order of joints: build it again from a checkpoint whose are not"
        )
        if len(at_known):
            raise EngineError(said)
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        low, high = torch.minimum(low, states.amin(dim=0)), torch.maximum(high, states.amax(dim=0))
    return low.float().to(bank.device), high.float().to(bank.device)


def joint_limits(manifest: Manifest) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(lower, upper), [num_joints] float64, rad, and which joints have limits [num_joints] bool: the others' lower and
    upper are infinite. A limit of more than :data:`FARTHEST_TURN` is none."""
    robot, none = manifest.robot, torch.full((manifest.sizes.num_joints,), math.inf, dtype=torch.float64, device="cpu")
    if robot is None:
        return -none, none, torch.zeros_like(none, dtype=torch.bool)
    lower, upper = _float64(robot.joint_lower), _float64(robot.joint_upper)
    limited = (lower >= -FARTHEST_TURN) & (upper <= FARTHEST_TURN)
    return torch.where(limited, lower, -none), torch.where(limited, upper, none), limited


def outermost(manifest: Manifest) -> Tuple[torch.Tensor, torch.Tensor]:
    """(low, high), [motion_dim] float64 each: the farthest that :func:`limits` may lie. Nothing in it comes from the
    checkpoint."""
    lower, upper, limited = joint_limits(manifest)
    turn, speed = torch.full_like(lower, FARTHEST_TURN), torch.full_like(lower, HIGHEST_VELOCITY_LIMIT)
    return (
        torch.cat([torch.where(limited, lower - FARTHEST_BEYOND, -turn), -speed]),
        torch.cat([torch.where(limited, upper + FARTHEST_BEYOND, turn), speed]),
    )


def _float64(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float64, device="cpu")


class Guard:
    """Replaces bad rows and counts them. Never makes the host wait on CUDA; can be captured in CUDA graphs.

    Args:
        low, high: [motion_dim] float32, rad and rad/s. No limit may be NaN.
        bank: [K, motion_dim] float32, K at least 1, contiguous: what bad rows are replaced by.
        num_envs: columns whose bad rows count. There is one more, the scratch column: see
            :class:`cmg_runtime.window.window_buffers.WindowBuffers`.
        replaced: [] int64, the counter.

    Attributes:
        low, high, bank, replaced: as given.
        frame: [num_envs + 1] int64: the number of each column's current frame.
        columns: [num_envs] int64: 0..num_envs-1.
    """

    def __init__(
        self, low: torch.Tensor, high: torch.Tensor, bank: torch.Tensor, num_envs: int, replaced: torch.Tensor
    ) -> None:
        self.low, self.high, self.bank, self.replaced = low, high, bank, replaced
        self.frame = torch.zeros(num_envs + 1, dtype=torch.int64, device=bank.device)
        self.columns = torch.arange(num_envs, device=bank.device)
        self._num_envs = num_envs
        self._host_limits = (low.cpu(), high.cpu())
        self._fused = bank.device.type == "cuda" and not why_not(bank.device)

    def apart(self, num_envs: int) -> Guard:
        """A guard with the same limits, bank and counter, of other columns, all at frame 0."""
        return Guard(self.low, self.high, self.bank, num_envs, self.replaced)

    def apply(self, motion: torch.Tensor, columns: torch.Tensor, ahead: int, advance: bool = False) -> None:
        """Replace the bad rows of a generated frame, in place, and count them.

        Args:
            motion: [n, motion_dim] float32, rad and rad/s; rows may lie apart in memory.
            columns: [n] int64, each row's column. Rows of the scratch column are not counted.
            ahead: frames from the current frame to this one.
            advance: this is a step: afterwards the next frame of these columns is the current one. Each may then
                occur only once.
        """
        if self._fused:
            from cmg_runtime.window.triton.guard import replace_bad_rows

            replace_bad_rows(self, motion, columns, ahead, advance, self._num_envs)
            return
        bad = ~self.within(motion)
        if bad.device.type != "cpu" or bool(bad.any()):
            number = self.frame.index_select(0, columns) + ahead
            state = (number + STRIDE * columns).remainder(len(self.bank))
            motion.copy_(torch.where(bad.unsqueeze(1), self.bank.index_select(0, state), motion))
            self.replaced.add_((bad & (columns < self._num_envs)).sum())
        if advance:
            self.frame.index_copy_(0, columns, self.frame.index_select(0, columns) + 1)

    def within(self, motion: torch.Tensor) -> torch.Tensor:
        """[n] bool: which rows of ``motion`` [n, motion_dim] are within the limits in every value."""
        return ((motion >= self.low) & (motion <= self.high)).all(dim=1)

    def require_within(self, motion: torch.Tensor, name: str) -> None:
        """Raise :class:`EngineError` unless every value of ``motion`` [.., motion_dim] is within. The host waits."""
        inputs.require_finite(motion, name)
        rows = motion.reshape(-1, motion.shape[-1])
        low, high = self._host_limits if rows.device.type == "cpu" else (self.low, self.high)
        outside = ((rows < low) | (rows > high)).nonzero()
        if len(outside):
            row, column = outside[0].tolist()
            raise EngineError(
                f"{name} has {float(rows[row, column]):.4g} at [{row}, {column}], where no motion of this engine is; "
                f"expected {float(low[column]):.4g} .. {float(high[column]):.4g} (rad, rad/s)"
            )

    def clear(self) -> None:
        """Nothing replaced, and every column at frame 0."""
        self.frame.zero_()
        self.replaced.zero_()


class GuardWatch:
    """Warns of replaced frames while the engine runs, without waiting for the GPU.

    Every :data:`WATCH_EVERY` steps the counter is copied into pinned memory, behind the steps so far. What is read is
    what has arrived since the last look; no event is asked, because a query fails where another thread captures a
    CUDA graph in torch's default mode. The counter only grows, and 8 aligned bytes arrive at once.

    Args:
        replaced: [] int64, the counter.
        owner: in whose name to warn.
    """

    def __init__(self, replaced: torch.Tensor, owner: str) -> None:
        self._replaced = replaced
        self._owner = owner
        pinned = replaced.device.type == "cuda"
        self._seen = torch.zeros((), dtype=torch.int64, device="cpu", pin_memory=pinned)
        self._steps = 0
        self._told = 0
        self._told_at = -WARN_EVERY_S

    def step(self) -> None:
        """Once a step."""
        self._steps += 1
        if self._steps < WATCH_EVERY:
            return
        if self._replaced.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # the copy would become part of the caller's graph
        self._steps = 0
        if self._replaced.device.type == "cpu":
            self._seen.copy_(self._replaced)
        self._tell(int(self._seen))
        self._seen.copy_(self._replaced, non_blocking=True)

    def _tell(self, replaced: int) -> None:
        now = time.monotonic()
        if replaced <= self._told or now - self._told_at < WARN_EVERY_S:
            return
        new, self._told, self._told_at = replaced - self._told, replaced, now
        warnings.warn(
            f"{self._owner}: {new} generated frames were not finite or beyond the limits and were replaced from the "
            f"bank ({replaced} so far); see report()",
            RuntimeWarning,
            stacklevel=5,
        )
