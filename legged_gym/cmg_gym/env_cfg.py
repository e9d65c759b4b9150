"""The task: a robot on flat ground that follows velocity commands by a residual on generated reference motion."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

from mjlab.envs import ManagerBasedRlEnvCfg, mdp
from mjlab.envs.mdp import dr
from mjlab.managers import (
    CurriculumTermCfg,
    EventTermCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    SceneEntityCfg,
    TerminationTermCfg,
)
from mjlab.scene import SceneCfg
from mjlab.sensor import ContactMatch, ContactSensorCfg
from mjlab.sim import MujocoCfg, SimulationCfg
from mjlab.tasks.velocity import mdp as velocity_mdp
from mjlab.terrains import TerrainEntityCfg
from mjlab.utils.noise import UniformNoiseCfg
from mjlab.viewer import ViewerConfig
from mujoco import MjSpec, mjtSensor  # pyright: ignore[reportAttributeAccessIssue]

from cmg_gym.mdp import observations as obs
from cmg_gym.mdp import rewards
from cmg_gym.mdp.command_stages import FULL_RANGE
from cmg_gym.mdp.curriculum import command_stage, push_range
from cmg_gym.mdp.episodes import StartNoise
from cmg_gym.mdp.pushes import push_by_setting_velocity
from cmg_gym.mdp.reference_command import COMMAND_NAME, ReferenceCommandCfg
from cmg_gym.mdp.residual_action import ResidualJointActionCfg
from cmg_gym.mdp.terminations import diverged
from cmg_gym.rl_cfg import STEPS_PER_ITERATION
from cmg_gym.robots import G1, RobotCfg

COMMAND = {"command_name": COMMAND_NAME}
ACTOR_OFFSETS = (1, 5, 10)
"""Frames ahead that the policy sees; 1 is the target."""
CRITIC_OFFSETS = tuple(range(2, 42, 2))
"""Frames ahead that the critic sees: 20, up to 0.8 s."""

MOST_CONSTRAINTS = 192
"""Of a robot: kernels run over so many, whatever there are. Walking has 34 on average and 120 at most, with random
actions 133, thrown into any pose 174. What is beyond is dropped for that step of physics; MuJoCo Warp prints a line
then, and the captured environment logs in how many episodes."""

FEET_CONTACT, SELF_COLLISION = "feet_ground_contact", "self_collision"


def make_env_cfg(play: bool = False, delay_steps: int = 0, robot: RobotCfg = G1) -> ManagerBasedRlEnvCfg:
    """The environment's configuration.

    Args:
        play: no noise, randomisation, pushes, curriculum and time limit.
        delay_steps: joint targets reach the actuators up to so many steps of physics (5 ms) late.
        robot: which; the engine has to have its joints.
    """
    return ManagerBasedRlEnvCfg(
        scene=_scene(robot, delay_steps),
        observations={"actor": _actor(robot, corrupted=not play), "critic": _critic(robot)},
        actions={
            "joint_pos": ResidualJointActionCfg(
                entity_name="robot", actuator_names=(".*",), scale=robot.action_scale, command_name=COMMAND_NAME
            )
        },
        commands={COMMAND_NAME: _reference(robot, play)},
        events={} if play else _randomisation(robot),
        rewards=_rewards(robot),
        terminations=_terminations(robot),
        curriculum={} if play else _curriculum(),
        viewer=_viewer(robot),
        sim=SimulationCfg(
            njmax=MOST_CONSTRAINTS,
            contact_sensor_maxmatch=64,
            mujoco=MujocoCfg(timestep=0.005, iterations=10, ls_iterations=20, ccd_iterations=50),
        ),
        decimation=4,
        episode_length_s=int(1e9) if play else 20.0,
    )


def _scene(robot: RobotCfg, delay_steps: int) -> SceneCfg:
    feet = ContactSensorCfg(
        name=FEET_CONTACT,
        primary=copy.deepcopy(robot.foot_contacts),
        secondary=ContactMatch(mode="body", pattern="terrain"),
        fields=("found", "force"),
        reduce="netforce",
        num_slots=1,
        track_air_time=True,
    )
    itself = ContactMatch(mode="subtree", pattern=robot.root, entity="robot")
    self_collision = ContactSensorCfg(
        name=SELF_COLLISION,
        primary=itself,
        secondary=itself,
        fields=("found", "force"),
        reduce="none",
        num_slots=1,
        history_length=4,
    )
    entity = copy.deepcopy(robot.entity())  # the actuators in it are shared by all of mjlab
    assert entity.articulation is not None
    entity.spec_fn = functools.partial(_without_costly_sensors, entity.spec_fn)
    for actuator in entity.articulation.actuators:
        actuator.delay_max_lag = delay_steps
    return SceneCfg(
        terrain=TerrainEntityCfg(terrain_type="plane"),
        entities={"robot": entity},
        sensors=(feet, self_collision),
        num_envs=1,
        extent=2.0,
    )


COSTLY_SENSORS = (mjtSensor.mjSENS_ACCELEROMETER, mjtSensor.mjSENS_SUBTREEANGMOM)
"""For which MuJoCo computes accelerations and momenta of all bodies, an eighth of a step; no term reads them."""


def _without_costly_sensors(make_spec: Callable[[], MjSpec]) -> MjSpec:
    spec = make_spec()
    for sensor in list(spec.sensors):
        if sensor.type in COSTLY_SENSORS:
            spec.delete(sensor)
    return spec


def _reference(robot: RobotCfg, play: bool) -> ReferenceCommandCfg:
    return ReferenceCommandCfg(
        engine=str(robot.engine),
        resampling_time_range=(4.0, 8.0),
        offsets=tuple(sorted({*ACTOR_OFFSETS, *CRITIC_OFFSETS})),
        key_bodies=robot.key_bodies,
        stages=FULL_RANGE if play else robot.stages,
        start_noise=None if play else StartNoise(),
        debug_vis=True,
    )


def _actor(robot: RobotCfg, corrupted: bool) -> ObservationGroupCfg:
    """Proprioception, the command as the generator uses it, and the reference: what a robot has."""
    return ObservationGroupCfg(
        terms={
            "base_ang_vel": ObservationTermCfg(
                func=mdp.builtin_sensor, params={"sensor_name": f"robot/{robot.gyroscope}"}, noise=_noise(0.2)
            ),
            "projected_gravity": ObservationTermCfg(func=mdp.projected_gravity, noise=_noise(0.05)),
            "joint_pos": ObservationTermCfg(func=mdp.joint_pos_rel, params={"biased": True}, noise=_noise(0.01)),
            "joint_vel": ObservationTermCfg(func=mdp.joint_vel_rel, noise=_noise(1.5)),
            "actions": ObservationTermCfg(func=mdp.last_action),
            "command": ObservationTermCfg(func=mdp.generated_commands, params=dict(COMMAND)),
            "reference_dof_pos": ObservationTermCfg(
                func=obs.reference_dof_pos, params={**COMMAND, "offsets": ACTOR_OFFSETS}
            ),
            "reference_dof_vel": ObservationTermCfg(func=obs.reference_dof_vel, params={**COMMAND, "offsets": (1,)}),
        },
        enable_corruption=corrupted,
    )


def _critic(robot: RobotCfg) -> ObservationGroupCfg:
    """All of the actor's without noise, the rest of the state, the reference further ahead, what is randomised."""
    torso = SceneEntityCfg("robot", body_names=(robot.torso,))
    foot = SceneEntityCfg("robot", geom_names=(robot.sole_geom,))
    contact = {"sensor_name": FEET_CONTACT}
    ahead = {**COMMAND, "offsets": CRITIC_OFFSETS}
    terms = _actor(robot, corrupted=False).terms
    terms["joint_pos"] = ObservationTermCfg(func=mdp.joint_pos_rel)
    terms |= {
        "base_lin_vel": ObservationTermCfg(func=mdp.base_lin_vel),
        "mean_error": ObservationTermCfg(func=obs.mean_error, params=dict(COMMAND)),
        "base_height": ObservationTermCfg(func=obs.base_height),
        "key_bodies": ObservationTermCfg(func=obs.key_bodies, params=dict(COMMAND)),
        "reference_key_bodies": ObservationTermCfg(func=obs.reference_key_bodies, params=dict(COMMAND)),
        "future_dof_pos": ObservationTermCfg(func=obs.reference_dof_pos, params=dict(ahead)),
        "future_root": ObservationTermCfg(func=obs.reference_root, params=dict(ahead)),
        "foot_contact": ObservationTermCfg(func=velocity_mdp.foot_contact, params=dict(contact)),
        "foot_air_time": ObservationTermCfg(func=velocity_mdp.foot_air_time, params=dict(contact)),
        "foot_contact_forces": ObservationTermCfg(func=velocity_mdp.foot_contact_forces, params=dict(contact)),
        "friction": ObservationTermCfg(func=obs.friction, params={"asset_cfg": foot}),
        "mass_ratio": ObservationTermCfg(func=obs.mass_ratio, params={"asset_cfg": torso}),
        "centre_of_mass": ObservationTermCfg(func=obs.centre_of_mass, params={"asset_cfg": torso}),
        "motor_strength": ObservationTermCfg(func=obs.motor_strength),
        "encoder_bias": ObservationTermCfg(func=obs.encoder_bias),
    }
    return ObservationGroupCfg(terms=terms)


