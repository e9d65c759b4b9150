"""Walking G1s whose velocity is known: feet planned in the world, joints by inverse kinematics in MuJoCo."""

# MuJoCo's bindings come without types.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools

import mujoco
import numpy as np

from cmg_export.read.robot import g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES, LEG_JOINTS, default_dof_pos, mirror_map
from CMG_Ref.robot_g1.chain import FEET

FPS = 50
_ANKLE_HEIGHT = -0.68  # below the pelvis, with bent knees


def walk(
    velocity: tuple[float, float, float], seconds: float = 10.0, stride: float = 0.8, lean: float = 0.0
) -> np.ndarray:
    """Joint angles [T, 29] of a walk at a constant velocity (vx, vy, yaw rate).

    Each foot stands still in the world for half a stride, the other is swung 8 cm high meanwhile. The pelvis
    rolls by ``lean`` rad to its right.
    """
    cycle = _cycle(velocity, stride, lean)
    return np.tile(cycle, (int(np.ceil(seconds * FPS / len(cycle))), 1))[: round(seconds * FPS)]


@functools.cache
def _model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(g1_model()))


@functools.cache
def _cycle(velocity: tuple[float, float, float], stride: float, lean: float) -> np.ndarray:
    """One stride [frames, 29]."""
    model, frames = _model(), round(stride * FPS)
    data = mujoco.MjData(model)
    address = [int(model.jnt_qposadr[model.joint(name).id]) for name in JOINT_NAMES]
    data.qpos[:7] = (0, 0, 0, 1, 0, 0, 0)
    data.qpos[address] = default_dof_pos()
    cycle = np.empty((frames, len(JOINT_NAMES)))
    for _ in range(2):  # the second pass starts from the first's solution
        for frame in range(frames):
            phase = frame / frames
            for side, foot in enumerate(FEET):
                position, yaw = _foot_target(velocity, (phase + 0.5 * side) % 1.0, stride, 1 - 2 * side)
                _reach(model, data, foot, *_lean(position, yaw, lean))
            cycle[frame] = data.qpos[address]
    return cycle


def stand(seconds: float = 10.0) -> np.ndarray:
    """The default pose, held: [T, 29]."""
    return np.tile(default_dof_pos(), (round(seconds * FPS), 1))


def mirror(dof_pos: np.ndarray) -> np.ndarray:
    """Joint angles [..., 29] as seen in a mirror."""
    index, sign = mirror_map(JOINT_NAMES)
    return dof_pos[..., index] * np.array(sign)


