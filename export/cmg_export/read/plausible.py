"""Whether a checkpoint's numbers are what they are taken for: rad, rad/s and m/s, in the order of the joints' names.

Parity cannot tell: it compares a checkpoint with itself. Nor can any bar that follows from the checkpoint's own stats.
So every bar here is the robot's, where one is known, or a bound of what bodies do; and what is held to it is not the
stats alone but what the checkpoint plays.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.read.commands import draw_commands
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.limits import LOWEST_VELOCITY_LIMIT, POSITION_MARGIN, joint_limits
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.window.kinematics import ForwardKinematics

LIMIT_MARGIN = 0.1
"""rad beyond a joint's limits, of what a motion has on average or most of the time: motion data keep the limits of the
robot that they are made for, and where a foot is pressed against one it gives way by less than this. The bundled
checkpoint's frames go 0.03 beyond."""

ONE_TURN = 2 * math.pi
"""rad from 0, where a joint's limits are not known: no joint of a body with legs turns farther."""

MEAN_SPEED = 1.0
"""rad/s, of a joint's mean velocity: a joint within its limits comes back, so over a motion of some seconds it is
almost 0 (the bundled checkpoint's: 0.01)."""

DEVIATION_SPEED = 20.0
"""rad/s, of the deviation of a joint's velocity: the fastest motors of humanoids turn at 20 to 40 at the most, legs
that run deviate by 5."""

FASTEST_WALK, FASTEST_TURN = 12.5, 2 * math.pi
"""m/s, nobody has run faster; rad/s, a turn a second. Of commands."""

CORRELATED, FACTOR = 0.7, 2.0
"""A checkpoint that has learned to move plays velocities that go with the change of its positions: then both must agree
up to this factor. The bundled checkpoint's correlate by 0.89 and differ by a tenth; random weights correlate by 0."""

NEARER = 0.5
"""Of the distance from mean pose to default pose: if the mean pose is that much nearer in another order of the joints,
it is in that order."""

OFTEN = 0.25
"""Of all frames: that many are no accident. In stats that list the joints in another order than their names do, about
half are beyond limits; the bundled checkpoint has none."""

SLOW_FEET = 0.6
"""Of the commanded speed: who walks without sliding has a foot that goes back as fast as the body goes on. The bundled
checkpoint's feet make 0.9 to 1.6 of it; with commands in km/h it would be 0.3 to 0.4."""

CONSTANT = 1e-5
"""Deviations: a network whose answers to random inputs differ by less in every value has learned nothing."""

_ROLLOUTS, _FRAMES = 64, 100


REMEDY = (
    "give stats, bank and card in rad, rad/s and m/s and in the order of joint_names, or name the robot that they are "
    "of with --robot, and its joints in card.json's joint_names"
)


def check_plausible(checkpoint: Checkpoint, about: Manifest, weights: dict[str, np.ndarray], seed: int = 0) -> str:
    """Hold a checkpoint to what its robot, and any body with legs, can do.

    Args:
        about: the manifest as far as it is known before anything is compiled.
        weights: of the checkpoint, as in ``weights.npz``.
        seed: of random states and commands.

    Returns:
        In one line what to warn of, or an empty string: without a robot the first doubt, since what any joint may do is
        no proof; with one, that its feet are too slow for the commands, which training can mend, too.

    Raises:
        CheckpointError: with a robot, the same line; and always for a network that has learned nothing.
    """
    rng = np.random.default_rng(seed)
    _check_learned(checkpoint, weights, rng)
    with np.errstate(all="ignore"):  # what diverges is found by what it becomes
        frames, command = _play(checkpoint, about, weights, rng)
        found = _doubt(checkpoint, about, frames)
        if about.robot is None:
            return found
        if found:
            raise CheckpointError(f"{checkpoint.path}: {found}; {REMEDY}")
        return _of_feet(frames, command, about.robot, about.fps)


