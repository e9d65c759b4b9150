"""Random robots as MJCF: trees of bodies with hinges off the origin, about any axis, in any pose."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np


class RandomRobot(NamedTuple):
    """The file, and the names of its hinges in the file's order."""

    path: Path
    joint_names: tuple[str, ...]


def random_robot(
    rng: np.random.Generator, path: Path, num_bodies: int = 9, with_references: bool = False
) -> RandomRobot:
    """Write a robot with a free root called "root".

    Args:
        with_references: give hinges a ``ref``, so that the pose in the file is not the pose at joint angle 0, and
            leave some bodies without a hinge.
    """
    children: dict[int, list[int]] = {body: [] for body in range(num_bodies)}
    for body in range(1, num_bodies):
        children[int(rng.integers(body))].append(body)
    names: list[str] = []

    def text(values: np.ndarray) -> str:
        return " ".join(f"{value:.6f}" for value in values)

    def element(body: int) -> str:
        name = "root" if body == 0 else f"body_{body}"
        pose = f'pos="{text(rng.uniform(-0.3, 0.3, 3))}" quat="{text(rng.normal(size=4))}"'
        joint = "<freejoint/>" if body == 0 else ""
        if body > 0 and not (with_references and rng.random() < 0.2):
            names.append(f"joint_{body}")
            reference = f'ref="{rng.uniform(-1, 1):.6f}"' if with_references else ""
            joint = (
                f'<joint name="joint_{body}" axis="{text(rng.normal(size=3))}" pos="{text(rng.uniform(-0.1, 0.1, 3))}" '
                f'range="-3.2 3.2" {reference}/>'
            )
        inner = "".join(element(child) for child in children[body])
        return f'<body name="{name}" {pose}>{joint}<geom size="0.05"/>{inner}</body>'

    body = element(0)
    path.write_text(f'<mujoco model="random"><compiler angle="radian"/><worldbody>{body}</worldbody></mujoco>')
    return RandomRobot(path, tuple(names))