def clip_arrays(dof_pos: np.ndarray, velocity: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """A clip file's arrays whose root moves at ``velocity``."""
    yaw = velocity[2] * np.arange(len(dof_pos)) / FPS
    step_x = velocity[0] * np.cos(yaw) - velocity[1] * np.sin(yaw)
    step_y = velocity[0] * np.sin(yaw) + velocity[1] * np.cos(yaw)
    root = np.stack([np.cumsum(step_x) / FPS, np.cumsum(step_y) / FPS, np.full(len(yaw), 0.74)], axis=1)
    quat = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    return {
        "fps": np.array([FPS]), "dof_names": np.array(JOINT_NAMES), "dof_positions": dof_pos,
        "body_positions": root[:, None], "body_rotations": quat[:, None],
    }  # fmt: skip


@functools.cache
def whole_clip(seed: int, frames: int = 160) -> dict[str, np.ndarray]:
    """A clip file with everything that the public sets have: a walk along a curve, its arms swinging.

    Bodies' poses are MuJoCo's; velocities are differences. Made once, for all who change copies of it.
    """
    rng = np.random.default_rng([seed, 18])
    turn_rate = rng.uniform(0.48, 0.6)  # a wider curve says too little of which way one hip turns
    velocity = (rng.uniform(0.4, 0.7), rng.uniform(0.08, 0.15), rng.choice([-1, 1]) * turn_rate)
    dof_pos, t = walk(velocity, frames / FPS), np.arange(frames)[:, None] / FPS
    arms = np.array([0.0, 0.1, 0.15, 0.3, 0.1, 0.1, 0.1, 0.0, -0.1, -0.15, 0.3, -0.1, 0.1, -0.1])  # left, right
    swing = rng.uniform(0.1, 0.2, 17) * np.sin(2 * np.pi * rng.uniform(0.9, 1.4, 17) * t + rng.uniform(0, 6, 17))
    dof_pos[:, 12:] += swing + np.concatenate([[0.1, 0.05, 0.05], arms])
    arrays = clip_arrays(dof_pos, velocity)
    root_pos, root_quat = arrays["body_positions"][:, 0], arrays["body_rotations"][:, 0]
    model, data = _model(), mujoco.MjData(_model())
    address = [int(model.jnt_qposadr[model.joint(name).id]) for name in JOINT_NAMES]
    bodies, body_pos, body_quat = range(1, model.nbody), [], []
    for frame in range(frames):
        data.qpos[:3], data.qpos[3:7], data.qpos[address] = root_pos[frame], root_quat[frame], dof_pos[frame]
        mujoco.mj_kinematics(model, data)
        body_pos.append(data.xpos[1:].copy())
        body_quat.append(data.xquat[1:].copy())
    turn = np.zeros((frames, len(bodies), 3))
    turn[:, 0, 2] = velocity[2]  # of the root; no check reads the others
    return {
        **arrays,
        "body_names": np.array([model.body(body).name for body in bodies]),
        "dof_velocities": np.gradient(dof_pos, axis=0) * FPS,
        "body_positions": np.stack(body_pos),
        "body_rotations": np.stack(body_quat),
        "body_linear_velocities": np.gradient(np.stack(body_pos), axis=0) * FPS,
        "body_angular_velocities": turn,
    }


def _foot_target(
    velocity: tuple[float, float, float], phase: float, stride: float, side: int
) -> tuple[np.ndarray, float]:
    """Where the ankle is in the pelvis's frame, and its yaw: standing for phase < 0.5, swinging after."""
    nominal = np.array([0.0, 0.12 * side])
    if phase < 0.5:
        time, lift = (phase - 0.25) * stride, 0.0
    else:  # back along the same path, smoothly, and up
        along = (phase - 0.5) * 2
        time, lift = (0.25 - 0.5 * along) * stride, 0.08 * np.sin(np.pi * along)
    yaw = velocity[2] * time
    travelled = _integrate(velocity, time)
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = nominal - travelled
    return np.array([cos * x + sin * y, -sin * x + cos * y, _ANKLE_HEIGHT + lift]), -yaw


def _integrate(velocity: tuple[float, float, float], time: float) -> np.ndarray:
    """Where the pelvis is after ``time`` at a constant velocity in its own frame, in the frame of time 0."""
    yaw = velocity[2] * time * (np.arange(200) + 0.5) / 200
    vx, vy = velocity[0], velocity[1]
    return np.array([vx * np.cos(yaw) - vy * np.sin(yaw), vx * np.sin(yaw) + vy * np.cos(yaw)]).mean(1) * time


def _lean(position: np.ndarray, yaw: float, lean: float) -> tuple[np.ndarray, np.ndarray]:
    """A level foot's position and quaternion in the frame of a pelvis that leans."""
    upright = np.array([np.cos(lean / 2), -np.sin(lean / 2), 0, 0])
    turned, leaned, quat = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]), np.zeros(3), np.zeros(4)
    mujoco.mju_rotVecQuat(leaned, position, upright)
    mujoco.mju_mulQuat(quat, upright, turned)
    return leaned, quat


def _reach(model: mujoco.MjModel, data: mujoco.MjData, foot: str, target: np.ndarray, wanted: np.ndarray) -> None:
    """Bend one leg until its ankle is at ``target`` with the orientation ``wanted``. Raises if it cannot."""
    body = model.body(foot).id
    columns = [model.joint(n).id for n in JOINT_NAMES[LEG_JOINTS] if n.startswith(foot.split("_")[0])]
    dofs, address = model.jnt_dofadr[columns], model.jnt_qposadr[columns]
    jacobian, error = np.zeros((6, model.nv)), np.zeros(6)
    for _ in range(60):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        error[:3] = target - data.xpos[body]
        conjugate, difference = np.zeros(4), np.zeros(4)
        mujoco.mju_negQuat(conjugate, data.xquat[body])
        mujoco.mju_mulQuat(difference, wanted, conjugate)
        mujoco.mju_quat2Vel(error[3:], difference, 1.0)
        if np.abs(error).max() < 1e-5:
            return
        mujoco.mj_jacBody(model, data, jacobian[:3], jacobian[3:], body)
        j = jacobian[:, dofs]
        data.qpos[address] += j.T @ np.linalg.solve(j @ j.T + 1e-6 * np.eye(6), error)
    raise AssertionError(f"{foot} cannot reach {target}: off by {np.abs(error).max():.1e}")
