"""Robots that can be trained: what the task has to know of each. docs/another_robot.md adds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mjlab.asset_zoo.robots import G1_ACTION_SCALE, GO1_ACTION_SCALE, get_g1_robot_cfg, get_go1_robot_cfg
from mjlab.entity import EntityCfg
from mjlab.sensor import ContactMatch

from cmg_gym.mdp.command_stages import TRAINING_STAGES, CommandStage
from CMG_Ref.robot_g1 import JOINT_NAMES as G1_JOINTS
from cmg_runtime import EngineError
from cmg_runtime.folder.manifest import Manifest

ENGINES = Path(__file__).resolve().parents[2] / "engines"


@dataclass(frozen=True, kw_only=True)
class RobotCfg:
    """A robot, in the names of its MJCF.

    Attributes:
        name: short; runs go to ``cmg_residual_<name>``.
        task: the task's name in mjlab.
        engine: the engine folder that is taken where none is given.
        joint_names: in the order of the motion state, which is the model's.
        entity: makes mjlab's configuration of the robot: its model, standing pose and actuators.
        action_scale: rad per unit of action, by regular expressions of joint names.
        root: the body with the free joint.
        torso: the body that is to stay upright, and whose mass is randomised.
        key_bodies: bodies whose places in the heading frame are rewarded and shown to the critic.
        foot_contacts: what touches the ground, an element for each foot.
        foot_sites: a site at each foot, in the same order, which is the model's.
        foot_bodies: of :attr:`key_bodies`, the one at each foot, in the same order: from how high it is follows whether
            the reference's foot stands or swings. None where no body is at the foot; then nothing rewards that.
        sole_geoms: regular expression of the geoms whose friction is randomised, all alike.
        sole_geom: one of them, for the critic.
        gyroscope: name of the sensor.
        minimum_height: of the root, m; an episode ends below it.
        stages: the curriculum, as far as it is of velocities; see :data:`TRAINING_STAGES`.
        hidden_dims: of the actor and of the critic.
    """

    name: str
    task: str
    engine: Path
    joint_names: tuple[str, ...]
    entity: Callable[[], EntityCfg]
    action_scale: dict[str, float]
    root: str
    torso: str
    key_bodies: tuple[str, ...]
    foot_contacts: ContactMatch
    foot_sites: tuple[str, ...]
    foot_bodies: tuple[str, ...] = ()
    sole_geoms: str
    sole_geom: str
    gyroscope: str = "imu_ang_vel"
    minimum_height: float
    stages: tuple[CommandStage, ...] = TRAINING_STAGES
    hidden_dims: tuple[int, ...] = (512, 256, 128)


G1_FEET = ("left_ankle_roll_link", "right_ankle_roll_link")
G1 = RobotCfg(
    name="g1",
    task="CMG-Residual-Flat-Unitree-G1",
    engine=ENGINES / "g1_all",  # what `make engine` builds from the bundled checkpoint
    joint_names=G1_JOINTS,
    entity=get_g1_robot_cfg,
    action_scale=G1_ACTION_SCALE,
    root="pelvis",
    torso="torso_link",
    key_bodies=tuple(
        f"{side}_{link}_link" for link in ("ankle_roll", "knee", "elbow", "wrist_yaw") for side in ("left", "right")
    )
    + ("torso_link",),
    foot_contacts=ContactMatch(mode="subtree", pattern=f"^({'|'.join(G1_FEET)})$", entity="robot"),
    foot_sites=("left_foot", "right_foot"),
    foot_bodies=G1_FEET,
    sole_geoms=r"^(left|right)_foot[1-7]_collision$",
    sole_geom="left_foot1_collision",
    minimum_height=0.4,
)

GO1_LEGS = ("FR", "FL", "RR", "RL")
GO1 = RobotCfg(
    name="go1",
    task="CMG-Residual-Flat-Unitree-Go1",
    engine=ENGINES / "go1",
    joint_names=tuple(f"{leg}_{joint}_joint" for leg in GO1_LEGS for joint in ("hip", "thigh", "calf")),
    entity=get_go1_robot_cfg,
    action_scale=GO1_ACTION_SCALE,
    root="trunk",
    torso="trunk",
    key_bodies=tuple(f"{leg}_{link}" for leg in GO1_LEGS for link in ("thigh", "calf")),
    foot_contacts=ContactMatch(mode="geom", pattern=r"^(FR|FL|RR|RL)_foot_collision$", entity="robot"),
    foot_sites=GO1_LEGS,
    sole_geoms=r"^(FR|FL|RR|RL)_foot_collision$",
    sole_geom="FR_foot_collision",
    minimum_height=0.15,
)

ROBOTS = (G1, GO1)


def robot_of(manifest: Manifest) -> RobotCfg:
    """The robot that an engine's motion is for; see :func:`find_robot`."""
    return find_robot(manifest.joint_names, f"engine {manifest.name!r}")


def find_robot(joint_names: Sequence[str], owner: str) -> RobotCfg:
    """The robot with these joints, in this order. ``owner`` is who has them, for the error.

    Raises:
        EngineError: there is none in :data:`ROBOTS`.
    """
    for robot in ROBOTS:
        if robot.joint_names == tuple(joint_names):
            return robot
    joints = f"{len(joint_names)} joints, {joint_names[0]} .. {joint_names[-1]}"
    raise EngineError(
        f"{owner} has {joints}; expected those of a robot in cmg_gym/robots.py "
        f"({', '.join(robot.name for robot in ROBOTS)}), all of them and in its order"
    )