def _check_learned(checkpoint: Checkpoint, weights: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Refuse a network that gives one answer whatever it is asked."""
    stats = checkpoint.stats
    mean, std = np.asarray(stats.motion_mean), np.asarray(stats.motion_std)
    motion = mean + std * rng.standard_normal((256, len(mean)))
    command = rng.uniform(stats.command_min, stats.command_max, (256, len(stats.command_min)))
    with torch.inference_mode():
        answers = OneProductNetwork(weights)(torch.tensor(motion).float(), torch.tensor(command).float())
    spread = float((answers.double().numpy() / std).std(axis=0).max())
    if spread < CONSTANT:
        raise CheckpointError(
            f"{checkpoint.path} answers {len(motion)} random states and commands alike (within {spread:.1g} "
            "deviations in every value); expected trained weights"
        )


def _play(
    checkpoint: Checkpoint, about: Manifest, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, n, motion_dim], float64, that the checkpoint plays from its mean and its bank, under commands
    [n, command_dim] over its whole range."""
    motion = np.repeat(np.asarray(about.stats.motion_mean, dtype=np.float32)[None], _ROLLOUTS, axis=0)
    if checkpoint.bank is not None:
        motion[::2] = checkpoint.bank[rng.integers(len(checkpoint.bank), size=_ROLLOUTS // 2)]
    command = draw_commands(about.command_range, _ROLLOUTS, rng)
    network, state, frames = OneProductNetwork(weights).eval(), torch.from_numpy(motion), []
    with torch.inference_mode():
        for _ in range(_FRAMES):
            state = network(state, torch.from_numpy(command))
            frames.append(state.double().numpy())
    return np.stack(frames), command


def _doubt(checkpoint: Checkpoint, about: Manifest, frames: np.ndarray) -> str:
    """The first reason why the numbers are not in the units and the order that ``about`` takes them to be in."""
    limits = _Limits(about)
    return (
        limits.of_stats(checkpoint)
        or limits.of_default_pose(about)
        or _of_order(about)
        or limits.of_bank(checkpoint.bank)
        or _of_commands(about)
        or limits.of_frames(frames.reshape(-1, frames.shape[2]), "it plays")
        or _of_velocities(frames, about.fps)
    )


class _Limits:
    """What positions and velocities of the joints must be within."""

    def __init__(self, about: Manifest) -> None:
        self.names = about.joint_names
        self.count = len(self.names)
        lower, upper, limited = (values.numpy() for values in joint_limits(about))
        self.lower = np.where(limited, lower, -ONE_TURN)
        self.upper = np.where(limited, upper, ONE_TURN)
        self.whose = about.robot.name if about.robot is not None else "any joint"

    def of_stats(self, checkpoint: Checkpoint) -> str:
        """The mean pose is one that the robot can take. A value within limits deviates by half their width at most."""
        mean, std = np.asarray(checkpoint.stats.motion_mean), np.asarray(checkpoint.stats.motion_std)
        (pose, speed), (pose_std, speed_std) = np.split(mean, 2), np.split(std, 2)
        widest = (self.upper - self.lower) / 2 + LIMIT_MARGIN
        checks = (
            (pose_std > widest, pose_std, "motion_std", widest),
            (np.abs(speed) > MEAN_SPEED, speed, "mean velocity", np.full(self.count, MEAN_SPEED)),
            (speed_std > DEVIATION_SPEED, speed_std, "velocity's motion_std", np.full(self.count, DEVIATION_SPEED)),
        )
        outside = self._outside(pose, "the mean pose has")
        for bad, values, what, most in () if outside else checks:
            if bad.any():
                joint = int(np.argmax(np.abs(values) / most))
                return f"{what} of {self.names[joint]} is {values[joint]:.4g}, expected {most[joint]:.3g} at the most"
        return outside

    def of_default_pose(self, about: Manifest) -> str:
        """The card's pose is one that the robot can take."""
        pose = about.default_dof_pos
        return "" if pose is None else self._outside(np.asarray(pose), "default_dof_pos has")

    def of_frames(self, frames: np.ndarray, what: str) -> str:
        """In few of the frames [n, motion_dim] a joint is beyond its limits."""
        beyond = ~(self._beyond(frames[:, : self.count]) <= LIMIT_MARGIN)  # so is what is not finite
        share = float(beyond.any(axis=1).mean())
        if share < OFTEN:
            return ""
        joint = int(beyond.mean(axis=0).argmax())
        middle = float(np.median(np.nan_to_num(frames[beyond[:, joint], joint], nan=np.inf)))
        return (
            f"{what} {share:.0%} of its frames beyond joint limits, {self.names[joint]} most often (at {middle:.4g}, "
            f"{self._expected(joint, middle)})"
        )

    def of_bank(self, bank: np.ndarray | None) -> str:
        """No state of the bank is beyond what the guard allows every robot, and few are beyond limits at all."""
        if bank is None:
            return ""
        beyond, speed = self._beyond(bank[:, : self.count]), np.abs(bank[:, self.count :])
        if beyond.max() > POSITION_MARGIN:
            row, joint = map(int, np.unravel_index(beyond.argmax(), beyond.shape))
            value = float(bank[row, joint])
            return f"bank.npz has {self.names[joint]} at {value:.4g} in state {row}, {self._expected(joint, value)}"
        if speed.max() > LOWEST_VELOCITY_LIMIT:
            row, joint = np.unravel_index(speed.argmax(), speed.shape)
            return (
                f"bank.npz has {self.names[joint]} turn at {speed[row, joint]:.4g} rad/s in state {row}, expected "
                f"{LOWEST_VELOCITY_LIMIT:g} at the most"
            )
        return self.of_frames(bank, "bank.npz has")

    def _outside(self, pose: np.ndarray, what: str) -> str:
        beyond = self._beyond(pose)
        joint = int(beyond.argmax())
        if beyond[joint] <= LIMIT_MARGIN:
            return ""
        return f"{what} {self.names[joint]} at {pose[joint]:.4g}, {self._expected(joint, pose[joint])}"

    def _beyond(self, positions: np.ndarray) -> np.ndarray:
        return np.maximum(self.lower - positions, positions - self.upper)

    def _expected(self, joint: int, value: float) -> str:
        far = abs(value) > ONE_TURN  # a small number is next to 0 in degrees, where every joint may be
        degrees = far and self.lower[joint] <= math.radians(value) <= self.upper[joint]
        return (
            f"expected {self.lower[joint]:.4g} .. {self.upper[joint]:.4g} rad of {self.whose}"
            f"{', which it is within if it is in degrees' if degrees else ''}"
        )


def _of_order(about: Manifest) -> str:
    """Simulators list joints depth first or breadth first. Stats in the other order make other poses of the robot: the
    mean pose is nearer to the default pose in the order that it is in."""
    robot, pose = about.robot, about.default_dof_pos
    if robot is None or pose is None:
        return ""
    default, mean = np.asarray(pose), np.asarray(about.stats.motion_mean[: len(pose)])
    depths = [0]
    for parent in robot.body_parents[1:]:
        depths.append(depths[parent] + 1)
    bodies = [body for body, joint in enumerate(robot.body_joints) if joint >= 0]
    orders = {"depth": bodies, "breadth": sorted(bodies, key=lambda body: depths[body])}
    own = float(np.linalg.norm(mean - default))
    for name, order in orders.items():
        placed = np.empty_like(mean)
        placed[[robot.body_joints[body] for body in order]] = mean
        other = float(np.linalg.norm(placed - default))
        if other < NEARER * own:
            return (
                f"the mean pose is {own:.2g} rad from default_dof_pos in the order of joint_names, and {other:.2g} if "
                f"it lists the joints of {robot.name} {name} first"
            )
    return ""


def _of_commands(about: Manifest) -> str:
    """Commands are walked, by a body with legs."""
    stats = about.stats
    if len(stats.command_min) != 3:
        return ""
    bars = (("vx", FASTEST_WALK, "m/s"), ("vy", FASTEST_WALK, "m/s"), ("yaw rate", FASTEST_TURN, "rad/s"))
    for (name, most, unit), low, high in zip(bars, stats.command_min, stats.command_max, strict=True):
        if max(-low, high) > most:
            return f"commands have a {name} of {low:.4g} .. {high:.4g}, expected {most:.3g} {unit} at the most"
    return ""


def _of_velocities(frames: np.ndarray, fps: float) -> str:
    """Velocities are the change of positions, in frames [T, n, motion_dim]."""
    position, velocity = np.split(frames, 2, axis=2)
    change = (position[2:] - position[:-2]) * (fps / 2)
    velocity = velocity[1:-1]
    both = math.sqrt(float((change**2).sum() * (velocity**2).sum()))
    correlation = float((change * velocity).sum()) / both if 0 < both < math.inf else 0.0
    if not correlation >= CORRELATED:
        return ""
    factor = math.sqrt(float((velocity**2).sum() / (change**2).sum()))
    if 1 / FACTOR <= factor <= FACTOR:
        return ""
    return f"it plays joint velocities that are {factor:.3g} times the change of its joint positions at {fps:g} fps"


def _of_feet(frames: np.ndarray, command: np.ndarray, robot: KinematicChain, fps: float) -> str:
    """Feet go as fast as the body is told to, in most of those rollouts that are told to be fast."""
    feet = sorted(set(robot.sole_bodies))
    speed = np.linalg.norm(command[:, :2], axis=1) if command.shape[1] == 3 else np.zeros(len(command))
    told = speed > speed.max() / 2
    if not feet or not told.any() or not np.isfinite(frames).all():
        return ""
    joints = torch.from_numpy(frames[:, told, : frames.shape[2] // 2]).float()
    places = ForwardKinematics(robot)(joints)[0][..., feet, :2]
    fastest = (places[2:] - places[:-2]).norm(dim=-1).amax(dim=-1) * (fps / 2)  # [T, n], in the robot's own frame
    ratio = float(np.quantile(fastest.median(dim=0).values.numpy() / speed[told], 0.75))
    if ratio >= SLOW_FEET:
        return ""
    return (
        f"its feet go at {ratio:.2g} of the commanded speed (commands up to {speed.max():.3g} m/s), expected "
        f"{SLOW_FEET:g} at least"
    )
