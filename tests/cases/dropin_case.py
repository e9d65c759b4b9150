"""A small G1 engine folder for the tests of the drop-in parts, and plain float64 trajectories of it.

Nothing here is shared with the runtime: bodies are turned one after the other, the root goes one frame at a time.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.folder.manifest import Manifest, read_manifest
from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.motion_lib import MotionLibCMG
from engine_folder import CAN_EXPORT, SEED, Truth, made_before, make_engine_folder

if CAN_EXPORT:
    from cmg_export.read.robot import RobotModel, g1_model

NO_WRISTS = tuple(name for name in JOINT_NAMES if "wrist" not in name)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MODES = ("pregenerated", "realtime")

_kept = []


class Case(NamedTuple):
    """An engine folder, its network in float64, and its manifest."""

    folder: Path
    truth: Truth
    manifest: Manifest

    @property
    def chain(self) -> KinematicChain:
        assert self.manifest.robot is not None
        return self.manifest.robot


@functools.lru_cache(maxsize=None)
def g1_case(num_joints: int = 29) -> Case:
    """A small random network on a Unitree G1 with 29 joints, or with 23; made once for the whole run."""
    if not CAN_EXPORT:
        folder, truth = made_before(f"g1_{num_joints}")
        return Case(folder, truth, read_manifest(folder))
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    names = JOINT_NAMES if num_joints == 29 else NO_WRISTS
    model = g1_model()
    assert model is not None, "mjlab is not installed"
    sizes: dict[str, Any] = {"num_joints": num_joints, "hidden_dim": 40, "num_experts": 3}
    truth = make_engine_folder(folder, SEED, ("fp32",), RobotModel(model).chain(names), names, **sizes)
    return Case(folder, truth, read_manifest(folder))


class Trajectory(NamedTuple):
    """float64 arrays, [T, N, ...]: what MotionLibCMG.calc_motion_frame gives, in its order, and the yaw."""

    root_pos: np.ndarray
    root_rot: np.ndarray
    root_vel: np.ndarray
    root_ang_vel: np.ndarray
    dof_pos: np.ndarray
    dof_vel: np.ndarray
    body_pos: np.ndarray
    yaw: np.ndarray


def plain_trajectory(case: Case, bodies: tuple[str, ...], motion: torch.Tensor, commands: np.ndarray) -> Trajectory:
    """Frames from ``motion`` [N, D] on, under ``commands`` [T, N, 3]; the first one is in force at frame 0 already and
    leads nowhere, so there are T frames. Roots begin at the origin, heading along x."""
    joints, dt = case.manifest.sizes.num_joints, 1 / case.manifest.fps
    states, poses = [motion.double()], [np.zeros((len(motion), 3))]
    for command in commands[1:]:
        states.append(case.truth.step(states[-1], torch.tensor(command)))
        poses.append(walked(poses[-1], command, dt))
    motions = torch.stack(states).numpy()
    dof_pos, dof_vel = motions[..., :joints], motions[..., joints:]
    positions, lowest = plain_bodies(case.chain, dof_pos.reshape(-1, joints), bodies)
    height = -lowest.reshape(dof_pos.shape[:2])
    climb = np.diff(height, axis=0, prepend=height[:1]) / dt
    x, y, yaw = np.moveaxis(np.stack(poses), -1, 0)
    vx, vy, rate = np.moveaxis(np.asarray(commands), -1, 0)
    zero, c, s = np.zeros_like(yaw), np.cos(yaw), np.sin(yaw)
    velocity, turning = np.stack([vx * c - vy * s, vx * s + vy * c, climb], -1), np.stack([zero, zero, rate], -1)
    bodies_pos = positions.reshape(dof_pos.shape[:2] + positions.shape[1:])
    root_pos = np.stack([x, y, height], -1)
    return Trajectory(root_pos, yaw_quat(yaw), velocity, turning, dof_pos, dof_vel, bodies_pos, yaw)


def yaw_quat(yaw: np.ndarray) -> np.ndarray:
    """[..., 4], (x, y, z, w)."""
    return np.stack([0 * yaw, 0 * yaw, np.sin(yaw / 2), np.cos(yaw / 2)], -1)


def library_truth(case: Case, lib: MotionLibCMG, frames: int, bodies: tuple[str, ...] = ()) -> Trajectory:
    """Of all the motions of a library, from their first frames under their own commands, which stay as they are; of its
    bodies, or of those that are named."""
    ids = torch.arange(lib.num_motions(), device=lib.device)
    start = lib.calc_motion_frame(ids, torch.zeros(len(ids), device=lib.device))
    commands = lib.get_motion_command(ids).double().cpu().numpy()
    motion = torch.cat([start[4], start[5]], dim=1).cpu()
    return plain_trajectory(
        case, bodies or lib.body_names, motion, np.broadcast_to(commands, (frames, *commands.shape))
    )


def walked(pose: np.ndarray, command: np.ndarray, dt: float) -> np.ndarray:
    """Where roots at ``pose`` [N, 3], (x, y, yaw), are after ``dt`` under ``command`` [N, 3]: an arc, walked in short
    straight pieces."""
    (x, y, yaw), (vx, vy, rate) = pose.T, command.T
    pieces = 8
    for k in range(pieces):
        heading = yaw + rate * dt * (k + 0.5) / pieces
        x = x + (vx * np.cos(heading) - vy * np.sin(heading)) * dt / pieces
        y = y + (vx * np.sin(heading) + vy * np.cos(heading)) * dt / pieces
    return np.stack([x, y, yaw + rate * dt], 1)


def plain_bodies(chain: KinematicChain, dof_pos: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, B, 3] of the named bodies in the root's frame, and the height [N] of the lowest sole point."""
    n = len(dof_pos)
    positions, rotations = [np.zeros((n, 3))], [np.broadcast_to(np.eye(3), (n, 3, 3))]
    for body in range(1, len(chain.body_names)):
        parent, joint = chain.body_parents[body], chain.body_joints[body]
        assert not any(chain.joint_anchors[body])  # a G1's hinges go through its bodies' origins
        positions.append(positions[parent] + rotations[parent] @ np.array(chain.body_pos[body]))
        half = dof_pos[:, joint, None] / 2 if joint >= 0 else np.zeros((n, 1))
        hinge = np.concatenate([np.cos(half), np.sin(half) * np.array(chain.joint_axes[body])], 1)
        rotations.append(rotations[parent] @ quat_matrix(np.array(chain.body_quat[body])) @ quat_matrix(hinge))
    soles = [
        (positions[body] + rotations[body] @ np.array(point))[:, 2] - radius
        for body, point, radius in zip(chain.sole_bodies, chain.sole_points, chain.sole_radii)
    ]
    return np.stack([positions[chain.body_names.index(name)] for name in names], 1), np.min(soles, axis=0)


