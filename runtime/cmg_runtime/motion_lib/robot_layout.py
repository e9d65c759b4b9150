"""Which joints and bodies of an engine's robot a training environment knows, and where they stand."""

from __future__ import annotations

from typing import List, Sequence

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Manifest
from cmg_runtime.inputs import as_count

KEY_BODIES = (
    "left_rubber_hand", "right_rubber_hand", "left_ankle_roll_link", "right_ankle_roll_link",
    "left_knee_link", "right_knee_link", "left_elbow_link", "right_elbow_link", "head_link",
)  # fmt: skip
"""What motion trackers look at on a G1."""

LATER_BODIES = ("head_mocap",)
"""Bodies of a G1 that engines have since a later version."""

WRIST_JOINTS = 6
"""A G1 with 29 joints has them; one with 23 does not."""


def kept_joints(manifest: Manifest, dof_dim: int) -> List[int]:
    """Indices in ``joint_names`` of the ``dof_dim`` joints that are left: all, or all but the six wrist joints.

    Raises:
        EngineError: the engine has neither that many joints nor that many besides its wrists.
    """
    dof_dim = as_count(dof_dim, "dof_dim")
    names = manifest.joint_names
    if dof_dim == len(names):
        return list(range(len(names)))
    without_wrists = [index for index, name in enumerate(names) if "wrist" not in name]
    if dof_dim == len(without_wrists) == len(names) - WRIST_JOINTS:
        return without_wrists
    others = f" or {len(without_wrists)} (no wrists)" if len(without_wrists) == len(names) - WRIST_JOINTS else ""
    raise EngineError(
        f"dof_dim is {dof_dim!r}, but engine {manifest.name!r} has {len(names)} joints; expected {len(names)}{others}"
    )


def known_bodies(manifest: Manifest, body_names: Sequence[str]) -> List[int]:
    """Indices in ``body_names`` of the bodies that the engine's robot has.

    Raises:
        EngineError: the engine has no robot, a name comes twice, or the robot has none of the bodies.
    """
    if manifest.robot is None:
        raise EngineError(
            f"engine {manifest.name!r} has no robot, so no root motion and no bodies; rebuild it with one"
        )
    if len(set(body_names)) != len(body_names):
        raise EngineError(f"body_names has the same name twice: {', '.join(body_names)}")
    known = [index for index, name in enumerate(body_names) if name in manifest.robot.body_names]
    if not known:
        raise EngineError(
            f"robot {manifest.robot.name!r} has none of the bodies {', '.join(body_names)}; "
            f"it has {', '.join(manifest.robot.body_names)}"
        )
    return known
