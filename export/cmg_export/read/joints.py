"""Which joints the motion state has, and which robot model they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cmg_export.errors import RobotError
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.read.robot import RobotModel, g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES as G1_JOINTS
from cmg_runtime.folder.robot import KinematicChain


class Joints(NamedTuple):
    """Joint names in the motion state's order; the robot's chain and model file, or why there is none."""

    names: tuple[str, ...]
    chain: KinematicChain | None
    model: Path | None
    note: str


def resolve_joints(checkpoint: Checkpoint, robot: Path | None) -> Joints:
    """Name the joints and find their robot.

    Names come from the card; else from ``robot``; else they are the G1's where there are 29; else joint_0, joint_1, ...
    The robot is ``robot``; else mjlab's G1, where all joints are the G1's and mjlab is installed.

    Raises:
        RobotError: ``robot`` cannot be read or does not fit the motion state.
    """
    names, count = checkpoint.card.joint_names, checkpoint.sizes.num_joints
    if robot is not None:
        model = RobotModel(robot)
        hinges = model.hinge_names()
        if names is None and len(hinges) != count:
            raise RobotError(
                f"{robot} has {len(hinges)} hinge joints, the motion state {count}; "
                "name the ones that it has, in its order, as joint_names in card.json beside the checkpoint"
            )
        return _with_chain(names or hinges, model, robot)
    if names is None:
        names = G1_JOINTS if count == len(G1_JOINTS) else tuple(f"joint_{index}" for index in range(count))
    if not set(names) <= set(G1_JOINTS):
        return Joints(names, None, None, "none (not the G1's joints, and no --robot); no root height, no bodies")
    path = g1_model()
    if path is None:
        return Joints(names, None, None, "none (the G1's model needs mjlab and mujoco); no root height, no bodies")
    return _with_chain(names, RobotModel(path), path)


def _with_chain(names: tuple[str, ...], model: RobotModel, path: Path) -> Joints:
    chain = model.chain(names)
    note = f"{chain.name}, {len(chain.body_names)} bodies, {len(chain.sole_bodies)} sole points"
    return Joints(names, chain, path, note)
