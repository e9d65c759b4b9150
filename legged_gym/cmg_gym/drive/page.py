"""The page, by viser: the scene, what can be asked of the robot, and what it does."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from cmg_gym.drive.real_time import HISTORY_S, Driver
from cmg_gym.pictures.figures import (
    ACHIEVED_COLOUR,
    COMMAND_COLOUR,
    LOOK,
    REFERENCE_COLOUR,
    Figures,
    Moment,
    rgb,
)  # fmt: skip
from cmg_gym.robots import RobotCfg
from cmg_runtime import EngineError

SCENE_EVERY, NUMBERS_EVERY = 2, 10
"""Control steps between two updates of the scene, and of numbers and plots."""
KEY_STEP = 0.1
"""m/s or rad/s of one press."""
PARTS = (("forward", "m/s", "I", "K"), ("left", "m/s", "U", "O"), ("turn left", "rad/s", "J", "L"))
"""Of a command: name, unit, and the keys for more and for less. The letters W, A, S, D move the camera."""
KEYS = (
    "**I K** faster, slower &nbsp; **J L** turn left, right &nbsp; **U O** step left, right &nbsp; **X** stop &nbsp; "
    "**P** push &nbsp; **G** reference &nbsp; **R** start anew. The mouse turns the view. "
    "Green: the reference, the generator's joint angles, drawn upright."
)


class Page:
    """What is on the page, for :meth:`Driver.run` to show.

    Args:
        driver: whose walk it shows and steers.
        robot: which robot that is.
        server: viser's.
    """

    def __init__(self, driver: Driver, robot: RobotCfg, server: Any) -> None:
        from mjviser import ViserMujocoScene

        self._driver, self._server = driver, server
        self.url = f"http://{server.get_host()}:{server.get_port()}"
        server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        server.gui.set_panel_label("CMG drive")
        server.scene.set_background_image(_sky())
        server.initial_camera.position = (1.35, -1.75, 0.30)
        server.initial_camera.look_at = (0.30, 0.30, -0.12)
        self._figures = Figures(robot, driver.walk.controller.card.joint_names)
        self._scene: Any = ViserMujocoScene(server, self._figures.model, num_envs=1)
        self._reference = _add_reference(server, self._figures)
        self._add_controls()
        self._add_numbers()

    def close(self) -> None:
        """Shut the page."""
        self._server.stop()

    def show(self, moment: Moment) -> None:
        """Show a control step."""
        steps = self._driver.steps
        if steps % SCENE_EVERY == 0:
            self._show_scene(moment)
        if steps % NUMBERS_EVERY == 0:
            self._show_numbers(moment)

    def _show_scene(self, moment: Moment) -> None:
        figures = self._figures
        figures.pose(moment)
        with self._server.atomic():
            self._scene.update_from_mjdata(figures.robot)
            if not self._ghost.value:
                return
            # The scene is drawn around the robot's root, and so is the reference.
            for body, handle in self._reference.items():
                handle.position = figures.reference.xpos[body] - moment.root[:3]
                handle.wxyz = figures.reference.xquat[body]

    def _show_numbers(self, moment: Moment) -> None:
        driver, load = self._driver, self._driver.load()
        rows = (
            ("asked", driver.command),
            ("command in force", moment.command),
            ("achieved", moment.achieved),
        )
        table = "".join(
            f"\n| {name} | " + " | ".join(f"{v + 0.0:+.2f}" for v in values) + " |" for name, values in rows
        )
        self._velocities.content = "| | forward | left | turn |\n| --- | --- | --- | --- |" + table
        self._load.content = (
            f"{load.rate:.1f} control steps a second; late: {driver.late} of {driver.steps}; falls: {driver.falls}\n\n"
            f"generator {load.generator_ms:.2f} ms, policy {load.policy_ms:.2f} ms, whole step with physics and page "
            f"{load.step_ms:.1f} ms (at most {load.worst_ms:.1f})"
        )
        times, commands, achieved = (np.array(column) for column in zip(*driver.history, strict=True))
        for part, plot in enumerate(self._plots):
            plot.data = (times, commands[:, part], achieved[:, part])

    def _add_controls(self) -> None:
        gui, driver = self._server.gui, self._driver
        gui.add_markdown(KEYS)
        self._sliders = []
        begin = driver.ask((0.0, 0.0, 0.0))  # where the generator can stand
        for part, (name, unit, more, less) in enumerate(PARTS):
            low, high = (limits[part] for limits in driver.walk.command_range)
            slider = gui.add_slider(f"{name}, {unit}", min=low, max=high, step=0.05, initial_value=begin[part])
            slider.on_update(lambda _: driver.later(self._ask_what_the_sliders_say))
            self._sliders.append(slider)
            self._on_key(f"{name}: more", more, lambda part=part: self._change(part, KEY_STEP))
            self._on_key(f"{name}: less", less, lambda part=part: self._change(part, -KEY_STEP))
        buttons = gui.add_button_group("robot", ("stop", "push", "start anew"))
        actions = {"stop": self._stop, "push": driver.push, "start anew": driver.start_anew}
        buttons.on_click(lambda _: driver.later(actions[buttons.value]))
        self._ghost = gui.add_checkbox("green reference", initial_value=True)
        self._ghost.on_update(lambda _: driver.later(self._show_reference))
        self._on_key("stop", "X", self._stop)
        self._on_key("push", "P", driver.push)
        self._on_key("start anew", "R", driver.start_anew)
        self._on_key("reference on and off", "G", self._turn_reference)

    def _add_numbers(self) -> None:
        from viser import uplot

        gui = self._server.gui
        self._velocities = gui.add_markdown("")
        self._load = gui.add_markdown("")
        self._plots = []
        colours = ("", _css(COMMAND_COLOUR), _css(ACHIEVED_COLOUR))
        labels = ("s", "command", "achieved")
        series = tuple(
            uplot.Series(label=label, stroke=colour, width=2) for label, colour in zip(labels, colours, strict=True)
        )
        nothing = np.array([0.0, HISTORY_S])
        for part, (name, unit, _, _) in enumerate(PARTS):
            low, high = (limits[part] for limits in self._driver.walk.command_range)
            reach = 1.2 * min(low, 0.0) - 0.1, 1.2 * max(high, 0.0) + 0.1
            scales = {"x": uplot.Scale(time=False), "y": uplot.Scale(range=reach)}
            data = (nothing, 0 * nothing, 0 * nothing)
            self._plots.append(gui.add_uplot(data, series, title=f"{name}, {unit}", scales=scales, height=150))

    def _on_key(self, name: str, key: Any, action: Callable[[], object]) -> None:
        # Callbacks come in threads of viser's, several at once; whatever they ask for is done in the loop's own.
        self._server.gui.add_command(name, hotkey=key).on_trigger(lambda _: self._driver.later(action))

    def _change(self, part: int, by: float) -> None:
        command = list(self._driver.command)
        command[part] = round(command[part] + by, 3)
        self._ask(command)

    def _stop(self) -> None:
        self._ask([0.0, 0.0, 0.0])

    def _ask_what_the_sliders_say(self) -> None:
        self._ask([slider.value for slider in self._sliders])

    def _ask(self, command: list[float]) -> None:
        """Ask the robot, and have the sliders say what it was asked."""
        taken = self._driver.ask(tuple(command))
        for slider, value in zip(self._sliders, taken, strict=True):
            if slider.value != value:
                slider.value = value

    def _turn_reference(self) -> None:
        self._ghost.value = not self._ghost.value  # which tells of its update

    def _show_reference(self) -> None:
        for handle in self._reference.values():
            handle.visible = self._ghost.value


def open_page(driver: Driver, robot: RobotCfg, host: str, port: int) -> Page:
    """Serve the page; it is there when this returns.

    Raises:
        EngineError: nothing can listen on this host.
    """
    import viser

    try:  # viser would try one port after the other, and wait for good
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise EngineError(
            f"--host is {host}, where this machine cannot listen ({error.strerror}); expected localhost, or 0.0.0.0"
        ) from None
    return Page(driver, robot, viser.ViserServer(host=host, port=port, label="CMG drive", verbose=False))


def _add_reference(server: Any, figures: Figures) -> dict[int, Any]:
    """A mesh for each body that has one, by its id."""
    from mjviser.conversions import merge_geoms

    model, found = figures.model, {}
    for body in range(1, model.nbody):
        geoms = [
            geom
            for geom in range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
            if model.geom_group[geom] < 3
        ]
        if geoms:
            mesh = merge_geoms(model, geoms)
            found[body] = server.scene.add_mesh_simple(
                f"/reference/{body}", mesh.vertices, mesh.faces, color=rgb(REFERENCE_COLOUR), opacity=0.55,
                cast_shadow=False,
            )  # fmt: skip
    return found


def _sky() -> np.ndarray:
    """[256, 2, 3] uint8, from the top down to the horizon, and pale below it."""
    share = np.clip(np.linspace(0.0, 1.6, 256), 0.0, 1.0)[:, None, None]
    top, horizon = np.array(LOOK.sky_top), np.array(LOOK.sky_horizon)
    return np.broadcast_to(np.round(255 * (top + share * (horizon - top))), (256, 2, 3)).astype(np.uint8)


def _css(colour: tuple[float, float, float]) -> str:
    return f"rgb{rgb(colour)}"
