"""Pictures of a walk, drawn without a display by MuJoCo, with the velocities written on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cmg_export.demo.scene import Colour, add_rod, open_renderer
from cmg_gym.drawing import require_renderer
from cmg_gym.pictures.figures import (
    ACHIEVED_COLOUR,
    COMMAND_COLOUR,
    REFERENCE_COLOUR,
    Figures,
    Moment,
    heading_of,
    rgb,
    way_ahead,
)  # fmt: skip
from cmg_gym.robots import RobotCfg

SIZE = (640, 440)
OVERSAMPLING = 1.5
"""Pictures are drawn this much larger and reduced: OSMesa smooths edges slowly."""

AZIMUTH, ELEVATION = 122.0, -10.0
"""Degrees, from the robot's heading: it is seen from the front and its right."""
DISTANCE = 2.9
"""From the camera to where it looks, times its size."""
ARROW_S = 0.8
"""An arrow is as long as the way in this time."""
SHORTEST_ARROW = 0.1
"""m; standing has none."""
CAMERA_LAG_S = 0.6
"""In which the camera follows the robot's heading: a gait sways."""

STRIP = 116
"""Height of what is written below a picture, pixels."""
INK, PAPER = (28, 38, 50), (250, 250, 250)
GREEN = "green: the reference, the generator's joint angles, drawn upright"
NAMES = (("forward", "m/s", 1.2), ("left", "m/s", 0.6), ("turn", "rad/s", 1.0))
"""Of a velocity's parts: name, unit, and what fills half a bar."""


class Stage:
    """A scene that is drawn again and again; a context manager.

    Args:
        robot: which robot.
        joint_names: order of a moment's joint positions.

    Raises:
        EngineError, ExportError: MuJoCo cannot draw here.
    """

    def __init__(self, robot: RobotCfg, joint_names: Sequence[str]) -> None:
        require_renderer()
        import mujoco

        self._mujoco: Any = mujoco
        size = round(OVERSAMPLING * SIZE[0]), round(OVERSAMPLING * SIZE[1])
        self._figures = Figures(robot, joint_names, size)
        self._model = self._figures.model
        self._looks = self._model.geom_rgba.copy(), self._model.geom_matid.copy()
        self._renderer: Any = open_renderer(mujoco, self._model, size)
        self._option: Any = self._mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._camera: Any = self._mujoco.MjvCamera()
        self._camera_heading: float | None = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()

    def draw(self, moment: Moment, seconds: float) -> Image.Image:
        """A picture of one moment, ``seconds`` after the one before: robot, reference, and both velocities."""
        figures = self._figures
        figures.pose(moment)
        self._aim(moment, seconds)
        self._mujoco.mj_comPos(self._model, figures.robot)
        self._mujoco.mj_camlight(self._model, figures.robot)
        self._renderer.update_scene(figures.robot, self._camera, self._option)
        self._add_reference()
        self._add_arrow(way_ahead(moment, moment.command, ARROW_S), COMMAND_COLOUR, aside=-0.035)
        self._add_arrow(way_ahead(moment, moment.achieved, ARROW_S), ACHIEVED_COLOUR, aside=0.035)
        picture = Image.fromarray(self._renderer.render()).resize(SIZE, Image.Resampling.LANCZOS)
        return annotated(picture, moment)

    def _aim(self, moment: Moment, seconds: float) -> None:
        heading = heading_of(moment.root[3:])
        if self._camera_heading is None:
            self._camera_heading = heading
        turned = (heading - self._camera_heading + math.pi) % (2 * math.pi) - math.pi
        self._camera_heading += turned * min(seconds / CAMERA_LAG_S, 1.0)
        x, y = self._figures.aside(moment.root, self._camera_heading, share=0.42)
        self._camera.lookat[:] = x, y, 0.70 * self._figures.stands
        self._camera.azimuth = math.degrees(self._camera_heading) + AZIMUTH
        self._camera.elevation, self._camera.distance = ELEVATION, DISTANCE * self._figures.size

    def _add_reference(self) -> None:
        mujoco, model = self._mujoco, self._model
        model.geom_rgba[:], model.geom_matid[:] = (*REFERENCE_COLOUR, 1.0), -1
        mujoco.mjv_addGeoms(
            model, self._figures.reference, self._option, mujoco.MjvPerturb(), int(mujoco.mjtCatBit.mjCAT_DYNAMIC),
            self._renderer.scene,
        )  # fmt: skip
        model.geom_rgba[:], model.geom_matid[:] = self._looks

    def _add_arrow(self, way: np.ndarray, colour: Colour, aside: float) -> None:
        """A line on the floor with a point at its end, so many m to the left of a way."""
        mujoco, scene = self._mujoco, self._renderer.scene
        length = float(np.linalg.norm(way[-1] - way[0]))
        if length < SHORTEST_ARROW:
            return
        along = np.gradient(way, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        left = np.column_stack([-along[:, 1], along[:, 0]])
        points = np.column_stack([way + aside * left, np.full(len(way), 0.02)])
        tip = points[-1] + 0.14 * np.array([*along[-1], 0.0])
        ends = [*points[1:], tip]
        for start, end in zip(points, ends, strict=True):
            last = end is tip
            add_rod(mujoco, scene, (start, end), 0.022 if last else 0.014, colour, glow=0.6, arrow=last)


def annotated(picture: Image.Image, moment: Moment) -> Image.Image:
    """The picture above a strip: what is asked, both velocities as bars, and what the green figure is."""
    width, height = picture.size
    page = Image.new("RGB", (width, height + STRIP), PAPER)
    page.paste(picture)
    write = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(19), ImageFont.load_default(14)
    write.text((14, height + 8), caption(moment.taken, moment.asked), INK, large)
    write.text((14, height + 50), "command in force", rgb(COMMAND_COLOUR), small)
    write.text((14, height + 68), "achieved", rgb(ACHIEVED_COLOUR), small)
    write.text((14, height + 92), GREEN, INK, small)
    for column, (name, unit, full) in enumerate(NAMES):
        x, middle, half = 262 + 126 * column, 262 + 40 + 126 * column, 34
        write.text((x, height + 30), f"{name}, {unit}", INK, small)
        for values, colour, y in (
            (moment.command, COMMAND_COLOUR, height + 54),
            (moment.achieved, ACHIEVED_COLOUR, height + 72),
        ):
            length = round(half * max(-1.0, min(1.0, values[column] / full)))
            write.rectangle((middle + min(length, 0), y, middle + max(length, 0), y + 10), rgb(colour))
            write.text((x + 78, y - 4), f"{values[column] + 0.0:+.2f}".replace("-0.00", "+0.00"), rgb(colour), small)
        write.line((middle, height + 50, middle, height + 86), INK)
    return page


def caption(taken: Sequence[float], asked: Sequence[float]) -> str:
    """The command that a generator takes in words, and the one that was asked for where it is another."""
    differs = any(abs(a - b) > 1e-6 for a, b in zip(taken, asked, strict=True))
    return f"{in_words(taken)} (asked: {in_words(asked)})" if differs else in_words(taken)


def in_words(command: Sequence[float]) -> str:
    """A command in words."""
    vx, vy, yaw = command
    parts = [f"{vx:.1f} m/s"] if vx or vy else []
    parts += [f"{vy:+.1f} m/s to the left"] if vy else []
    parts += [f"turn {yaw:+.1f} rad/s"] if yaw else []
    return ", ".join(parts) or "stand"
