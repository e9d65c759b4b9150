"""What parity found: the figures, the verdict on each artifact, the table and ``parity.json``."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

from cmg_export.errors import ParityError
from cmg_export.parity.states import Stability
from cmg_export.reporting import WIDTH, centred, row, widest, wrapped

FILE_NAME = "parity.json"


@dataclass(frozen=True)
class OneStep:
    """Errors of one teacher-forced step.

    Attributes:
        relative: ``||a - b|| / ||b||`` over all states, normalised units.
        worst_row: the largest such ratio of a single state.
        max_rad, max_rad_joint: largest absolute error of a joint position, rad, and the joint that has it.
        max_rad_s, max_rad_s_joint: the same of the joint velocities, rad/s.
    """

    relative: float
    worst_row: float
    max_rad: float
    max_rad_joint: str
    max_rad_s: float
    max_rad_s_joint: str


@dataclass(frozen=True)
class RolloutError:
    """Errors of free-running rollouts in joint positions, rad.

    ``median``, ``p99`` and ``max`` are over environments, of each one's worst joint at its worst frame.

    Attributes:
        frames: length of the rollouts.
        num_envs: environments compared: those whose reference did not diverge and, for a checkpoint that is not
            stable, whose own rollout stayed finite.
        mean: over environments, frames and joints.
        max_joint: the joint that has ``max``.
    """

    frames: int
    num_envs: int
    mean: float
    median: float
    p99: float
    max: float
    max_joint: str


@dataclass(frozen=True)
class Gate:
    """One condition on an artifact.

    Attributes:
        name: "one_step_relative", or "rollout_100_median_rad".
        needs: the smallest tolerance that would have passed, which is what was measured.
        allowed: the tolerance.
        gated: False where the figure is reported only.
    """

    name: str
    needs: float
    allowed: float
    gated: bool

    @property
    def passed(self) -> bool:
        """Whether the figure is within the tolerance, or does not count."""
        return not self.gated or self.needs <= self.allowed


@dataclass(frozen=True)
class JointErrors:
    """Errors of one joint: largest of one step; over environments, of each one's worst frame of a rollout."""

    joint: str
    one_step_rad: float
    one_step_rad_s: float
    rollout_100_median_rad: float | None
    rollout_100_max_rad: float | None
    rollout_500_median_rad: float | None
    rollout_500_max_rad: float | None


