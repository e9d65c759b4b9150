"""What a motion state of an engine can be at all: limits of every joint's position and velocity, from its folder."""

from __future__ import annotations

import math
import warnings
from typing import Sequence, Tuple

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Manifest

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
