"""The motion library that a TWIST environment, or its configuration, asks for."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Sequence

import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.isaac_gym import require_same_joints
from cmg_runtime.motion_lib.library import HORIZON, MotionLibCMG
from cmg_runtime.motion_lib.reach import warn_where_ground_ends
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES

FPS = 50.0

RENAMED = {"cmg_preload_duration": "cmg_motion_length"}
"""Keys of other implementations' configurations, and what is asked for here instead."""


def create_motion_lib_cmg(
    env: Any,
    num_envs: int | None = None,
    device: str | torch.device | None = None,
    body_names: Sequence[str] | None = None,
) -> MotionLibCMG:
    """The motion library for an environment: ``create_motion_lib_cmg(self)``, in its ``_load_motions``.

    ``cfg.motion`` has ``cmg_model_path``, and may have ``cmg_data_path``, ``cmg_mode`` ("pregenerated"),
    ``cmg_num_motions`` (1024), ``cmg_motion_length`` (500 frames), ``cmg_backend`` ("auto"), ``dof_dim`` (the robot's
    number of joints), ``fps`` (50) and ``key_bodies`` (TWIST's). How many frames are looked ahead follows from
    ``cfg.env.tar_obs_steps``, how fast time goes from ``cfg.control.decimation`` and ``cfg.sim.dt``, and what is drawn
    from ``cfg.seed``. Relative paths start in the working directory; ``~`` and ``$VARIABLES`` are expanded.

    Args:
        env: a legged_gym environment whose simulation was made: ``cfg``, ``num_envs``, ``device``, ``gym``, ``envs``
            and ``actor_handles`` are read. The robot's joints are checked, its bodies are those of ``local_body_pos``,
            and a warning says where motions leave the terrain. Or a configuration alone: then the next two are needed,
            and nothing is known of the robot.
        num_envs, device: with a configuration: how many environments, and the simulation's device.
        body_names: bodies of ``local_body_pos``; None for the robot's, or with a configuration for ``key_bodies``.

    Raises:
        EngineError: ``cmg_model_path`` is missing, or nothing is there; the robot's joints are others than the
            engine's; see :class:`MotionLibCMG`.
    """
    if num_envs is not None and device is not None:
        return _from_configuration(env, num_envs, device, body_names, None)
    if not hasattr(env, "gym"):
        raise EngineError("create_motion_lib_cmg has no environment; give it one, or cfg, num_envs and device")
    robot = env.envs[0], env.actor_handles[0]
    names = env.gym.get_actor_rigid_body_names(*robot) if body_names is None else body_names
    num_joints = len(env.gym.get_actor_dof_names(*robot))
    library = _from_configuration(env.cfg, env.num_envs, env.device, names, num_joints)
    require_same_joints(library.joint_names, env.gym, *robot)
    warn_where_ground_ends(env, library.max_distance)
    return library


def _from_configuration(
    cfg: Any, num_envs: int, device: str | torch.device, body_names: Sequence[str] | None, num_joints: int | None
) -> MotionLibCMG:
    motion = cfg.motion
    for old, new in RENAMED.items():
        if hasattr(motion, old):
            raise EngineError(f"cfg.motion.{old} is not read; set cfg.motion.{new}")
    fps = float(getattr(motion, "fps", FPS))
    control_dt = _control_dt(cfg, 1 / fps)
    steps = [int(step) for step in getattr(getattr(cfg, "env", None), "tar_obs_steps", [])]
    ahead = math.ceil(max(steps, default=0) * control_dt * fps - 1e-3)
    return MotionLibCMG(
        _there(motion, "cmg_model_path"),
        _there(motion, "cmg_data_path") if getattr(motion, "cmg_data_path", None) else None,
        getattr(motion, "cmg_num_motions", 1024),
        getattr(motion, "cmg_motion_length", 500),
        num_envs,
        device,
        getattr(motion, "dof_dim", 29 if num_joints is None else num_joints),
        fps,
        mode=getattr(motion, "cmg_mode", "pregenerated"),
        backend=getattr(motion, "cmg_backend", "auto"),
        body_names=getattr(motion, "key_bodies", KEY_BODIES) if body_names is None else body_names,
        horizon=max(HORIZON, ahead + 1),
        control_dt=control_dt,
        seed=getattr(cfg, "seed", 0),
    )


def _control_dt(cfg: Any, otherwise: float) -> float:
    try:
        return float(cfg.control.decimation) * float(cfg.sim.dt)
    except AttributeError:
        return otherwise


def _there(motion: Any, key: str) -> Path:
    """The path that a key of the configuration names, which is there."""
    value = getattr(motion, key, None)
    if not value:
        raise EngineError(f"cfg.motion.{key} is missing; expected an engine folder or a checkpoint")
    path = Path(os.path.expandvars(os.path.expanduser(str(value))))
    if not path.exists():
        raise EngineError(
            f"cfg.motion.{key} is {str(value)!r}, and {path.absolute()} is not there; give an absolute path, or one "
            "that begins with ~ or an environment variable, as $CMG_ENGINES/g1_neutral"
        )
    return path
