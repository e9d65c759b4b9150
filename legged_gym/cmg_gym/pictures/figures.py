"""A robot and its reference beside it, posed to be drawn: on a floor, under a sky, with few triangles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmg_export.demo.scene import FLOOR, Look, furnish
from cmg_gym.robots import RobotCfg

REFERENCE_ASIDE = 1.05
"""The reference walks so far to the left of the robot, times its size."""
SMALLEST = 0.65
"""m, of a robot's size: four legs carry a long trunk low."""
DETAIL = 0.005
"""m; what is finer of a robot's meshes is not drawn."""
HIDDEN_GROUP = 5
"""Of geoms that are for contacts; MuJoCo draws the groups 0 to 2."""

REFERENCE_COLOUR = (0.25, 0.72, 0.42)
COMMAND_COLOUR = (0.10, 0.42, 0.85)
ACHIEVED_COLOUR = (0.95, 0.45, 0.08)
LOOK = Look(
    sky_top=(0.36, 0.60, 0.86),
    sky_horizon=(0.86, 0.92, 0.97),
    floor_dark=(0.56, 0.59, 0.62),
    floor_light=(0.62, 0.65, 0.68),
    tile=1.0,
)


@dataclass(frozen=True)
class Moment:
    """What there is to show of a walk at the end of a control step. Velocities are (vx, vy, yaw rate) in the heading
    frame, m/s, m/s, rad/s; joints are in the order of the policy's.

    Attributes:
        asked: the command as it was given.
        taken: the same, clamped to the generator's range.
        command: the one in force, on a ramp to the one that is taken.
        achieved: of the root, mean of the last half second.
        root: [7] place (m) and quaternion (w, x, y, z) of the robot's root.
        dof_pos, reference_dof_pos: [num_joints] rad.
    """

    asked: tuple[float, ...]
    taken: tuple[float, ...]
    command: tuple[float, ...]
    achieved: tuple[float, ...]
    root: np.ndarray
    dof_pos: np.ndarray
    reference_dof_pos: np.ndarray


class Figures:
    """The model that is drawn, and two states of it.

    Args:
        robot: which robot.
        joint_names: order of joint positions.
        size: (width, height) of the largest picture, pixels.

    Attributes:
        model: of one robot on a floor.
        robot, reference: MuJoCo's data of both, with poses of bodies and geoms.
        stands: height of the root in the standing pose, m.
        size: by which distances go, m: that height, or more for a robot that is longer than high.
    """

    def __init__(self, robot: RobotCfg, joint_names: Sequence[str], size: tuple[int, int] = (640, 480)) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        entity = robot.entity()
        spec: Any = entity.spec_fn()
        furnish(mujoco, spec, size, LOOK)
        self.model: Any = spec.compile()
        floor = self.model.geom(FLOOR).id
        colliding = np.flatnonzero(self.model.geom_contype)
        self.model.geom_group[colliding] = HIDDEN_GROUP
        self._floor, self._colliding = floor, colliding
        coarsen(self.model)
        self.robot: Any = self._mujoco.MjData(self.model)
        self.reference: Any = self._mujoco.MjData(self.model)
        self.stands = float(entity.init_state.pos[2])
        self.size = max(self.stands, SMALLEST)
        self._addresses = np.array([int(self.model.joint(name).qposadr[0]) for name in joint_names])

    def pose(self, moment: Moment) -> None:
        """Put the robot where it is, and the reference beside it in the same heading: upright, its lowest point on the
        floor. The generator makes joint positions only."""
        self.robot.qpos[:7], self.robot.qpos[self._addresses] = moment.root, moment.dof_pos
        self._mujoco.mj_kinematics(self.model, self.robot)
        qpos, heading = self.reference.qpos, heading_of(moment.root[3:])
        x, y = self.aside(moment.root, heading)
        qpos[:7] = x, y, self.stands, math.cos(heading / 2), 0.0, 0.0, math.sin(heading / 2)
        qpos[self._addresses] = moment.reference_dof_pos
        self._mujoco.mj_kinematics(self.model, self.reference)
        qpos[2] -= min(
            self._mujoco.mj_geomDistance(self.model, self.reference, self._floor, geom, 10.0, None)
            for geom in self._colliding
        )
        self._mujoco.mj_kinematics(self.model, self.reference)

    def aside(self, root: np.ndarray, heading: float, share: float = 1.0) -> tuple[float, float]:
        """x, y on the way from the robot to its reference, m."""
        distance = share * REFERENCE_ASIDE * self.size
        return float(root[0]) - distance * math.sin(heading), float(root[1]) + distance * math.cos(heading)


def rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    """A colour in 0 to 255."""
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue


def heading_of(quat: np.ndarray) -> float:
    """Turn about z of a root's quaternion (w, x, y, z), rad."""
    w, x, y, z = (float(value) for value in quat)
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def way_ahead(moment: Moment, velocity: Sequence[float], seconds: float = 1.0, steps: int = 12) -> np.ndarray:
    """[steps + 1, 2] x, y of the arc on which a velocity leads from the robot in so many seconds, m."""
    x, y, heading = float(moment.root[0]), float(moment.root[1]), heading_of(moment.root[3:])
    vx, vy, rate = (seconds / steps * value for value in velocity)
    points = [(x, y)]
    for _ in range(steps):
        x += vx * math.cos(heading) - vy * math.sin(heading)
        y += vx * math.sin(heading) + vy * math.cos(heading)
        heading += rate
        points.append((x, y))
    return np.array(points)


def coarsen(model: Any) -> None:
    """Merge the vertices of each mesh within cells of :data:`DETAIL`, and drop the triangles that vanish by it.

    A G1 has 390 000 triangles, and a CPU needs a second to draw two of it.
    """
    for mesh in range(model.nmesh):
        first, number = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
        rows = slice(first, first + number)
        _, kept, cells = np.unique(np.round(vertices / DETAIL), axis=0, return_index=True, return_inverse=True)
        a, b, c = kept[cells.reshape(-1)[model.mesh_face[rows]]].T
        left = np.flatnonzero((a != b) & (b != c) & (c != a))
        model.mesh_face[first : first + len(left)] = np.stack([a, b, c], axis=1)[left]
        for corners in (model.mesh_facenormal, model.mesh_facetexcoord):
            corners[first : first + len(left)] = corners[rows][left]
        model.mesh_facenum[mesh] = len(left)
