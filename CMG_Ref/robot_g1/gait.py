"""What joint angles alone tell of a gait: velocity over ground, leg speed, step frequency. Batched torch."""

from __future__ import annotations

import torch

from CMG_Ref.robot_g1 import KNEES, LEG_JOINTS
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from cmg_runtime.window.kinematics import ForwardKinematics

# Which foot stands is read from both the height of the sole and the knee. Height alone, with the pelvis taken
# as upright, fails: a pelvis lean of 0.1 rad shifts the feet by as much as a swing foot is lifted. The knee of
# the swing leg is bent whatever the lean. Weights chosen on clips for the least scatter over 2 s
# (evaluation/calibration.py).
_HEIGHT_WEIGHT = 0.3
_KNEE_WEIGHT = 0.07  # m per rad
_FOOT_TEMPERATURE = 0.003  # m of score; below this difference both feet count
_POINT_TEMPERATURE = 0.01  # m of height; the sole rolls, and its lowest points are what stands
_CLEAR_DIFFERENCE = 0.03  # m of score; frames with a smaller difference count less


class StanceVelocity:
    """Velocity of the pelvis over ground from the motion of the foot that stands.

    The pelvis is taken as upright, since joint angles do not tell its lean. The standing foot is taken as
    still: ``v = -dp/dt - omega x p`` and ``omega = -d(foot yaw)/dt``, ``p`` its lowest points in the pelvis's
    frame. Only differentiable operations, so that it may be part of a loss. The result reads low by a
    factor that :mod:`CMG_Ref.evaluation.calibration` measures.

    Args:
        device, dtype: of the joint angles that will come.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.chain = g1_chain(FEET)
        self._kinematics = ForwardKinematics(self.chain, device, dtype)
        self._sole_bodies = torch.tensor(self.chain.sole_bodies, device=device)
        self._sole_points = torch.tensor(self.chain.sole_points, device=device, dtype=dtype)
        self._feet = torch.tensor([self.chain.body_index(name) for name in FEET], device=device)
        self._knees = torch.tensor(KNEES, device=device)

    def __call__(self, dof_pos: torch.Tensor, fps: float = 50.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocity between consecutive frames.

        Args:
            dof_pos: [T, ..., 29], rad, time first.
            fps: frames a second.

        Returns:
            Velocity [T - 1, ..., 3] in the pelvis's heading frame (vx, vy in m/s, yaw rate in rad/s), and how far
            each is to be trusted [T - 1, ...], 0 to 1: little while both feet stand.
        """
        body_pos, body_rot = self._kinematics(dof_pos)
        offsets = (body_rot[..., self._sole_bodies, :, :] @ self._sole_points.unsqueeze(-1)).squeeze(-1)
        points = body_pos[..., self._sole_bodies, :] + offsets
        points = points.unflatten(-2, (2, -1))  # [T, ..., foot, point, xyz]
        height = _midway(points[..., 2])
        score = _HEIGHT_WEIGHT * height.amin(-1) + _KNEE_WEIGHT * _midway(dof_pos[..., self._knees])
        foot_weight = torch.softmax(-score / _FOOT_TEMPERATURE, dim=-1)
        weight = foot_weight.unsqueeze(-1) * torch.softmax(-height / _POINT_TEMPERATURE, dim=-1)

        foot_rot = body_rot[..., self._feet, :, :]
        foot_yaw = torch.atan2(foot_rot[..., 1, 0], foot_rot[..., 0, 0])
        turned = foot_yaw[1:] - foot_yaw[:-1]
        turned = torch.atan2(torch.sin(turned), torch.cos(turned))  # across +-pi
        yaw_rate = -(foot_weight * turned).sum(-1) * fps

        moved = (points[1:] - points[:-1])[..., :2] * fps
        middle = _midway(points)
        spin = yaw_rate[..., None, None]
        vx = -(weight * (moved[..., 0] - spin * middle[..., 1])).sum((-2, -1))
        vy = -(weight * (moved[..., 1] + spin * middle[..., 0])).sum((-2, -1))
        difference = (score[..., 0] - score[..., 1]).abs()
        return torch.stack([vx, vy, yaw_rate], dim=-1), difference / (difference + _CLEAR_DIFFERENCE)

    def mean(self, dof_pos: torch.Tensor, fps: float = 50.0) -> torch.Tensor:
        """Trust-weighted mean velocity over time: [T, ..., 29] -> [..., 3], not calibrated."""
        velocity, trust = self(dof_pos, fps)
        trust = trust.unsqueeze(-1) + 1e-4  # feet that never differ, as in standing, count alike
        return (velocity * trust).sum(0) / trust.sum(0)


def leg_speed(dof_pos: torch.Tensor, fps: float = 50.0, window: float = 1.0) -> torch.Tensor:
    """Root mean square speed of the 12 leg joints over each window of ``window`` seconds.

    Args:
        dof_pos: [T, ..., 29], rad, time first.

    Returns:
        [T - round(window * fps), ...], rad/s, one value per start of a window.
    """
    squared = (torch.diff(dof_pos[..., LEG_JOINTS], dim=0) * fps).square().mean(-1)
    return squared.unfold(0, round(window * fps), 1).mean(-1).sqrt()


def step_frequency(dof_pos: torch.Tensor, fps: float = 50.0) -> torch.Tensor:
    """Strides a second: dominant frequency of left minus right hip pitch, [T, ..., 29] -> [...], Hz.

    The spectrum is windowed and padded to a resolution below 0.02 Hz. A motionless robot reads 0.
    """
    swing = dof_pos[..., 0] - dof_pos[..., 6]
    swing = swing - swing.mean(0, keepdim=True)
    taper = torch.hann_window(len(swing), device=swing.device, dtype=swing.dtype)
    size = 1 << (int(fps / 0.02) - 1).bit_length()
    power = torch.fft.rfft(swing * taper.view(-1, *[1] * (swing.dim() - 1)), n=size, dim=0).abs()
    frequency = power[1:].argmax(0).add(1) * (fps / size)
    return torch.where(swing.std(0) > 1e-3, frequency, torch.zeros_like(frequency))


def _midway(values: torch.Tensor) -> torch.Tensor:
    """Mean of each frame and the next along time."""
    return (values[1:] + values[:-1]) / 2
