"""The control loop of a robot: velocity command and proprioception in, joint targets out. See docs/deploy.md.

Needs the exported policy, the engine folder, numpy, onnxruntime and the runtime's torch; no simulator and no mjlab.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmg_gym.generator import Generator, single_core_session
from cmg_gym.policy_card import ObservationTerm, read_card
from cmg_runtime import EngineError
from cmg_runtime.folder.limits import HIGHEST_VELOCITY_LIMIT

TILT_LIMIT = math.radians(60.0)
"""rad: of the root from upright. The training ends an episode there: beyond it the policy has learned nothing."""

LATE_LIMIT_S = 0.1
"""s between two steps: five periods, in which the last targets are held."""


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
    than ``tilt_limit``, steps that come later than :data:`LATE_LIMIT_S`, and a network that gives what is not finite
    or what no joint can do.

    Args:
        policy: folder with ``policy.onnx`` and ``policy.json``.
        engine: the engine folder; its ``cmg_fp32.onnx`` is run.
        tilt_limit: rad.

    Attributes:
        card: what ``policy.json`` says.
        action: [num_joints] the policy's last output.
        fault: None, or in a sentence why joints are damped.
        command_range: (min, max) of commands, m/s, m/s, rad/s.
        kp, kd: [num_joints] gains that go with the targets of the last step, N m/rad and N m s/rad; read-only.
        late_steps: steps that came more than half a period late, of those that said when.
        ignored_commands: commands that were not finite; the robot was told to stand instead.
        generator_s, policy_s: what the two took in the last step, s, without what was prepared.

    Raises:
        EngineError: the engine is not the one that the policy was trained with, one of the folders is none, or its
            network does not run here.
    """

    def __init__(self, policy: str | Path, engine: str | Path, tilt_limit: float = TILT_LIMIT) -> None:
        self.card = card = read_card(policy)
        offsets = {1}.union(*(term.offsets for term in card.observation))
        self._generator = Generator(engine, max(offsets), card.command_ramp_s)
        self._require_generator(engine)
        self.command_range = self._generator.command_range
        self._policy: Any = single_core_session(_read_policy(Path(policy)), f"{policy}/policy.onnx")
        self._input = self._policy.get_inputs()[0].name
        self._tilt_limit = tilt_limit
        lists = (card.default_dof_pos, card.action_scale, card.lead_s, card.dof_lower, card.dof_upper, card.kp, card.kd)
        arrays = (_constant(values) for values in lists)
        self._default, self._scale, self._lead, self._lower, self._upper, self._stiff, self.kd = arrays
        self._none = _constant(np.zeros_like(self._stiff))
        self.reset()
        self._require_policy(policy)

    def reset(self, dof_pos: Any = None, dof_vel: Any = None, command: Any = (0.0, 0.0, 0.0)) -> None:
        """Start the reference from a state of the robot (default: the standing pose, at rest) under a command.

        It ends a fault, and begins to count anew.

        Raises:
            EngineError: an argument of another length, or one that is not finite. Nothing has changed then.
        """
        num_joints = len(self._default)
        pos = self._default if dof_pos is None else _numbers("dof_pos", dof_pos, num_joints)
        vel = np.zeros_like(pos) if dof_vel is None else _numbers("dof_vel", dof_vel, num_joints)
        motion, command = np.concatenate([pos, vel]), _numbers("command", command, len(self.command_in_force))
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
        self._advanced = True

    def prepare(self, command: Any) -> None:
        """Do the generator's part of the next step now: most of its work, and nothing that waits for the robot.

        The step may get another command than this: that is then a new one, from the same frame on. From here on,
        :meth:`reference` and :attr:`command_in_force` are those of the next step. In a fault, and of a command that is
        not finite, nothing is prepared.

        Raises:
            EngineError: a command of another length. Nothing has changed then.
        """
        command = _numbers("command", command, len(self.command_in_force))
        if self.fault is None and np.isfinite(command).all():
            self._advance(command)

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

        Raises:
            EngineError: an input of another length. Nothing has changed then, and the step may be taken again.
        """
        robot = self._of_right_length(robot)
        command = _numbers("command", command, len(self.command_in_force))
        if self.fault is None:
            self.fault = self._late(now) or self._unusable(robot)
        if self.fault is None:
            target = self._follow(self._finite(command), robot)
            self.fault = self._impossible(target)
            if self.fault is None:
                self._target = np.clip(target, self._lower, self._upper)
                return self._target
        self.kp = self._none
        return np.where(np.isfinite(robot.dof_pos), robot.dof_pos, self._target)

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
        return np.concatenate([np.ravel(self._term(term, robot)) for term in self.card.observation], dtype=np.float32)

    def _of_right_length(self, robot: Proprioception) -> Proprioception:
        num_joints = len(self._default)
        return Proprioception(
            _numbers("base_ang_vel", robot.base_ang_vel, 3),
            _numbers("projected_gravity", robot.projected_gravity, 3),
            _numbers("dof_pos", robot.dof_pos, num_joints),
            _numbers("dof_vel", robot.dof_vel, num_joints),
        )

    def _require_generator(self, engine: str | Path) -> None:
        card, manifest = self.card, self._generator.manifest
        if manifest.source["sha256"] != card.engine_sha256:
            raise EngineError(
                f"the policy was trained with another checkpoint than that of {engine}; "
                f"expected engine {card.engine!r}, checkpoint {card.engine_sha256[:12]}"
            )
        if (tuple(manifest.joint_names), manifest.fps) != (card.joint_names, card.fps):
            raise EngineError(
                f"the joints of {engine}, their order or its {manifest.fps:g} frames a second are not the policy's; "
                f"expected {card.joint_names[0]} .. {card.joint_names[-1]} as in its policy.json, at {card.fps:g}"
            )

    def _require_policy(self, policy: str | Path) -> None:
        """What would otherwise be found in the first step, on the robot."""
        standing = Proprioception(np.zeros(3), np.zeros(3), self._default, np.zeros_like(self._default))
        for term in self.card.observation:
            if (count := np.size(self._term(term, standing))) != term.width:
                raise EngineError(f"observation {term.name} has {count} numbers; the policy expects {term.width}")
        shapes = [values[0].shape[-1] for values in (self._policy.get_inputs(), self._policy.get_outputs())]
        expected = [sum(term.width for term in self.card.observation), len(self.card.joint_names)]
        if shapes != expected:
            raise EngineError(
                f"{policy}/policy.onnx takes {shapes[0]} numbers and gives {shapes[1]}; by its policy.json "
                f"expected {expected[0]} and {expected[1]}: export the policy again"
            )

    def _follow(self, command: np.ndarray, robot: Proprioception) -> np.ndarray:
        start = time.perf_counter()
        self._advance(command)
        self._advanced = False
        generated = time.perf_counter()
        self.action = self._policy.run(None, {self._input: self.observe(robot)[None]})[0][0]
        self.generator_s, self.policy_s = generated - start, time.perf_counter() - generated
        dof_pos, dof_vel = self.reference(1)
        return dof_pos + self._lead * dof_vel + self._scale * self.action

    def _advance(self, command: np.ndarray) -> None:
        """One frame on, once in a step, and to its command."""
        advance = self._generator.set_command if self._advanced else self._generator.step
        advance(command)
        self._advanced = True

    def _finite(self, command: np.ndarray) -> np.ndarray:
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

    def _impossible(self, target: np.ndarray) -> str | None:
        if not np.isfinite(target).all():
            return "a network's output is not finite"
        most = float(np.abs(self._generator.frames[1]).max())
        if most > HIGHEST_VELOCITY_LIMIT:  # no position is as large either
            return f"the generator gives {most:.0f} rad or rad/s; at most {HIGHEST_VELOCITY_LIMIT:.0f} are possible"
        return None

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


def _numbers(name: str, values: Any, count: int) -> np.ndarray:
    """[count] float32; of any other shape NumPy would make something, or raise after the reference has moved on."""
    array = np.asarray(values, dtype=np.float32)
    if array.shape != (count,):
        raise EngineError(f"{name} has shape {list(array.shape)}; expected {count} numbers")
    return array


def _constant(values: Any) -> np.ndarray:
    """float32, read-only: what is handed out is not to be changed for good."""
    array = np.array(values, dtype=np.float32)
    array.flags.writeable = False
    return array


def _read_policy(folder: Path) -> bytes:
    try:
        return (folder / "policy.onnx").read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read {folder}/policy.onnx ({error.strerror}); export the policy again") from None
