"""The commands that are tried and the states that rollouts start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Command = tuple[float, float, float]

WALK_BEFORE_STOP = 4.0  # s
POSE_NOISE = 0.02  # rad; the generator is deterministic, without noise all rollouts from one pose are one


@dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        family: what it belongs to: the bars are set by family.
        command: vx, vy (m/s) and yaw rate (rad/s), held for the whole rollout; in a "stopping" case for the
            first ``WALK_BEFORE_STOP`` seconds, zero after.
    """

    family: str
    command: Command

    @property
    def mirrored(self) -> Command:
        """The command as seen in a mirror: vy and yaw rate change sign."""
        return (self.command[0], -self.command[1], -self.command[2])

    @property
    def moves(self) -> bool:
        """Whether the robot is to keep moving to the end."""
        return self.family not in ("standing", "stopping")


def command_grid(low: Sequence[float], high: Sequence[float]) -> tuple[Case, ...]:
    """Every case whose command lies within a checkpoint's range, families together.

    Args:
        low, high: least and greatest vx, vy (m/s) and yaw rate (rad/s).
    """
    turns = (0.0, 0.4, -0.4, 0.8, -0.8)
    families: dict[str, list[Command]] = {
        "forward": [
            (0.2, 0.0, 0.0), (0.3, 0.0, 0.0),
            *((vx, 0.0, yaw) for vx in (0.4, 0.6, 0.8, 1.0, 1.2, 1.4) for yaw in turns),
            (1.6, 0.0, 0.0), (2.0, 0.0, 0.0), (2.5, 0.0, 0.0),
        ],
        "backward": [(-vx, 0.0, 0.0) for vx in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)],
        "sideways": [(0.0, sign * vy, 0.0) for vy in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8) for sign in (1, -1)],
        "turning": [(0.0, 0.0, sign * yaw) for yaw in (0.4, 0.8, 1.2, 1.5) for sign in (1, -1)],
        "diagonal": [(vx, sign * 0.3, 0.0) for vx in (0.6, 0.3, -0.3) for sign in (1, -1)],
        "standing": [(0.0, 0.0, 0.0)],
        "stopping": [
            (0.2, 0.0, 0.0), (0.6, 0.0, 0.0), (1.2, 0.0, 0.0), (2.0, 0.0, 0.0), (2.5, 0.0, 0.0),
            (0.8, 0.0, 0.8), (0.8, 0.0, -0.8), (-0.3, 0.0, 0.0), (-0.5, 0.0, 0.0), (-1.0, 0.0, 0.0),
            (0.0, 0.3, 0.0), (0.0, -0.3, 0.0), (0.0, 0.5, 0.0), (0.0, -0.5, 0.0), (0.0, 0.8, 0.0), (0.0, -0.8, 0.0),
            (0.0, 0.0, 0.8), (0.0, 0.0, -0.8), (0.0, 0.0, 1.5), (0.0, 0.0, -1.5), (0.6, 0.3, 0.0), (0.6, -0.3, 0.0),
        ],
    }  # fmt: skip
    cases = (Case(family, command) for family, commands in families.items() for command in commands)
    return tuple(case for case in cases if _within(case.command, low, high))


def _within(command: Command, low: Sequence[float], high: Sequence[float]) -> bool:
    return all(a - 1e-4 <= value <= b + 1e-4 for a, value, b in zip(low, command, high, strict=True))


@dataclass(frozen=True)
class Starts:
    """States to start from, the same for every command.

    Attributes:
        motion: [R, 2 * num_joints], physical units.
        groups: name -> rows of ``motion``.
    """

    motion: torch.Tensor
    groups: dict[str, torch.Tensor]


def make_starts(
    bank: torch.Tensor | None, poses: list[torch.Tensor], num_rollouts: int, generator: torch.Generator
) -> Starts:
    """Half from the bank, half from standing poses at rest; all from the poses when there is no bank.

    Args:
        bank: [K, 2 * num_joints] motion states, or None.
        poses: standing poses [num_joints], rad, taken in turn. The first rollout from each is exact, the
            others are off by ``POSE_NOISE``.
        num_rollouts: states in all, at least 2.
        generator: of the random choices, on the CPU.
    """
    from_bank = 0 if bank is None else num_rollouts // 2
    pose = torch.stack([poses[i % len(poses)] for i in range(num_rollouts - from_bank)]).float().cpu()
    noise = POSE_NOISE * torch.randn(pose.shape, generator=generator)
    noise[: len(poses)] = 0
    standing = torch.cat([pose + noise, torch.zeros_like(pose)], dim=1)
    if bank is None:
        return Starts(standing, {"standing": torch.arange(num_rollouts)})
    rows = torch.randperm(len(bank), generator=generator).repeat(from_bank // len(bank) + 1)[:from_bank]
    groups = {"bank": torch.arange(from_bank), "standing": torch.arange(from_bank, num_rollouts)}
    return Starts(torch.cat([bank.float().cpu()[rows], standing]), groups)