@dataclass(frozen=True)
class ArtifactParity:
    """The verdict on one artifact.

    Attributes:
        name, precision: of the artifact.
        status: "passed", "failed" or "not_run".
        reason: why it failed or did not run; for a passed one, which figure was not gated and why, or "".
        one_step: None where nothing could be measured.
        rollouts: of 100 and of 500 frames; fewer where there was nothing to compare with.
        gates: one per tolerance.
        per_joint: one per joint; none where nothing could be measured.
    """

    name: str
    precision: str
    status: str
    reason: str
    one_step: OneStep | None = None
    rollouts: tuple[RolloutError, ...] = ()
    gates: tuple[Gate, ...] = ()
    per_joint: tuple[JointErrors, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The artifact's ``parity`` entry in ``manifest.json``."""
        figures: dict[str, Any] = {"status": self.status, "reason": self.reason}
        if self.one_step is not None:
            figures["one_step_rad"] = self.one_step.max_rad
            figures["one_step_rad_s"] = self.one_step.max_rad_s
        for gate in self.gates:
            figures[gate.name] = gate.needs
            figures[gate.name + "_allowed"] = gate.allowed if gate.gated else None
        for rollout in self.rollouts:
            figures[f"rollout_{rollout.frames}_max_rad"] = rollout.max
        return figures


@dataclass(frozen=True)
class ParityReport:
    """Everything that one run of parity found.

    Attributes:
        engine: the manifest's name.
        source_sha256: of the checkpoint that the engine was made from.
        device: where the artifacts ran, e.g. "cpu" or "cuda: NVIDIA H100".
        versions: of the libraries that ran them.
        seed: of states and commands.
        num_visited, num_random: states of the one step by origin.
        stability: of the reference's own rollouts.
        artifacts: in the manifest's order.
    """

    engine: str
    source_sha256: str
    device: str
    versions: dict[str, str]
    seed: int
    num_visited: int
    num_random: int
    stability: Stability
    artifacts: tuple[ArtifactParity, ...]

    @property
    def passed(self) -> bool:
        """Whether something was measured and nothing failed."""
        statuses = [artifact.status for artifact in self.artifacts]
        return "passed" in statuses and "failed" not in statuses

    def to_json(self) -> str:
        """The text of ``parity.json``: no times or paths, so equal results are equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> ParityReport:
        """Parse the text of ``parity.json``.

        Raises:
            ParityError: it is not what :meth:`to_json` writes.
        """
        try:
            data = json.loads(text)
            artifacts = tuple(_artifact(item) for item in data.pop("artifacts"))
            return ParityReport(stability=Stability(**data.pop("stability")), artifacts=artifacts, **data)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ParityError(f"{FILE_NAME} is malformed; run parity again with `make parity`") from None


def _artifact(data: dict[str, Any]) -> ArtifactParity:
    one_step = data.pop("one_step")
    return ArtifactParity(
        one_step=None if one_step is None else OneStep(**one_step),
        rollouts=tuple(RolloutError(**item) for item in data.pop("rollouts")),
        gates=tuple(Gate(**item) for item in data.pop("gates")),
        per_joint=tuple(JointErrors(**item) for item in data.pop("per_joint")),
        **data,
    )


def read_report(folder: str | Path) -> ParityReport:
    """The report in an engine folder.

    Raises:
        ParityError: there is none, or it is malformed.
    """
    try:
        text = (Path(folder) / FILE_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ParityError(f"{Path(folder) / FILE_NAME} cannot be read; run parity with `make parity`") from None
    return ParityReport.from_json(text)


def format_table(report: ParityReport, with_joints: bool = False) -> str:
    """The report as plain text, at most 120 columns wide: errors, then tolerances, then joints if asked for."""
    states = f"{report.num_visited} visited + {report.num_random} random states"
    head = f"Parity of {report.engine} with the float64 reference: {report.device}, seed {report.seed}, {states}"
    blocks = [[*wrapped(head), *_error_lines(report)], _gate_lines(report)]
    if with_joints:
        blocks += [_joint_lines(artifact) for artifact in report.artifacts if artifact.per_joint]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def _error_lines(report: ParityReport) -> list[str]:
    size = widest([artifact.name for artifact in report.artifacts], "artifact")
    lines = [
        " " * size + centred("one step", 4) + centred("100 frames, rad", 3) + centred("500 frames, rad", 3),
        "artifact".ljust(size)
        + row(["relative", "row max", "rad", "rad/s", "median", "99 %", "max", "median", "99 %", "max"]),
    ]
    for artifact in report.artifacts:
        if (step := artifact.one_step) is None:
            continue  # nothing was measured; the lines below say why
        cells = [f"{x:.1e}" for x in (step.relative, step.worst_row, step.max_rad, step.max_rad_s)] + ["-"] * 6
        for rollout in artifact.rollouts:
            place = 4 if rollout.frames == 100 else 7
            cells[place : place + 3] = [f"{x:.1e}" for x in (rollout.median, rollout.p99, rollout.max)]
        lines.append(artifact.name.ljust(size) + row(cells))
    return lines


def _gate_lines(report: ParityReport) -> list[str]:
    size = widest([artifact.name for artifact in report.artifacts], "artifact")
    lines = [
        " " * size + centred("one step, relative", 2) + centred("100 fr. median, rad", 2),
        "artifact".ljust(size) + row(["needs", "allowed", "needs", "allowed"]) + "  result",
    ]
    for artifact in report.artifacts:
        cells = ["-"] * 4
        for place, gate in zip((0, 2), artifact.gates, strict=False):  # a failed artifact may have fewer gates
            cells[place : place + 2] = [round_up(gate.needs), f"{gate.allowed:.1e}" if gate.gated else "-"]
        result = {"passed": "PASS", "failed": "FAIL", "not_run": "not run"}[artifact.status]
        lead = artifact.name.ljust(size) + row(cells) + "  "
        text = result if artifact.status == "passed" else f"{result}: {artifact.reason}"
        lines += textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))
    if report.stability.reason:
        lines += ["", *wrapped(f"100 frames are reported, not gated: {report.stability.reason}.")]
    return lines


def _joint_lines(artifact: ArtifactParity) -> list[str]:
    size = widest([joint.joint for joint in artifact.per_joint], artifact.name)
    lines = [
        " " * size + centred("one step", 2) + centred("100 frames, rad", 2) + centred("500 frames, rad", 2),
        artifact.name.ljust(size) + row(["rad", "rad/s", "median", "max", "median", "max"]),
    ]
    for joint in artifact.per_joint:
        figures = [value for name, value in dataclasses.asdict(joint).items() if name != "joint"]
        lines.append(joint.joint.ljust(size) + row(["-" if value is None else f"{value:.1e}" for value in figures]))
    return lines


def round_up(value: float) -> str:
    """Two significant digits, never below the value: as a tolerance, it passes."""
    return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value))):.1e}"