def _rewards(robot: RobotCfg) -> dict[str, RewardTermCfg]:
    torso = SceneEntityCfg("robot", body_names=(robot.torso,))
    feet = SceneEntityCfg("robot", site_names=robot.foot_sites)
    contact = {"sensor_name": FEET_CONTACT}
    terms = {
        "alive": RewardTermCfg(func=mdp.is_alive, weight=1.0),
        "track_velocity": RewardTermCfg(func=rewards.track_velocity, weight=2.0, params={**COMMAND, "std": 0.5}),
        "hold_velocity": RewardTermCfg(func=rewards.hold_velocity, weight=2.0, params={**COMMAND, "std": 0.15}),
        "track_yaw_rate": RewardTermCfg(func=rewards.hold_yaw_rate, weight=1.0, params={**COMMAND, "std": 0.6}),
        "hold_yaw_rate": RewardTermCfg(func=rewards.hold_yaw_rate, weight=1.5, params={**COMMAND, "std": 0.15}),
        "track_joint_pos": RewardTermCfg(func=rewards.track_joint_pos, weight=1.0, params={**COMMAND, "std": 0.25}),
        "track_joint_vel": RewardTermCfg(func=rewards.track_joint_vel, weight=0.5, params={**COMMAND, "std": 2.0}),
        "track_key_bodies": RewardTermCfg(func=rewards.track_key_bodies, weight=1.0, params={**COMMAND, "std": 0.15}),
        "track_height": RewardTermCfg(func=rewards.track_height, weight=0.5, params={**COMMAND, "std": 0.1}),
        "track_contacts": RewardTermCfg(
            func=rewards.track_contacts,
            weight=0.5,
            params={**COMMAND, **contact, "foot_bodies": robot.foot_bodies},
        ),
        "upright": RewardTermCfg(
            func=velocity_mdp.upright, weight=1.0, params={"std": math.sqrt(0.2), "asset_cfg": torso}
        ),
        "body_ang_vel": RewardTermCfg(
            func=velocity_mdp.body_angular_velocity_penalty, weight=-0.05, params={"asset_cfg": torso}
        ),
        "feet_slip": RewardTermCfg(func=rewards.feet_slip, weight=-4.0, params={**contact, "asset_cfg": feet}),
        "low_swing": RewardTermCfg(func=rewards.low_swing, weight=-0.5, params={**contact, "asset_cfg": feet}),
        "action_rate": RewardTermCfg(func=mdp.action_rate_l2, weight=-0.05),
        "torques": RewardTermCfg(func=mdp.joint_torques_l2, weight=-1e-5),
        "power": RewardTermCfg(func=rewards.power, weight=-2e-3),
        "joint_limits": RewardTermCfg(func=mdp.joint_pos_limits, weight=-1.0),
        "self_collisions": RewardTermCfg(
            func=velocity_mdp.self_collision_cost,
            weight=-0.5,
            params={"sensor_name": SELF_COLLISION, "force_threshold": 10.0},
        ),
    }
    if not robot.foot_bodies:
        del terms["track_contacts"]
    return terms


