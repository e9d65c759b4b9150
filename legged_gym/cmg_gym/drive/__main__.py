"""``python -m cmg_gym.drive``: drive a policy on a page in the browser, in real time, on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmg_export.errors import FORESEEN
from cmg_gym.command_line import policy_or_bundled
from cmg_gym.drive.page import open_page
from cmg_gym.drive.real_time import Driver
from cmg_gym.robots import G1, robot_of
from cmg_gym.walk import Walk, exported_policy
from CMG_Ref.command_line import require_between, require_not_negative, run
from cmg_runtime import read_manifest

LARGEST_PORT = 65535


@dataclass(frozen=True)
class Options:
    """Drive a trained policy on a page in the browser: the robot walks in plain MuJoCo, in real time, on a CPU."""

    policy: Path | None = None
    """An exported policy's folder, or a training run's; else the bundled one of the engine's generator."""
    engine: Path = G1.engine
    """The engine folder; the robot is the one with its joints."""
    port: int = 8080
    """Of the page, on this machine; a free one near it where it is taken."""
    host: str = "localhost"
    """Who may open the page: localhost, this machine; 0.0.0.0, every other too."""
    seconds: float = 0.0
    """Stop by itself after so long; 0: on Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, drive, arguments, "cmg_gym.drive", FORESEEN)


def drive(options: Options) -> None:
    """Open the page and walk until the time is up, or for good."""
    require_between("port", options.port, 1, LARGEST_PORT)
    require_not_negative(options, "seconds")
    manifest = read_manifest(options.engine)
    robot, policy = robot_of(manifest), exported_policy(policy_or_bundled(options.policy, options.engine))
    print("Loading policy, generator and robot (some ten seconds)", flush=True)
    driver = Driver(Walk(policy, options.engine))
    page = open_page(driver, robot, options.host, options.port)
    print(f"Drive it at {page.url}; Ctrl-C ends", flush=True)
    try:
        driver.run(page.show, options.seconds)
    finally:
        page.close()
        print(driver.summary())


if __name__ == "__main__":
    sys.exit(main())
