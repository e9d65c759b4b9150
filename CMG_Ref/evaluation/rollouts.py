"""Running the generator on every command at once, and what is read off each rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from CMG_Ref.checkpoint.reader import Stats
from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.evaluation.grid import WALK_BEFORE_STOP, Case
from CMG_Ref.robot_g1.chain import g1_chain
from CMG_Ref.robot_g1.gait import leg_speed, step_frequency

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class VelocityMeasure(Protocol):
    """What reads a velocity off joint angles; ``source`` says how, for the reports."""

    @property
    def source(self) -> str: ...

    def mean(self, dof_pos: torch.Tensor) -> torch.Tensor:
        """Mean velocity over time: [T, ..., 29] rad -> [..., 3]: vx, vy (m/s) and yaw rate (rad/s)."""
        ...


LIMIT_MARGIN = 0.1  # rad beyond the joint limits
SETTLE = 2.0  # s after a start or a stop that count for limits but not for gait
# Leg speed over 1 s, rad/s. The clips' idle stays below 0.08, their slowest walking (0.25 m/s) above 0.41: a
# rollout below 0.25 has frozen, one above 0.15 does not stand. In between it is neither.
MOVING_SPEED = 0.25
STILL_SPEED = 0.15
ABSURD_SPEED = 50.0  # rad/s; the G1's fastest joint does 37


@dataclass(frozen=True)
class Measures:
    """One value per case and rollout: [C, R] each, velocity [C, R, 3]. On the CPU.

    Attributes:
        stable: every value finite and every joint speed below ``ABSURD_SPEED``.
        within_limits: every joint of every frame within its limits plus ``LIMIT_MARGIN``.
        lively: moves to the end where the case moves, stands at the end where it does not.
        velocity: vx, vy (m/s), yaw rate (rad/s) after ``SETTLE``; of a stopping case while it walks.
        frequency: strides a second, Hz, over the same time.
        slowest, fastest: least and greatest leg speed over 1 s after ``SETTLE``, rad/s; of a stopping case
            after the stop.
        velocity_mismatch: root mean square of generated joint speed less the change of joint position, rad/s.
    """

    stable: torch.Tensor
    within_limits: torch.Tensor
    lively: torch.Tensor
    velocity: torch.Tensor
    frequency: torch.Tensor
    slowest: torch.Tensor
    fastest: torch.Tensor
    velocity_mismatch: torch.Tensor

    @property
    def ok(self) -> torch.Tensor:
        """Stable, within limits and lively [C, R]."""
        return self.stable & self.within_limits & self.lively


@torch.no_grad()
def roll_out(
    model: Model,
    stats: Stats,
    cases: tuple[Case, ...],
    starts: torch.Tensor,
    num_frames: int,
    progress: Callable[[int], object] = lambda frame: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """All cases from all starts as one batch, each frame fed back in the network's units.

    Args:
        model: (motion [N, D], command [N, 3]) -> next motion [N, D], all normalised.
        stats: normalisation; its device and float type are used throughout.
        cases: C commands.
        starts: [R, D], physical units.
        num_frames: T.
        progress: called with the number of frames done.

    Returns:
        Joint positions [T, C, R, J] in rad and joint velocities of the same shape in rad/s, as generated.
    """
    device, dtype = stats.motion_mean.device, stats.motion_mean.dtype
    count, rollouts, joints = len(cases), len(starts), starts.shape[1] // 2
    held = torch.tensor([case.command for case in cases], device=device, dtype=dtype)
    stops = torch.tensor([case.family == "stopping" for case in cases], device=device)
    after = torch.where(stops[:, None], torch.zeros_like(held), held)
    before, after = (stats.normalise_command(c).repeat_interleave(rollouts, 0) for c in (held, after))
    motion = stats.normalise_motion(starts.to(device, dtype)).repeat(count, 1)
    positions = torch.empty(num_frames, count, rollouts, joints, device=device, dtype=dtype)
    velocities = torch.empty_like(positions)
    with _full_precision():
        for frame in range(num_frames):
            motion = model(motion, before if frame < WALK_BEFORE_STOP * FPS else after)
            physical = stats.physical_motion(motion).view(count, rollouts, 2, joints)
            positions[frame], velocities[frame] = physical[:, :, 0], physical[:, :, 1]
            progress(frame + 1)
    return positions, velocities


@torch.no_grad()
def measure(
    cases: tuple[Case, ...], dof_pos: torch.Tensor, dof_vel: torch.Tensor, velocity: VelocityMeasure
) -> Measures:
    """Read every measure off rollouts.

    Args:
        cases: C commands.
        dof_pos, dof_vel: [T, C, R, 29], rad and rad/s, at 50 frames a second.
        velocity: reads the velocity.
    """
    chain = g1_chain()
    lower, upper = (torch.tensor(v, device=dof_pos.device) for v in (chain.joint_lower, chain.joint_upper))
    rows = [_measure_case(case, dof_pos[:, c], dof_vel[:, c], velocity, lower, upper) for c, case in enumerate(cases)]
    return Measures(**{name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]})


def _measure_case(
    case: Case,
    dof_pos: torch.Tensor,
    dof_vel: torch.Tensor,
    velocity: VelocityMeasure,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Measures [R] of one case."""
    finite = (dof_pos.isfinite() & dof_vel.isfinite()).all(-1).all(0)
    inside = (dof_pos >= lower - LIMIT_MARGIN) & (dof_pos <= upper + LIMIT_MARGIN)
    settle, stop = round(SETTLE * FPS), round(WALK_BEFORE_STOP * FPS)
    stopping = case.family == "stopping"
    gait = dof_pos[settle : stop if stopping else None]
    speed = leg_speed(dof_pos[stop + settle :] if stopping else gait, FPS)
    slowest, fastest = speed.amin(0), speed.amax(0)
    lively = slowest > MOVING_SPEED if case.moves else fastest < STILL_SPEED
    if stopping:  # one that never walked has not stopped
        lively = lively & (leg_speed(gait, FPS).amin(0) > MOVING_SPEED)
    change = torch.diff(dof_pos, dim=0) * FPS - (dof_vel[1:] + dof_vel[:-1]) / 2
    return {
        "stable": finite & (dof_vel.abs() < ABSURD_SPEED).all(-1).all(0),
        "within_limits": inside.all(-1).all(0),
        "lively": lively,
        "velocity": velocity.mean(gait),
        "frequency": step_frequency(gait, FPS),
        "slowest": slowest,
        "fastest": fastest,
        "velocity_mismatch": change.square().mean(-1).mean(0).sqrt(),
    }


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 off: a long rollout of an fp32 network is to be just that."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
