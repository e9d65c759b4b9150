"""The page that a robot is driven on, in a real browser; and real time, which is kept or its loss counted."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from chromium import MISSING, Browser, find_chromium
from cmg_gym.drive.page import open_page
from cmg_gym.drive.real_time import Driver
from cmg_gym.pictures.figures import Moment
from cmg_gym.robots import G1
from cmg_gym.walk import Walk
from cmg_runtime import EngineError
from gym_case import BUNDLED_POLICY, deployable_engine

pytestmark = pytest.mark.xdist_group("gym")

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def driver() -> Driver:
    return Driver(Walk(BUNDLED_POLICY, deployable_engine()))


def test_steps_that_take_longer_than_their_period_are_counted_as_late(driver: Driver) -> None:
    slow = []

    def show(_: Moment) -> None:
        if driver.steps % 5 == 0:
            slow.append(driver.steps)
            time.sleep(1.5 * driver.walk.dt)

    before, began = driver.steps, time.perf_counter()
    driver.run(show, seconds=0.6)
    passed = time.perf_counter() - began
    assert len(slow) <= driver.late <= driver.steps - before
    assert driver.steps - before <= passed / driver.walk.dt + 1  # never faster than real time
    assert driver.load().worst_ms >= 1500 * driver.walk.dt
    assert f"{driver.late} late" in driver.summary()


def test_it_goes_where_it_is_asked_to_and_stands_up_after_a_fall(driver: Driver) -> None:
    def walk(seconds: float) -> list[Moment]:
        return [driver.step() for _ in range(round(seconds / driver.walk.dt))]

    driver.start_anew()
    assert driver.ask((9.0, 0.0, -9.0)) == (driver.walk.command_range[1][0], 0.0, driver.walk.command_range[0][2])
    assert driver.ask((0.8, 0.0, 0.0)) == (0.8, 0.0, 0.0)
    end = walk(3.0)[-1]
    assert end.command == pytest.approx((0.8, 0.0, 0.0)) and end.achieved[0] == pytest.approx(0.8, abs=0.25)
    falls = driver.falls
    driver.walk.robot.push((6.0, 6.0))
    heights = [moment.root[2] for moment in walk(3.0)]
    assert driver.falls == falls + 1
    assert min(heights) < 0.4 < 0.65 < heights[-1]  # m: it lies, and it stands
    before = driver.walk.robot.data.qvel[:2].copy()
    driver.push()
    assert np.linalg.norm(driver.walk.robot.data.qvel[:2] - before) > 0.1


def test_a_robot_that_the_controller_gives_up_is_damped(driver: Driver) -> None:
    walk = driver.walk
    gains = walk.robot.model.actuator_gainprm
    walk.reset()
    walk.step((0.0, 0.0, 0.0))
    assert gains[:, 0].all()
    walk.robot.push((6.0, 6.0))
    while walk.controller.fault is None:
        walk.step((0.0, 0.0, 0.0))
    assert not gains[:, 0].any()
    walk.reset()
    walk.step((0.0, 0.0, 0.0))
    assert gains[:, 0].all()


def test_what_the_page_asks_for_is_done_in_order_by_the_loop(driver: Driver) -> None:
    """Keys come in threads of the page's server, several at once: none is lost, and none is in the way of a step."""
    stepping, seen = threading.get_ident(), []

    def faster() -> None:
        seen.append(threading.get_ident())
        command = driver.command
        time.sleep(0.001)  # as if another thread came in between
        driver.ask((command[0] + 0.01, *command[1:]))

    driver.ask((0.0, 0.0, 0.0))
    with ThreadPoolExecutor(16) as pool:
        for _ in range(40):
            pool.submit(driver.later, faster)
    assert driver.command == (0.0, 0.0, 0.0)
    driver.step()
    assert driver.command[0] == pytest.approx(0.4) and set(seen) == {stepping}
    driver.ask((0.0, np.nan, 0.0))
    assert not driver.step().command[1] and driver.walk.controller.ignored_commands == 1


def test_a_page_opens_for_every_command_range_and_only_where_it_can(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver.walk, "command_range", ((0.3, 0.0, -0.5), (1.4, 0.0, 0.5)))
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        page = open_page(driver, G1, "localhost", port)
        try:
            assert driver.command == (0.3, 0.0, 0.0)  # what there is of standing
            assert not page.url.endswith(f":{port}")
        finally:
            page.close()
    with pytest.raises(EngineError, match="--host is nowhere.invalid"):
        open_page(driver, G1, "nowhere.invalid", port)


@pytest.fixture
def url() -> Iterator[str]:
    """Of a page that a robot walks on, in a process of its own."""
    given = ["-m", "cmg_gym.drive", "--engine", str(deployable_engine()), "--port", "8420", "--seconds", "300"]
    process = subprocess.Popen([sys.executable, *given], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        yield next(found[0] for line in lines if (found := re.search(r"(?<=Drive it at )http://\S+(?=;)", line)))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason=MISSING)
def test_the_page_shows_a_robot_that_a_key_sets_in_motion(url: str, tmp_path: Path) -> None:
    with Browser(url, tmp_path) as browser:
        wait_until(lambda: "achieved" in browser.text() and numbers(browser)["steps"][0] > 50)
        assert numbers(browser)["command in force"] == [0.0, 0.0, 0.0]
        assert abs(numbers(browser)["achieved"][0]) < 0.2
        for _ in range(8):
            browser.press("I")
        wait_until(lambda: numbers(browser)["command in force"] == [0.8, 0.0, 0.0])
        since = numbers(browser)["steps"][0]
        two_seconds = since + 100  # of the robot's time: the machine may be busy
        wait_until(lambda: numbers(browser)["achieved"][0] > 0.5 or numbers(browser)["steps"][0] > two_seconds)
        assert numbers(browser)["achieved"][0] > 0.5
        wait_until(lambda: robot_pixels(browser.picture()).sum() > 300)  # it is drawn, however slowly
        first = robot_pixels(browser.picture())
        wait_until(lambda: numbers(browser)["steps"][0] > since + 120)
        second = robot_pixels(browser.picture())
        assert (first != second).sum() > 0.1 * first.sum()  # its arms and legs are elsewhere
        browser.press("X")
        wait_until(lambda: numbers(browser)["command in force"] == [0.0, 0.0, 0.0])
        wait_until(lambda: abs(numbers(browser)["achieved"][0]) < 0.3)
        assert browser.complaints == []


def numbers(browser: Browser) -> dict[str, list[float]]:
    """What the page says: velocities by the rows of its table, and how many control steps there were."""
    text = browser.text()
    rows = {name: re.search(rf"{name}\s+(\S+)\s+(\S+)\s+(\S+)", text) for name in ("command in force", "achieved")}
    steps = re.search(r"late: \d+ of (\d+)", text)
    assert steps is not None, text
    found = {name: [float(value) for value in row.groups()] for name, row in rows.items() if row is not None}
    return {**found, "steps": [float(steps[1])]}


def robot_pixels(picture: np.ndarray) -> np.ndarray:
    """[height, width] bool: the dark parts of the robot, left of the panel and in the middle; nothing else is dark."""
    height, width, _ = picture.shape
    return picture[height // 4 : height * 3 // 4, width // 3 : width * 11 // 20].max(axis=2) < 70


def wait_until(it_is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not it_is_so():
        assert time.monotonic() < end
        time.sleep(0.1)