def quat_matrix(quat: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] of unit quaternions [..., 4], (w, x, y, z)."""
    w, (x, y, z) = quat[..., 0, None, None], (quat[..., k] for k in (1, 2, 3))
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(quat.shape[:-1] + (3, 3))
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def at_times(trajectory: Trajectory, motion_ids: np.ndarray, times: np.ndarray, fps: float) -> list[np.ndarray]:
    """The seven tensors at ``times`` [N] s of motions ``motion_ids`` [N]: between frames linearly, the root turning at
    constant speed; past the end the trajectory goes on from where it ended."""
    last = len(trajectory.yaw) - 1
    position = np.maximum(times.astype(np.float64) * fps, 0)
    position = np.where(np.abs(position - np.round(position)) < 1e-3, np.round(position), position)
    loops = np.maximum(np.ceil(position / last) - 1, 0).astype(int)
    local = position - loops * last
    one, other = np.floor(local).astype(int), np.ceil(local).astype(int)
    weight = local - one

    def blend(field: np.ndarray) -> np.ndarray:
        w = weight.reshape((-1,) + (1,) * (field.ndim - 2))
        return (1 - w) * field[one, motion_ids] + w * field[other, motion_ids]

    root_pos, _, root_vel, *others, yaw = (blend(field) for field in trajectory)
    for index, motion in enumerate(motion_ids):
        end, turn = trajectory.root_pos[last, motion], trajectory.yaw[last, motion]
        c, s = math.cos(turn), math.sin(turn)
        for _ in range(loops[index]):
            root_pos[index, :2] = end[:2] + [[c, -s], [s, c]] @ root_pos[index, :2]
            root_vel[index, :2] = [[c, -s], [s, c]] @ root_vel[index, :2]
            yaw[index] += turn
    return [root_pos, yaw_quat(yaw), root_vel, *others]


NAMES = ("root_pos", "root_rot", "root_vel", "root_ang_vel", "dof_pos", "dof_vel", "local_body_pos")


def assert_frames(out: tuple[torch.Tensor, ...], expected: list[np.ndarray], tolerance: float = 2e-4) -> None:
    """Shapes, types, and values of the seven tensors; root_vel's z is a difference of heights times 50."""
    assert len(out) == len(NAMES)
    for name, tensor, truth in zip(NAMES, out, expected):
        assert tensor.dtype == torch.float32 and tensor.device.type == "cpu", name
        assert tuple(tensor.shape) == truth.shape, name
        values = tensor.double().numpy()
        if name == "root_rot":  # q and -q are the same orientation
            values = np.where((values * truth).sum(1, keepdims=True) < 0, -values, values)
        allowed = tolerance * (50 if name in ("root_vel", "dof_vel") else 1)
        error = float(np.abs(values - truth).max(initial=0.0))
        assert error < allowed, (name, error)
