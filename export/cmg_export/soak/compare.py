"""How far windows are from the plain rollout that begins at their current frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmg_export.parity import Truth
from cmg_export.soak.changes import Told
from cmg_export.soak.reference import place_bodies, root_path
from cmg_runtime import Engine, ReferenceFrames


@dataclass(frozen=True)
class Deviation:
    """The largest deviation of one kind.

    Attributes:
        value: in the kind's unit; NaN where something was not finite.
        env, frame: where it is; None for a figure of all of them.
    """

    value: float
    env: int | None = None
    frame: int | None = None


@torch.no_grad()
def compare(engine: Engine, truth: Truth, told: Told, step: int, envs: torch.Tensor) -> dict[str, Deviation]:
    """Hold the windows of ``envs`` [n] int64 to plain rollouts from their current frames.

    Returns:
        - "current": the current frame in ``dof_pos`` and ``dof_vel`` against the window's, rad and rad/s;
        - "one step": ``||a - b|| / ||b||`` of each frame against one step of the reference from the frame before, of
          all frames together, normalised units;
        - "one row": the same of a single frame of a single environment, where it is largest;
        - "rollout median", "rollout 99 %", "rollout": of the environments' largest differences of a joint angle to the
          rollout that runs freely, rad;
        - "place", m: the root's x and y, beyond what float32 cannot hold at its distance from the origin;
        - "heading": the root's quaternion;
        - "velocity": the root's velocities, m/s and rad/s;
        - "bodies", m: key bodies in the root's frame, and the root's height;
        - "climb", m/s: the root's vertical velocity.
    """
    frames = ReferenceFrames(*(field.index_select(0, envs).double() for field in engine.future(range(engine.horizon))))
    commands = torch.stack([told.in_force(step, k)[envs] for k in range(engine.horizon)])
    current = torch.cat([engine.dof_pos, engine.dof_vel], dim=1)[envs].double()
    copied = current - torch.cat([frames.dof_pos[:, 0], frames.dof_vel[:, 0]], dim=1)
    return {
        "current": _largest(envs, copied.unsqueeze(1), 0),
        **_motion(frames, commands, truth, envs),
        **_root(frames, commands, 1 / engine.fps, envs),
        **_bodies(frames, told.ground[envs], engine, envs),
    }


def _largest(envs: torch.Tensor, difference: torch.Tensor, first: int) -> Deviation:
    """Of [n, T, ...], whose rows are ``envs`` [n] and whose second dimension are the frames from ``first`` on."""
    each = difference.abs().flatten(2).amax(dim=2) if difference.dim() > 2 else difference.abs()
    place = int(each.argmax())  # a NaN counts as the largest
    row, frame = divmod(place, each.shape[1])
    return Deviation(float(each[row, frame]), int(envs[row]), frame + first)


def _motion(frames: ReferenceFrames, commands: torch.Tensor, truth: Truth, envs: torch.Tensor) -> dict[str, Deviation]:
    seen = torch.cat([frames.dof_pos, frames.dof_vel], dim=2)
    joints = frames.dof_pos.shape[2]
    free, apart, one_step = seen[:, 0], [], []
    for k in range(1, seen.shape[1]):
        both = truth.step(torch.cat([free, seen[:, k - 1]]), torch.cat([commands[k], commands[k]]))
        free, next_one = both.chunk(2)
        apart.append((free - seen[:, k])[:, :joints].abs().amax(dim=1))
        one_step.append(next_one)
    expected = torch.stack(one_step, dim=1)
    difference = (seen[:, 1:] - expected) / truth.motion_std
    size = truth.normalise(expected)
    # Without biases a state may be answered with the mean pose: what is next to 0 is no measure of anything.
    rows = difference.norm(dim=2) / size.norm(dim=2).clamp(min=1.0)
    largest = torch.stack(apart, dim=1)
    of_envs = largest.amax(dim=1)
    finite = bool(torch.isfinite(of_envs).all())
    median, high = (float(torch.quantile(of_envs, share)) if finite else float("nan") for share in (0.5, 0.99))
    return {
        "one step": Deviation(float(difference.norm() / size.norm())),
        "one row": _largest(envs, rows, 1),
        "rollout median": Deviation(median),
        "rollout 99 %": Deviation(high),
        "rollout": _largest(envs, largest, 1),
    }


def _root(frames: ReferenceFrames, commands: torch.Tensor, dt: float, envs: torch.Tensor) -> dict[str, Deviation]:
    seen = torch.complex(frames.root_pos[..., 0], frames.root_pos[..., 1]).t()  # [K, n]
    start = 2 * torch.atan2(frames.root_rot[:, 0, 3], frames.root_rot[:, 0, 0])
    positions, yaws = root_path(seen[0], start, commands[1:], dt)
    # One rounding a frame of a number of this size, all of them to one side at the worst.
    rounding = torch.finfo(torch.float32).eps / 2 * len(commands) * seen[1:].abs()
    place = ((positions - seen[1:]).abs() - rounding).clamp(min=0).t()
    yaws = torch.cat([start[None], yaws])
    quat = torch.stack([torch.cos(yaws / 2), 0 * yaws, 0 * yaws, torch.sin(yaws / 2)], dim=2).transpose(0, 1)
    sign = torch.sign((quat * frames.root_rot).sum(dim=2, keepdim=True))  # q and -q are one orientation
    moving = torch.exp(1j * yaws) * torch.complex(commands[..., 0], commands[..., 1])
    velocity = torch.stack([moving.real, moving.imag], dim=2).transpose(0, 1) - frames.root_vel[..., :2]
    turning = frames.root_ang_vel.clone()
    turning[..., 2] -= commands[..., 2].t()
    return {
        "place": _largest(envs, place, 1),
        "heading": _largest(envs, sign * frames.root_rot - quat, 0),
        "velocity": _largest(envs, torch.cat([velocity, turning], dim=2), 0),
    }


def _bodies(frames: ReferenceFrames, ground: torch.Tensor, engine: Engine, envs: torch.Tensor) -> dict[str, Deviation]:
    n, count = frames.dof_pos.shape[:2]
    robot = engine.manifest.robot
    assert robot is not None
    places, height = place_bodies(robot, frames.dof_pos.flatten(0, 1))
    height = height.reshape(n, count)
    chosen = places[:, [robot.body_index(name) for name in engine.key_body_names]].reshape(n, count, -1, 3)
    standing = (frames.root_pos[..., 2] - ground[:, None] - height)[..., None]
    apart = torch.cat([(frames.key_body_pos - chosen).flatten(2), standing], dim=2)
    climb = frames.root_vel[:, 1:, 2] - torch.diff(height, dim=1) * engine.fps
    return {"bodies": _largest(envs, apart, 0), "climb": _largest(envs, climb, 1)}
