"""The commands that policies are measured by, and what is asked of each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from cmg_gym.evaluation import CommandResult
from cmg_runtime import EngineError

Command = tuple[float, float, float]
"""vx, vy (m/s) and yaw rate (rad/s)."""

GRID: tuple[Command, ...] = (
    (0.0, 0.0, 0.0),
    *((vx, 0.0, 0.0) for vx in (0.3, 0.5, 0.8, 1.0, 1.5, 2.0)),
    *((vx, 0.0, 0.0) for vx in (-0.3, -0.5, -0.8)),
    *((0.0, vy, 0.0) for vy in (0.2, -0.2, 0.4, -0.4, 0.6, -0.6)),
    *((0.0, 0.0, yaw) for yaw in (0.4, -0.4, 0.8, -0.8, 1.2, -1.2)),
    *((vx, 0.0, sign * yaw) for vx, yaw in ((0.5, 0.4), (0.8, 0.4), (1.0, 0.8), (1.5, 0.5)) for sign in (1, -1)),
    *((vx, vy, 0.0) for vx in (0.5, -0.4) for vy in (0.3, -0.3)),
    (-0.4, 0.0, 0.5),
    (-0.4, 0.0, -0.5),
    (0.0, 0.4, 0.5),
    (0.0, -0.4, 0.5),
    (0.6, 0.3, 0.5),
    (0.6, -0.3, -0.5),
)
"""Standing, along each axis, and combinations of two and three."""

VELOCITY_ERROR, FAST_VELOCITY_ERROR, FAST = 0.12, 0.2, 1.5
"""m/s; the second for commands that are faster than the third, m/s."""
YAW_ERROR = 0.12
"""rad/s."""
SURVIVAL, SURVIVAL_PUSHED = 0.99, 0.95
"""Shares of episodes."""
SLIP, SLIP_UP_TO = 0.08, 1.0
"""m/s, for commands that are at most so fast, m/s."""
WALKS = 0.15
"""m/s of velocity error: a policy with more does not walk as it is told, so its power is no measure."""

BARS = ("survival", "velocity", "yaw", "slip", "power")


def grid_within(low: Sequence[float], high: Sequence[float]) -> tuple[Command, ...]:
    """:data:`GRID`, each number within the checkpoint's command range ``low`` .. ``high`` [3], and none twice."""
    bounds = list(zip(low, high, strict=True))
    clipped = (tuple(round(min(max(x, lo), hi), 6) for x, (lo, hi) in zip(c, bounds, strict=True)) for c in GRID)
    return tuple(dict.fromkeys(clipped))  # pyright: ignore[reportReturnType]


def judge(result: CommandResult, pushes: bool, watts: float | None = None) -> dict[str, bool]:
    """Of every bar that there is for a command, whether it is met. Pushed robots are asked for survival alone.

    Args:
        watts: power of another policy that walks at this command; no more than that is asked for.
    """
    if pushes:
        return {"survival": result.survival >= SURVIVAL_PUSHED}
    speed = math.hypot(*result.command[:2])
    velocity = FAST_VELOCITY_ERROR if speed > FAST else VELOCITY_ERROR
    met = {
        "survival": result.survival >= SURVIVAL,
        "velocity": result.velocity_error <= velocity,
        "yaw": result.yaw_error <= YAW_ERROR,
    }
    if speed <= SLIP_UP_TO:
        met["slip"] = result.slip <= SLIP
    if watts is not None and any(result.command) and result.velocity_error <= WALKS:
        met["power"] = result.power <= watts
    return met


def read_power(path: Path) -> dict[tuple[float, ...], float]:
    """Command -> power (W) of another policy where it walks, by its ``evaluation.json``.

    Raises:
        EngineError: it is none.
    """
    try:
        document = json.loads(path.read_text())
        rows = document["results"]
        if document.get("rough") or document.get("friction") is not None:
            raise ValueError("on rough ground, or with another friction")
        return {
            tuple(row["command"]): float(row["power"])
            for row in rows
            if row["velocity_error"] is not None and row["velocity_error"] <= WALKS
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} is no evaluation.json of `python -m cmg_gym.evaluate` ({error})") from None
