"""The gaits that the demo draws.

The motion state has no root, so the root follows the command: (vx, vy, yaw rate) integrated in the heading frame,
the pelvis level, and as high as puts the lowest point of the soles on the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cmg_runtime import Engine, EngineError
from cmg_runtime.window.kinematics import ForwardKinematics

COMMANDS = (
    ("forward", (1.0, 0.0, 0.0)),
    ("backward", (-0.6, 0.0, 0.0)),
    ("sideways", (0.0, 0.5, 0.0)),
    ("turning", (0.6, 0.0, 0.7)),
)
"""What is drawn: (vx, vy) m/s and yaw rate rad/s, in the heading frame."""

WARM_UP_SECONDS = 3.0
"""Left out at the start, while a rollout goes from its initial state to the gait of its command."""

LOOK_AHEAD_SECONDS = 1.0
"""Length of the line on the floor that shows where the command leads."""


@dataclass(frozen=True)
class Gait:
    """A rollout at one command.

    Attributes:
        name: what the command is called.
        command: (vx, vy, yaw rate), m/s and rad/s.
        dof_pos: [T, num_joints], rad.
        root: [T, 4], x, y, z (m) and heading (rad) in the world, the root's origin.
        path: [T + look-ahead, 2], x, y (m): where the command leads, beyond the last frame too.
    """

    name: str
    command: tuple[float, ...]
    dof_pos: torch.Tensor
    root: torch.Tensor
    path: torch.Tensor

    @property
    def label(self) -> str:
        """The command's parts that are not zero, one a line."""
        parts = zip(self.command, ("vx {:+.1f} m/s", "vy {:+.1f} m/s", "yaw {:+.1f} rad/s"), strict=True)
        return "\n".join(text.format(value) for value, text in parts if value) or "standing"


def integrate_command(command: Sequence[float], num_frames: int, fps: float) -> torch.Tensor:
    """Path of a root that follows a constant command exactly.

    Args:
        command: (vx, vy, yaw rate) in the heading frame, m/s and rad/s.

    Returns:
        [num_frames, 3] float64: x, y (m) and heading (rad), from 0, 0, 0; exact, since a constant command is an arc.
    """
    vx, vy, rate = command
    time = torch.arange(num_frames, dtype=torch.float64) / fps
    heading = rate * time
    forward, side = (time, torch.zeros_like(time)) if rate == 0 else (heading.sin() / rate, (1 - heading.cos()) / rate)
    return torch.stack([vx * forward - vy * side, vx * side + vy * forward, heading], dim=1)


def generate_gaits(engine: Engine, num_frames: int, seed: int) -> list[Gait]:
    """Roll out every one of :data:`COMMANDS`, within the engine's command range, and place the root.

    Raises:
        EngineError: the engine has no robot model, or its command is not (vx, vy, yaw rate).
    """
    robot = engine.manifest.robot
    low, high = engine.command_range
    if robot is None or len(low) != 3:
        raise EngineError("the demo needs an engine with a robot model and (vx, vy, yaw rate) commands")
    warm_up = int(WARM_UP_SECONDS * engine.fps)
    commands = torch.tensor([command for _, command in COMMANDS]).clamp(low, high)
    draw = torch.randint(len(engine.bank), (len(COMMANDS),), generator=torch.Generator().manual_seed(seed))
    frames = engine.rollout(engine.bank[draw], commands, warm_up + num_frames - 1)[:, warm_up:]
    dof_pos = frames[..., : len(engine.joint_names)].double()
    kinematics = ForwardKinematics(robot, dtype=torch.float64)
    height = -kinematics.sole_heights(*kinematics(dof_pos)).amin(dim=-1)
    gaits = []
    for i, (name, _) in enumerate(COMMANDS):
        command = tuple(commands[i].tolist())
        poses = integrate_command(command, num_frames + int(LOOK_AHEAD_SECONDS * engine.fps), engine.fps)
        root = torch.cat([poses[:num_frames, :2], height[i, :, None], poses[:num_frames, 2:]], dim=1)
        gaits.append(Gait(name, command, dof_pos[i], root, poses[:, :2]))
    return gaits


def gait_period(dof_pos: torch.Tensor, shortest: int = 15) -> int:
    """Frames after which a motion [T, num_joints] best repeats itself, at least ``shortest`` and at most T / 2."""
    longest = len(dof_pos) // 2
    distance = [float((dof_pos[lag:] - dof_pos[:-lag]).square().mean()) for lag in range(1, longest + 1)]
    # The first of the good ones: two cycles match as well as one does.
    good = min(distance[shortest - 1 :]) + 0.1 * (max(distance) - min(distance[shortest - 1 :]))
    first = next(lag for lag in range(shortest, longest + 1) if distance[lag - 1] <= good)
    nearby = range(first, min(first + shortest // 2, longest) + 1)
    return min(nearby, key=lambda lag: distance[lag - 1])
