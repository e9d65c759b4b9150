"""The control loop of a robot: velocity command and proprioception in, joint targets out. See docs/deploy.md.

Needs the exported policy, the engine folder, numpy, onnxruntime and the runtime's torch; no simulator and no mjlab.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmg_gym.generator import Generator, single_core_session
from cmg_runtime import EngineError

TILT_LIMIT = math.radians(60.0)
"""rad: of the root from upright. The training ends an episode there: beyond it the policy has learned nothing."""

LATE_LIMIT_S = 0.1
"""s between two steps: five periods, in which the last targets are held."""


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

    What it cannot control, it damps: from a fault on, until :meth:`reset`, :attr:`kp` is 0 and every joint is only
    braked. Faults are an input that is not finite, a direction of gravity that is none, a root that leans by more
    than ``tilt_limit``, steps that come later than :data:`LATE_LIMIT_S`, and a network that gives what is not finite.

    Args:
        policy: folder with ``policy.onnx`` and ``policy.json``.
        engine: the engine folder; its ``cmg_fp32.onnx`` is run.
        tilt_limit: rad.

    Attributes:
        card: what ``policy.json`` says.
        action: [num_joints] the policy's last output.
        fault: None, or in a sentence why joints are damped.
        kp, kd: [num_joints] gains that go with the targets of the last step, N m/rad and N m s/rad.
        late_steps: steps that came more than half a period late, of those that said when.
        ignored_commands: commands that were not finite; the robot was told to stand instead.
        generator_s, policy_s: what the two took in the last step, s.

    Raises:
        EngineError: the engine is not the one that the policy was trained with, or one of the folders is none.
    """

    def __init__(self, policy: str | Path, engine: str | Path, tilt_limit: float = TILT_LIMIT) -> None:
        self.card = card = read_card(policy)
        offsets = {1}.union(*(term.offsets for term in card.observation))
        self._generator = Generator(engine, max(offsets), card.command_ramp_s)
        if self._generator.manifest.source["sha256"] != card.engine_sha256:
            raise EngineError(
                f"the policy was trained with another checkpoint than that of {engine}; "
                f"expected engine {card.engine!r}, checkpoint {card.engine_sha256[:12]}"
            )
        self._policy: Any = single_core_session(str(Path(policy) / "policy.onnx"))
        self._input = self._policy.get_inputs()[0].name
        self._tilt_limit = tilt_limit
        lists = (card.default_dof_pos, card.action_scale, card.lead_s, card.dof_lower, card.dof_upper, card.kp, card.kd)
        arrays = (np.asarray(values, dtype=np.float32) for values in lists)
        self._default, self._scale, self._lead, self._lower, self._upper, self._stiff, self.kd = arrays
        self.reset()

    def reset(self, dof_pos: Any = None, dof_vel: Any = None, command: Any = (0.0, 0.0, 0.0)) -> None:
        """Start the reference from a state of the robot (default: the standing pose, at rest) under a command.

        It ends a fault, and begins to count anew.
        """
        pos = self._default if dof_pos is None else np.asarray(dof_pos, dtype=np.float32)
        vel = np.zeros_like(pos) if dof_vel is None else np.asarray(dof_vel, dtype=np.float32)
        motion, command = np.concatenate([pos, vel]), np.asarray(command, dtype=np.float32)
        if not (np.isfinite(motion).all() and np.isfinite(command).all()):
            raise EngineError("a reset with numbers that are not finite; expected the joints' positions and velocities")
        self._generator.reset(motion, command)
        self.action = np.zeros(len(self._default), dtype=np.float32)
        self.fault: str | None = None
        self.kp = self._stiff
        self.late_steps = self.ignored_commands = 0
        self.generator_s = self.policy_s = 0.0
        self._target = np.clip(pos, self._lower, self._upper)
        self._last_time: float | None = None
        self._fresh = True

    def step(self, command: Any, robot: Proprioception, now: float | None = None) -> np.ndarray:
        """One control step.

        Args:
            command: (vx, vy, yaw rate), m/s, m/s, rad/s, in the robot's heading frame; clamped, and approached
                in a ramp.
            robot: what it feels now.
            now: s, when that was measured, of a clock that only goes forward: with it, late steps are noticed.

        Returns:
            [num_joints] targets of the joints' position controllers for the step that begins, rad; :attr:`kp` and
            :attr:`kd` go with them. In a fault, where the joints are.
        """
        if self.fault is None:
            self.fault = self._late(now) or self._unusable(robot)
        if self.fault is None:
            target = self._follow(self._finite(command), robot)
            if np.isfinite(target).all():
                self._target = target
                return target
            self.fault = "a network's output is not finite"
        self.kp = np.zeros_like(self._stiff)
        measured = np.asarray(robot.dof_pos, dtype=np.float32)
        return np.where(np.isfinite(measured), measured, self._target)

    @property
    def command_in_force(self) -> np.ndarray:
        """[3] the command at the current frame, clamped, on its way to the last one that was given."""
        return self._generator.command_at(0)

    def reference(self, offset: int) -> tuple[np.ndarray, np.ndarray]:
        """[num_joints] joint positions (rad) and velocities (rad/s) of the reference, ``offset`` frames after the
        current one, as far as the policy looks ahead. Views, overwritten by the next step."""
        frame = self._generator.frames[offset]
        return frame[: len(self._default)], frame[len(self._default) :]

    def observe(self, robot: Proprioception) -> np.ndarray:
        """The policy's input, float32."""
        parts = [np.ravel(self._term(term, robot)) for term in self.card.observation]
        for term, part in zip(self.card.observation, parts, strict=True):
            if len(part) != term.width:
                raise EngineError(f"observation {term.name} has {len(part)} numbers; the policy expects {term.width}")
        return np.concatenate(parts).astype(np.float32)

    def _follow(self, command: np.ndarray, robot: Proprioception) -> np.ndarray:
        start = time.perf_counter()
        if self._fresh:
            self._generator.set_command(command)
        else:
            self._generator.step(command)
        self._fresh = False
        generated = time.perf_counter()
        self.action = self._policy.run(None, {self._input: self.observe(robot)[None]})[0][0]
        self.generator_s, self.policy_s = generated - start, time.perf_counter() - generated
        dof_pos, dof_vel = self.reference(1)
        return np.clip(dof_pos + self._lead * dof_vel + self._scale * self.action, self._lower, self._upper)

    def _finite(self, command: Any) -> np.ndarray:
        command = np.asarray(command, dtype=np.float32)
        if np.isfinite(command).all():
            return command
        self.ignored_commands += 1
        return np.zeros_like(command)

    def _late(self, now: float | None) -> str | None:
        last, self._last_time = self._last_time, now
        if now is None or last is None:
            return None
        passed = now - last
        self.late_steps += passed > 1.5 / self.card.fps
        if 0 <= passed <= LATE_LIMIT_S:
            return None
        return f"a step came {passed:.3f} s after the last one; at most {LATE_LIMIT_S:g} s are allowed"

    def _unusable(self, robot: Proprioception) -> str | None:
        for name, values in vars(robot).items():
            if not np.isfinite(values).all():
                return f"{name} is not finite"
        length = float(np.linalg.norm(robot.projected_gravity))
        if abs(length - 1) > 0.1:
            return f"projected_gravity has length {length:.2f}; expected 1"
        tilt = math.acos(max(-1.0, min(1.0, -float(robot.projected_gravity[2]) / length)))
        if tilt > self._tilt_limit:
            return f"the robot leans by {math.degrees(tilt):.0f} degrees; at most {math.degrees(self._tilt_limit):.0f}"
        return None

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
            return self.command_in_force
        if term.name == "reference_dof_pos":
            return self._generator.frames[list(term.offsets), : len(self._default)] - self._default
        if term.name == "reference_dof_vel":
            return self._generator.frames[list(term.offsets), len(self._default) :]
        raise EngineError(
            f"the policy observes {term.name!r}, which is not known here; use the version that exported it"
        )
