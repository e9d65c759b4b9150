"""Under what a policy is measured, beside the task's own flat ground."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mjlab.envs import ManagerBasedRlEnvCfg, mdp
from mjlab.envs.mdp import dr
from mjlab.managers import EventTermCfg, SceneEntityCfg
from mjlab.terrains import TerrainEntityCfg
from mjlab.terrains.config import ROUGH_TERRAINS_CFG

from cmg_gym.mdp.curriculum import push_range
from cmg_gym.robots import RobotCfg
from cmg_runtime import EngineError


@dataclass(frozen=True)
class Conditions:
    """What an evaluation adds to the play environment.

    Attributes:
        pushes: as in mjlab's own velocity task, every 1 to 3 s.
        rough: mjlab's mixture of stairs, slopes, waves and rubble in place of the plane. Who sinks is not told from
            who stands lower there, so only a robot that tilts has fallen.
        friction: of the soles with the ground; None: the model's.
    """

    pushes: bool = False
    rough: bool = False
    friction: float | None = None

    def __post_init__(self) -> None:
        if self.friction is not None and not 0 < self.friction <= 10:  # NaN is not
            raise EngineError(f"--friction is {self.friction:g}; expected a number above 0, at most 10")

    def __str__(self) -> str:
        said = ["with pushes" if self.pushes else "no pushes"]
        said += ["rough ground"] * self.rough
        said += [] if self.friction is None else [f"friction {self.friction:g}"]
        return ", ".join(said)

    def apply(self, cfg: ManagerBasedRlEnvCfg, robot: RobotCfg) -> None:
        """Change the play environment's configuration."""
        if self.pushes:
            cfg.events["push_robot"] = EventTermCfg(
                func=mdp.push_by_setting_velocity,
                mode="interval",
                interval_range_s=(1.0, 3.0),
                params={"velocity_range": push_range(1.0)},
            )
        if self.rough:
            terrain = replace(ROUGH_TERRAINS_CFG, curriculum=False)
            cfg.scene.terrain = TerrainEntityCfg(terrain_type="generator", terrain_generator=terrain)
            cfg.sim.njmax, cfg.sim.nconmax = 600, 100
            cfg.sim.contact_sensor_maxmatch = 500
            cfg.sim.mujoco.ccd_iterations = 500
            cfg.terminations.pop("sank", None)  # mjlab's own task has none
        if self.friction is not None:
            cfg.events["foot_friction"] = EventTermCfg(
                func=dr.geom_friction,
                mode="startup",
                params={
                    "asset_cfg": SceneEntityCfg("robot", geom_names=(robot.sole_geoms,)),
                    "operation": "abs",
                    "ranges": (self.friction, self.friction),
                    "shared_random": True,
                },
            )
