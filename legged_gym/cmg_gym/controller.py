"""The control loop of a robot: velocity command and proprioception in, joint targets out.

Needs the exported policy, the engine folder, numpy, torch and onnxruntime; no simulator and no mjlab.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmg_runtime import EngineError, load_engine


@dataclass(frozen=True)
class ObservationTerm:
    """A part of the policy's input: its name, its width, and the reference's offsets if it has some."""

    name: str
    width: int
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class PolicyCard:
    """``policy.json``. Lists are in the order of ``joint_names``.

    Attributes:
        iterations: of learning behind the policy.
        engine, engine_sha256: name of the engine it was trained with, hash of its checkpoint.
        fps: control steps a second.
        command_ramp_s: s in which a command is approached.
        default_dof_pos: rad; positions are observed less these.
        dof_lower, dof_upper: rad; targets are clipped to these.
        action_scale: rad per unit of action.
        lead_s: s; times the reference's joint velocities this is fed forward.
        kp, kd: N m/rad and N m s/rad of the joints' position controllers, as trained with.
        effort_limit: N m; torques are clipped to +- these.
        armature: kg m^2, inertia of the rotors at the joints; for simulations.
        observation: the policy's input, in order.
    """

    iterations: int
    engine: str
    engine_sha256: str
    fps: float
    command_ramp_s: float
    joint_names: tuple[str, ...]
    default_dof_pos: tuple[float, ...]
    dof_lower: tuple[float, ...]
    dof_upper: tuple[float, ...]
    action_scale: tuple[float, ...]
    lead_s: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    effort_limit: tuple[float, ...]
    armature: tuple[float, ...]
    observation: tuple[ObservationTerm, ...]


def read_card(folder: str | Path) -> PolicyCard:
    """``policy.json`` of an exported policy.

    Raises:
        EngineError: there is none, or it is of an older version or another format.
    """
    try:
        fields: dict[str, Any] = json.loads((Path(folder) / "policy.json").read_text())
        terms = tuple(ObservationTerm(t["name"], t["width"], tuple(t["offsets"])) for t in fields.pop("observation"))
        missing = [name for name in ("kp", "kd", "effort_limit", "armature") if name not in fields]
        if missing:
            raise ValueError(f"no {', '.join(missing)}: it is older")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        card = PolicyCard(**lists, observation=terms)
        if not isinstance(card.engine_sha256, str):
            raise ValueError(f"engine_sha256 is {card.engine_sha256}")
        return card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{folder} is no exported policy of this version ({error}); `make train` writes one into its run's folder, "
            "and `python -m cmg_gym.export_checkpoint --policy RUN` another one"
        ) from None


@dataclass(frozen=True)
class Proprioception:
    """What a robot feels; numpy arrays, float.

    Attributes:
        base_ang_vel: [3] angular velocity of the IMU in its own frame, rad/s.
        projected_gravity: [3] direction of gravity in the root's frame, unit length.
        dof_pos, dof_vel: [num_joints] as the encoders read them, rad and rad/s.
    """

    base_ang_vel: np.ndarray
    projected_gravity: np.ndarray
    dof_pos: np.ndarray
    dof_vel: np.ndarray


class Controller:
    """Policy and generator of one robot.

    Args:
        policy: folder with ``policy.onnx`` and ``policy.json``.
        engine: the engine folder.
        backend: of the generator; see :func:`cmg_runtime.load_engine`.

    Attributes:
        card: what ``policy.json`` says.
        action: [num_joints] the policy's last output.

    Raises:
        EngineError: the engine is not the one that the policy was trained with.
    """

    def __init__(self, policy: str | Path, engine: str | Path, backend: str = "auto") -> None:
        import onnxruntime

        self.card = read_card(policy)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._policy = onnxruntime.InferenceSession(
            str(Path(policy) / "policy.onnx"), options, ["CPUExecutionProvider"]
        )
        offsets = {1}.union(*(term.offsets for term in self.card.observation))
        self._engine = load_engine(
            engine, 1, backend=backend, horizon=max(offsets) + 1, command_ramp_s=self.card.command_ramp_s, key_bodies=()
        )
        if self._engine.manifest.source["sha256"] != self.card.engine_sha256:
            raise EngineError(
                f"the policy was trained with another checkpoint than that of {engine}; "
                f"expected engine {self.card.engine!r}, checkpoint {self.card.engine_sha256[:12]}"
            )
        self._default, self._scale, self._lead, self._lower, self._upper = (
            np.asarray(values, dtype=np.float32)
            for values in (
                self.card.default_dof_pos,
                self.card.action_scale,
                self.card.lead_s,
                self.card.dof_lower,
                self.card.dof_upper,
            )
        )
        self._fresh = True
        self.reset()

    def reset(self, dof_pos: Any = None, dof_vel: Any = None, command: Any = (0.0, 0.0, 0.0)) -> None:
        """Start the reference from a state of the robot (default: the standing pose, at rest) under a command."""
        pos = self._default if dof_pos is None else np.asarray(dof_pos, dtype=np.float32)
        vel = np.zeros_like(pos) if dof_vel is None else np.asarray(dof_vel, dtype=np.float32)
        self._engine.reset(motion=np.concatenate([pos, vel]), command=command, command_at_once=True)
        self.action = np.zeros(len(pos), dtype=np.float32)
        self._fresh = True

    def step(self, command: Any, robot: Proprioception) -> np.ndarray:
        """One control step.

        Args:
            command: (vx, vy, yaw rate), m/s, m/s, rad/s, in the robot's heading frame; clamped, and approached
                in a ramp.
            robot: what it feels now.

        Returns:
            [num_joints] targets of the joints' position controllers for the step that begins, rad.
        """
        if not self._fresh:
            self._engine.step()
        self._fresh = False
        self._engine.set_command(command)
        observation = {self._policy.get_inputs()[0].name: self.observe(robot)[None]}
        self.action = np.asarray(self._policy.run(None, observation)[0])[0]
        target = self._engine.future((1,))
        offset = target.dof_pos[0, 0].numpy() + self._lead * target.dof_vel[0, 0].numpy()
        return np.clip(offset + self._scale * self.action, self._lower, self._upper)

    def observe(self, robot: Proprioception) -> np.ndarray:
        """The policy's input, float32."""
        parts = [np.ravel(self._term(term, robot)) for term in self.card.observation]
        for term, part in zip(self.card.observation, parts, strict=True):
            if len(part) != term.width:
                raise EngineError(f"observation {term.name} has {len(part)} numbers; the policy expects {term.width}")
        return np.concatenate(parts).astype(np.float32)

    def _term(self, term: ObservationTerm, robot: Proprioception) -> np.ndarray:
        if term.name == "base_ang_vel":
            return robot.base_ang_vel
        if term.name == "projected_gravity":
            return robot.projected_gravity
        if term.name == "joint_pos":
            return robot.dof_pos - self._default
        if term.name == "joint_vel":
            return robot.dof_vel
        if term.name == "actions":
            return self.action
        if term.name == "command":
            return self._engine.command_in_force[0].numpy()
        if term.name == "reference_dof_pos":
            return self._engine.future(term.offsets).dof_pos[0].numpy() - self._default
        if term.name == "reference_dof_vel":
            return self._engine.future(term.offsets).dof_vel[0].numpy()
        raise EngineError(
            f"the policy observes {term.name!r}, which is not known here; use the version that exported it"
        )