def _terminations(robot: RobotCfg) -> dict[str, TerminationTermCfg]:
    """Time, and a fall."""
    return {
        "time_out": TerminationTermCfg(func=mdp.time_out, time_out=True),
        "fell_over": TerminationTermCfg(func=mdp.bad_orientation, params={"limit_angle": math.radians(60.0)}),
        "sank": TerminationTermCfg(func=mdp.root_height_below_minimum, params={"minimum_height": robot.minimum_height}),
        "diverged": TerminationTermCfg(func=diverged),
    }


def _randomisation(robot: RobotCfg) -> dict[str, EventTermCfg]:
    everything = SceneEntityCfg("robot")
    torso = SceneEntityCfg("robot", body_names=(robot.torso,))
    feet = SceneEntityCfg("robot", geom_names=(robot.sole_geoms,))
    return {
        "push_robot": EventTermCfg(
            func=push_by_setting_velocity,
            mode="interval",
            interval_range_s=(1.0, 3.0),
            params={"velocity_range": push_range(robot.stages[0].push)},
        ),
        "foot_friction": EventTermCfg(
            mode="startup",
            func=dr.geom_friction,
            params={"asset_cfg": feet, "operation": "abs", "ranges": (0.3, 1.2), "shared_random": True},
        ),
        "torso_mass": EventTermCfg(
            mode="startup",
            func=dr.pseudo_inertia,
            params={"asset_cfg": torso, "alpha_range": (math.log(0.9) / 2, math.log(1.15) / 2)},
        ),
        "torso_com": EventTermCfg(
            mode="startup",
            func=dr.body_com_offset,
            params={
                "asset_cfg": torso,
                "operation": "add",
                "ranges": {0: (-0.025, 0.025), 1: (-0.025, 0.025), 2: (-0.03, 0.03)},
            },
        ),
        "motor_strength": EventTermCfg(
            mode="startup",
            func=dr.pd_gains,
            params={"asset_cfg": everything, "kp_range": (0.9, 1.1), "kd_range": (0.9, 1.1)},
        ),
        "encoder_bias": EventTermCfg(
            mode="startup", func=dr.encoder_bias, params={"asset_cfg": everything, "bias_range": (-0.015, 0.015)}
        ),
    }


def _curriculum() -> dict[str, CurriculumTermCfg]:
    return {
        "commands": CurriculumTermCfg(
            func=command_stage,
            params={**COMMAND, "steps_per_iteration": STEPS_PER_ITERATION, "push_name": "push_robot"},
        )
    }


def _viewer(robot: RobotCfg) -> ViewerConfig:
    return ViewerConfig(
        origin_type=ViewerConfig.OriginType.ASSET_BODY,
        entity_name="robot",
        body_name=robot.torso,
        distance=2.6,
        elevation=-12.0,
        azimuth=200.0,
        width=400,
        height=360,
        # Drawn on a CPU, each of them takes as long as all the rest.
        enable_reflections=False,
        enable_shadows=False,
    )


def _noise(width: float) -> UniformNoiseCfg:
    return UniformNoiseCfg(n_min=-width, n_max=width)
