"""The action term: joint targets are the reference plus a scaled residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mjlab.envs.mdp.actions import JointPositionAction, JointPositionActionCfg

from cmg_gym.mdp.reference_command import ReferenceCommand

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv


@dataclass(kw_only=True)
class ResidualJointActionCfg(JointPositionActionCfg):
    """Configuration of :class:`ResidualJointAction`."""

    command_name: str
    feed_forward: float = 1.0
    """Share of the reference's joint velocity that the actuators' damping does not brake, 0..1."""
    use_default_offset: bool = False

    def build(self, env: ManagerBasedRlEnv) -> ResidualJointAction:
        return ResidualJointAction(self, env)


class ResidualJointAction(JointPositionAction):
    """Joint position targets (rad) for the control step that begins:

        target = clip(q_ref + feed_forward * (kd / kp) * dq_ref + scale * action, joint limits)

    with ``q_ref``, ``dq_ref`` the reference's target frame. The actuators' torque is ``kp (target - q) - kd dq``, so
    the second term turns their braking ``-kd dq`` into ``kd (dq_ref - dq)``: zero action then follows the reference's
    velocities too, where it would otherwise lag by kd / kp (64 ms on this G1, more than three frames).

    Attributes:
        lead_s: [num_joints] ``feed_forward * kd / kp`` of the nominal gains, s.
    """

    cfg: ResidualJointActionCfg

    def __init__(self, cfg: ResidualJointActionCfg, env: ManagerBasedRlEnv) -> None:
        super().__init__(cfg, env)
        command = env.command_manager.get_term(cfg.command_name)
        assert isinstance(command, ReferenceCommand)
        if self.target_names != list(command.engine.joint_names):
            raise ValueError(f"the actuators drive {self.target_names}; expected {list(command.engine.joint_names)}")
        self._command = command
        self.lead_s = cfg.feed_forward * self._damping_over_stiffness(env)
        self._limits = self._entity.data.joint_pos_limits[:, self._target_ids].unbind(dim=-1)

    def process_actions(self, actions: torch.Tensor) -> None:
        target = self._command.target
        self._offset = target.dof_pos + self.lead_s * target.dof_vel
        super().process_actions(actions)
        self._processed_actions = self._processed_actions.clamp(*self._limits)

    def _damping_over_stiffness(self, env: ManagerBasedRlEnv) -> torch.Tensor:
        model = env.sim.mj_model
        joint_ids = [model.joint(f"{self.cfg.entity_name}/{name}").id for name in self.target_names]
        by_joint = {int(joint): index for index, joint in enumerate(model.actuator_trnid[:, 0])}
        actuators = [by_joint[joint_id] for joint_id in joint_ids]
        ratio = -model.actuator_biasprm[actuators, 2] / model.actuator_gainprm[actuators, 0]
        return torch.tensor(ratio, dtype=torch.float32, device=self.device)
