"""A robot in plain MuJoCo under its deployed control loop, step by step: what `play` draws and `drive` shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmg_gym.controller import Controller
from cmg_gym.pictures.figures import Moment
from cmg_gym.simulated_robot import SimulatedRobot
from cmg_runtime import EngineError

MEAN_OF_S = 0.5
"""Achieved velocities are means over so long: within a step a root's velocity swings."""


class Walk:
    """Control loop and robot, from standing.

    Args:
        policy: an exported policy's folder.
        engine: the engine folder.

    Attributes:
        controller, robot: the two.
        dt: s of a control step.
        command_range: (min, max) of commands.
    """

    def __init__(self, policy: str | Path, engine: str | Path) -> None:
        self.controller = Controller(policy, engine)
        self.robot = SimulatedRobot(self.controller.card)
        self.dt = 1.0 / self.controller.card.fps
        self.command_range = self.controller.command_range
        self._velocities: deque[tuple[float, ...]] = deque(maxlen=round(MEAN_OF_S / self.dt))

    def reset(self) -> None:
        """Stand, at the origin."""
        self.controller.reset()
        self.robot.reset()
        self._velocities.clear()

    def step(self, command: Sequence[float]) -> Moment:
        """One control step under a command (vx, vy, yaw rate)."""
        target = self.controller.step(command, self.robot.proprioception())
        self.robot.step(target, self.controller.kp)  # which is 0 where the controller only damps
        self._velocities.append(self.robot.heading_velocity)
        return Moment(
            asked=tuple(command),
            taken=clamped(command, self.command_range),
            command=tuple(self.controller.command_in_force.tolist()),
            achieved=tuple(np.mean(self._velocities, axis=0).tolist()),
            root=self.robot.data.qpos[:7].copy(),
            dof_pos=self.robot.proprioception().dof_pos,
            reference_dof_pos=self.controller.reference(1)[0].copy(),
        )


def exported_policy(path: Path) -> Path:
    """The folder of an exported policy: ``path``, or what a training has left in its run's folder.

    Raises:
        EngineError: there is none.
    """
    for folder in (path, path / "policy"):
        if (folder / "policy.onnx").is_file():
            return folder
    raise EngineError(
        f"{path} has no exported policy, which the control loop needs; write one by "
        f"`python -m cmg_gym.export_checkpoint --policy {path}`, or look at the checkpoint by "
        "`python -m cmg_gym.play --warp`"
    )


def clamped(command: Sequence[float], command_range: tuple[Sequence[float], Sequence[float]]) -> tuple[float, ...]:
    """A command as the generator takes it. What is no number stays none, and the controller stands."""
    low, high = command_range
    return tuple(max(min(value, b), a) for value, a, b in zip(command, low, high, strict=True))
