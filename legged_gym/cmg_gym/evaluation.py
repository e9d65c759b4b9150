"""How well a policy follows: measured in the environment, a fixed command for each of its robots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from cmg_gym.env_cfg import FEET_CONTACT
from cmg_gym.mdp.reference_command import reference
from cmg_gym.mdp.rewards import feet_in_contact
from cmg_gym.robots import G1, robot_of
from cmg_gym.velocity_task import HeldTwist

if TYPE_CHECKING:
    from mjlab.rl import RslRlVecEnvWrapper

    from cmg_gym.learning.policies import Policy

WARM_UP_S = 2.0
"""Left out of the velocity errors at the start of an episode."""
WINDOW_S = 1.0
"""Of the moving average of the velocity."""


@dataclass(frozen=True)
class Episodes:
    """One episode of each of N robots, T control steps.

    Attributes:
        command: [N, 3] m/s, m/s, rad/s.
        velocity: [T, N, 3] of the root in its heading frame: forward, sideways (m/s), yaw rate (rad/s).
        joint_error: [T, N] root mean square over joints of the distance to the reference's target, rad; NaN where there
            is none.
        slip: [T, N] mean horizontal speed of the feet in contact, m/s; 0 where none is.
        power: [T, N] positive mechanical power of all actuators, W.
        alive: [T, N] bool, the robot has not fallen up to and including this step.
        step_s: length of a control step, s.
    """

    command: torch.Tensor
    velocity: torch.Tensor
    joint_error: torch.Tensor
    slip: torch.Tensor
    power: torch.Tensor
    alive: torch.Tensor
    step_s: float


@dataclass(frozen=True)
class CommandResult:
    """Means over the episodes of one command; NaN where every robot fell too early to measure.

    Attributes:
        command: (vx, vy, yaw rate), m/s, m/s, rad/s.
        episodes: how many.
        survival: share that did not fall.
        velocity_error: m/s, of the moving average over one second, after two.
        yaw_error: rad/s, likewise.
        joint_error: rad, root mean square over joints and time, to the reference.
        slip: m/s, speed of feet in contact.
        power: W, positive mechanical power.
    """

    command: tuple[float, ...]
    episodes: int
    survival: float
    velocity_error: float
    yaw_error: float
    joint_error: float
    slip: float
    power: float


@torch.inference_mode()
def run_episodes(
    env: RslRlVecEnvWrapper, policy: Policy, command: torch.Tensor, num_steps: int, twist: HeldTwist | None = None
) -> Episodes:
    """Reset every robot and let it follow its command [N, 3] for ``num_steps``, or until it falls.

    Args:
        twist: the command term of mjlab's own velocity task; None in ours.
    """
    world = env.unwrapped
    term = twist or reference(world)
    robots = slice(env.num_envs)  # a captured environment has a world more
    term.hold(command)
    observations, _ = env.reset()
    if twist is not None:  # the reset has drawn other commands
        term.hold(command)
        observations = env.get_observations()
    robot = term.robot
    feet = G1.foot_sites if isinstance(term, HeldTwist) else robot_of(term.engine.manifest).foot_sites
    sites = robot.find_sites(feet, preserve_order=True)[0]
    alive = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    columns: list[tuple[torch.Tensor, ...]] = []
    for _ in tqdm(range(num_steps), desc="episodes", unit="step", mininterval=1.0):
        target = term.target.dof_pos[robots].clone()  # the step overwrites it
        observations, _, _, _ = env.step(policy(observations))
        alive = alive & ~world.reset_terminated[robots]
        data = robot.data
        velocity = term.robot_velocity()[robots]
        contact = feet_in_contact(world, FEET_CONTACT)[robots]
        speed = data.site_lin_vel_w[robots, sites, :2].norm(dim=-1)
        slip = (speed * contact).sum(dim=1) / contact.sum(dim=1).clamp(min=1)
        power = (data.qfrc_actuator * data.joint_vel)[robots].clamp(min=0).sum(dim=1)
        columns.append((velocity, (data.joint_pos[robots] - target).square().mean(dim=1).sqrt(), slip, power, alive))
    velocity, joint_error, slip, power, survived = (torch.stack(column) for column in zip(*columns, strict=True))
    # Ours clamps commands to the checkpoint's range; mjlab's draws others for robots that fall.
    held = command if twist is not None else term.command[robots]
    return Episodes(held.clone(), velocity, joint_error, slip, power, survived, world.step_dt)


def summarise(episodes: Episodes, grid: torch.Tensor) -> list[CommandResult]:
    """A result for each command of ``grid`` [G, 3], whose robots are N / G neighbours each, in order."""
    window = round(WINDOW_S / episodes.step_s)
    first = round(WARM_UP_S / episodes.step_s)
    error = moving_average(episodes.velocity, window) - episodes.command
    measured = episodes.alive.clone()
    measured[: max(first, window - 1)] = False
    results = []
    for index, robots in enumerate(torch.arange(episodes.alive.shape[1]).chunk(len(grid))):
        late, alive = measured[:, robots], episodes.alive[:, robots]
        deviation = error[:, robots][late]
        results.append(
            CommandResult(
                command=tuple(round(value, 6) for value in grid[index].tolist()),
                episodes=len(robots),
                survival=float(alive[-1].float().mean()),
                velocity_error=float(deviation[:, :2].norm(dim=1).mean()),
                yaw_error=float(deviation[:, 2].abs().mean()),
                joint_error=float(episodes.joint_error[:, robots][alive].square().mean().sqrt()),
                slip=float(episodes.slip[:, robots][alive].mean()),
                power=float(episodes.power[:, robots][alive].mean()),
            )
        )
    return results


def moving_average(values: torch.Tensor, window: int) -> torch.Tensor:
    """Mean of ``values`` [T, ...] over the last ``window`` steps, that step included; over fewer at the beginning."""
    total = values.double().cumsum(dim=0)
    before = torch.cat([torch.zeros_like(total[:window]), total[:-window]])[: len(values)]
    count = torch.arange(1, len(values) + 1, device=values.device).clamp(max=window)
    return ((total - before) / count.view(-1, *[1] * (values.dim() - 1))).float()
