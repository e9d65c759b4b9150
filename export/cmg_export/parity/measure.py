"""Run one artifact on the parity inputs and take the difference from the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cmg_export.errors import ParityError
from cmg_export.parity.report import JointErrors, OneStep, RolloutError
from cmg_export.parity.states import Inputs
from cmg_export.parity.truth import Course, Truth, free_run
from cmg_runtime.backends import Backend
from cmg_runtime.errors import first_line

BATCH = 4096
"""Environments that an artifact is given at once, at most: as many as a training run usually has."""


class ArtifactFault(Exception):
    """An artifact gave something that cannot be compared; the message says what."""


@dataclass(frozen=True)
class Errors:
    """An artifact less the reference, float64, physical units.

    Attributes:
        step: [8192, motion_dim], one step from the states of the inputs.
        short: [100, n, num_joints], absolute joint position errors of the rollouts, rad. Left out are environments
            whose reference diverges and, for a checkpoint that is not stable, those whose own output overflows.
        long: [500, m, num_joints], the same of the long ones.
    """

    step: torch.Tensor
    short: torch.Tensor
    long: torch.Tensor


def measure(backend: Backend, device: torch.device, course: Course, reference: Callable[[], Inputs]) -> Errors:
    """Run the artifact that ``backend`` has loaded: the rollouts, then one step from every state.

    Args:
        course: of the rollouts.
        reference: gives the inputs, whose course is the same; it may wait for them, and is called after the rollouts.

    Raises:
        ArtifactFault: it raised, or its output has the wrong shape, was not written or is not finite.
    """
    runner = _Runner(backend, device)
    short, long = free_run(runner, course.start, course.commands)
    inputs = reference()
    states, rollouts = inputs.states, inputs.rollouts
    output = runner(states.motion, states.command)
    bad = int((~torch.isfinite(output)).any(1).sum())
    if bad:
        raise ArtifactFault(f"one step: {bad} of {len(output)} outputs are not finite or not written")
    return Errors(
        step=output.to(torch.float64) - states.next_motion,
        short=_position_error(short, rollouts.short, rollouts.short_kept, inputs.stability.stable),
        long=_position_error(long, rollouts.long, rollouts.long_kept, inputs.stability.stable),
    )


class _Runner:
    """A backend as a function from float32 tensors on the CPU to a new one. It trusts nothing that is written."""

    def __init__(self, backend: Backend, device: torch.device) -> None:
        self._backend = backend
        self._device = device

    def __call__(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        # Copies, so that an artifact which writes into its inputs spoils nobody else's.
        pairs = zip(motion.split(BATCH), command.split(BATCH), strict=True)
        parts = [self._step(m.to(self._device, copy=True), c.to(self._device, copy=True)) for m, c in pairs]
        return torch.cat(parts).to(motion.device)

    def _step(self, motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(motion, float("nan"))  # so that a value which is not written is seen
        try:
            self._backend.step(motion, command, out)
        except Exception as error:  # whatever a broken artifact raises is that artifact's failure, not this run's
            raise ArtifactFault(f"step raised {type(error).__name__}: {first_line(error)}") from None
        if out.shape != motion.shape or out.dtype != torch.float32:
            raise ArtifactFault(f"output is {out.dtype} {list(out.shape)}; expected float32 {list(motion.shape)}")
        return out


def _position_error(output: torch.Tensor, expected: torch.Tensor, kept: torch.Tensor, stable: bool) -> torch.Tensor:
    """Absolute joint position errors [T, n, num_joints] of the environments to compare."""
    output, expected = output[:, kept], expected[:, kept]
    finite = torch.isfinite(output).all(2).all(0)
    bad = int((~finite).sum())
    if bad and stable:
        raise ArtifactFault(f"{len(output)} frames: outputs of {bad} of {len(finite)} environments are not finite")
    joints = output.shape[2] // 2
    # Where nothing is stable, an artifact may leave the reference's path and overflow without being wrong.
    return (output[:, finite, :joints].to(torch.float64) - expected[:, finite, :joints]).abs()


def one_step(errors: Errors, truth: Truth, inputs: Inputs, joint_names: Sequence[str]) -> OneStep:
    """The figures of the teacher-forced step.

    Raises:
        ParityError: all of the reference's answers are zero in normalised units, so there is nothing to be relative to.
    """
    error, expected = errors.step / truth.motion_std, truth.normalise(inputs.states.next_motion)
    size = expected.norm(dim=1)
    answered = size > 0  # without biases, the one state whose inputs are all 0 is answered with 0
    if not bool(answered.any()):
        raise ParityError(
            f"the reference answers each of {len(size)} states with exactly its mean pose; expected a checkpoint with "
            "trained weights"
        )
    largest, joint = errors.step.abs().amax(0).reshape(2, -1).max(1)  # positions, velocities
    return OneStep(
        relative=float(error.norm() / expected.norm()),
        worst_row=float((error.norm(dim=1) / size)[answered].max()),
        max_rad=float(largest[0]),
        max_rad_joint=joint_names[int(joint[0])],
        max_rad_s=float(largest[1]),
        max_rad_s_joint=joint_names[int(joint[1])],
    )


def rollout_errors(errors: Errors, joint_names: Sequence[str]) -> tuple[RolloutError, ...]:
    """The figures of the 100-frame and the 500-frame rollouts; none for those that have no environment left."""
    return tuple(_rollout_error(error, joint_names) for error in (errors.short, errors.long) if error.shape[1])


def _rollout_error(error: torch.Tensor, joint_names: Sequence[str]) -> RolloutError:
    worst_frame = error.amax(0)  # [environments, joints]
    worst = worst_frame.amax(1)
    return RolloutError(
        frames=len(error),
        num_envs=len(worst),
        mean=float(error.mean()),
        median=float(worst.quantile(0.5)),
        p99=float(worst.quantile(0.99)),
        max=float(worst.max()),
        max_joint=joint_names[int(worst_frame.amax(0).argmax())],
    )


def per_joint(errors: Errors, joint_names: Sequence[str]) -> tuple[JointErrors, ...]:
    """The figures of each joint."""
    step = errors.step.abs().amax(0).reshape(2, -1)
    columns: list[list[float] | list[None]] = [step[0].tolist(), step[1].tolist()]
    for error in (errors.short, errors.long):
        worst = error.amax(0)  # [environments, joints]
        none: list[None] = [None] * len(joint_names)
        columns += [worst.quantile(0.5, dim=0).tolist(), worst.amax(0).tolist()] if len(worst) else [none, none]
    return tuple(JointErrors(name, *figures) for name, *figures in zip(joint_names, *columns, strict=True))
