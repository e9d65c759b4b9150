"""What deployment needs of a trained policy: ``policy.onnx`` and ``policy.json``; with the engine folder they make
:class:`cmg_gym.controller.Controller`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from cmg_gym.mdp.reference_command import reference
from cmg_gym.mdp.residual_action import ResidualJointAction
from cmg_gym.policy_card import ObservationTerm, PolicyCard
from cmg_runtime.folder.kept_files import replace_file

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import MjlabOnPolicyRunner

ACTION, GROUP = "joint_pos", "actor"


def export_policy(runner: MjlabOnPolicyRunner, folder: str | Path) -> None:
    """Write ``policy.onnx`` (observation -> action, normalisation inside) and ``policy.json`` into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network: Any = runner.alg.get_policy().as_onnx(verbose=False).to("cpu").eval()
    unfinished = folder / "policy.onnx.unfinished"
    try:
        torch.onnx.export(
            network,
            network.get_dummy_inputs(),
            str(unfinished),
            opset_version=18,
            input_names=network.input_names,
            output_names=network.output_names,
            # For any number of robots: mjlab's own export fixes it to one.
            dynamic_axes={name: {0: "num_envs"} for name in (*network.input_names, *network.output_names)},
            dynamo=False,
        )
        card = describe(runner.env.unwrapped, runner.current_learning_iteration)
        # The two belong together: from here on, until both are there, there is no policy.
        (folder / "policy.json").unlink(missing_ok=True)
        os.replace(unfinished, folder / "policy.onnx")
    finally:
        unfinished.unlink(missing_ok=True)
    replace_file(folder / "policy.json", (json.dumps(asdict(card), indent=1) + "\n").encode())


def describe(env: ManagerBasedRlEnv, iterations: int) -> PolicyCard:
    """Everything of the environment that the control loop depends on."""
    command = reference(env)
    action = cast(ResidualJointAction, env.action_manager.get_term(ACTION))
    limits = command.robot.data.joint_pos_limits[0]
    manager = env.observation_manager
    terms = []
    for name, shape in zip(manager.active_terms[GROUP], manager.group_obs_term_dim[GROUP], strict=True):
        offsets = manager.get_term_cfg(GROUP, name).params.get("offsets", ())
        terms.append(ObservationTerm(name, shape[0], tuple(offsets)))
    return PolicyCard(
        iterations=iterations,
        engine=command.engine.manifest.name,
        engine_sha256=command.engine.manifest.source["sha256"],
        fps=command.engine.fps,
        command_ramp_s=command.cfg.command_ramp_s,
        joint_names=tuple(command.engine.joint_names),
        default_dof_pos=tuple(command.robot.data.default_joint_pos[0].tolist()),
        dof_lower=tuple(limits[:, 0].tolist()),
        dof_upper=tuple(limits[:, 1].tolist()),
        action_scale=tuple(action.scale[0].tolist()),  # pyright: ignore[reportIndexIssue]
        lead_s=tuple(action.lead_s.tolist()),
        **_actuators(env, action.target_names),
        observation=tuple(terms),
    )


def _actuators(env: ManagerBasedRlEnv, joint_names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The nominal gains, limits and rotor inertias that the training environment gives the joints."""
    model = env.sim.mj_model
    joints = [model.joint(f"robot/{name}") for name in joint_names]
    driver = {int(joint): actuator for actuator, joint in enumerate(model.actuator_trnid[:, 0])}
    actuators = [driver[joint.id] for joint in joints]
    columns = {
        "kp": model.actuator_gainprm[actuators, 0],
        "kd": -model.actuator_biasprm[actuators, 2],
        "effort_limit": model.actuator_forcerange[actuators, 1],
        "armature": model.dof_armature[[int(joint.dofadr[0]) for joint in joints]],
    }
    return {name: tuple(values.tolist()) for name, values in columns.items()}
