"""``manifest.json``: what an engine folder holds, and what it was made from.

Written by ``cmg_export``, read and verified here. Every field is described in ``engines/README.md``.
A manifest that breaks one of the rules below cannot be constructed: ``ValueError`` says which.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from cmg_runtime.errors import EngineError
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.folder.typed_json import require, short

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
PRECISIONS = ("fp32", "fp16")
PARITY_STATUSES = ("passed", "failed", "not_run")


@dataclass(frozen=True)
class Sizes:
    """Shapes of the network, read from the checkpoint's tensors."""

    motion_dim: int
    command_dim: int
    num_joints: int
    hidden_dim: int
    gating_hidden_dim: int
    num_experts: int
    num_layers: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            require(1 <= value < 2**31, f"sizes.{name} is {short(value)}; expected at least 1")
        require(
            self.motion_dim == 2 * self.num_joints,
            f"sizes.motion_dim is {self.motion_dim} for {self.num_joints} joints; expected positions and velocities",
        )


@dataclass(frozen=True)
class Stats:
    """Normalisation: motion ``(m - mean) / std``, command min-max to [-1, 1]. rad, rad/s; m/s, m/s, rad/s."""

    motion_mean: Tuple[float, ...]
    motion_std: Tuple[float, ...]
    command_min: Tuple[float, ...]
    command_max: Tuple[float, ...]

    def __post_init__(self) -> None:
        require(all(value > 0 for value in self.motion_std), "stats.motion_std has entries that are not positive")
        require(
            all(low < high for low, high in zip(self.command_min, self.command_max)),
            "stats.command_min is not below stats.command_max in every entry",
        )


@dataclass(frozen=True)
class CommandRange:
    """Commands are clamped to [min, max]. ``source`` is "stats" or "card"."""

    min: Tuple[float, ...]
    max: Tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        require(
            all(low <= high for low, high in zip(self.min, self.max)), "command_range.min is above command_range.max"
        )


@dataclass(frozen=True)
class FileEntry:
    """A file of the folder and the SHA-256 of its bytes."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        _check_file(self.file, self.sha256)


@dataclass(frozen=True)
class Artifact:
    """One compiled form of the network.

    Attributes:
        name: unique in the folder, "<backend>_<precision>".
        backend: the runtime backend that runs it, by its name.
        precision: "fp32" or "fp16": of the operands of the matrix products. Inputs and outputs are float32.
        file, sha256: the file and its hash. None when the artifact failed parity and was withheld.
        target: where it runs: free-form, e.g. {"device": "any"} or {"compute_capability": ["8.6", "8.9"]}.
        tools: name -> version of what made it.
        parity: {"status": "passed" | "failed" | "not_run", "reason": str, ...figures}.
    """

    name: str
    backend: str
    precision: str
    file: Optional[str]
    sha256: Optional[str]
    target: Dict[str, Any] = field(default_factory=dict)
    tools: Dict[str, str] = field(default_factory=dict)
    parity: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None or self.sha256 is not None:
            _check_file(self.file, self.sha256)
        require(
            self.precision in PRECISIONS,
            f"artifact {short(self.name)} has precision {short(self.precision)}; expected {' or '.join(PRECISIONS)}",
        )
        require(
            self.parity_status in PARITY_STATUSES,
            f"artifact {short(self.name)} has parity status {short(self.parity_status)}; "
            f"expected {', '.join(PARITY_STATUSES)}",
        )

    @property
    def parity_status(self) -> str:
        """ "passed", "failed" or "not_run"."""
        return self.parity.get("status", "not_run")

    @property
    def usable(self) -> bool:
        """Whether the artifact is there and did not fail parity."""
        return self.file is not None and self.parity_status != "failed"


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime needs to know about an engine folder: engines/README.md describes each field."""

    name: str
    source: Dict[str, Any]
    sizes: Sizes
    fps: float
    joint_names: Tuple[str, ...]
    default_dof_pos: Optional[Tuple[float, ...]]
    stats: Stats
    command_range: CommandRange
    robot: Optional[KinematicChain]
    bank: FileEntry
    artifacts: Tuple[Artifact, ...]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        require(self.fps > 0, f"fps is {self.fps!r}; expected a positive number")
        joints, motion, command = self.sizes.num_joints, self.sizes.motion_dim, self.sizes.command_dim
        _check_lengths(
            [
                ("joint_names", self.joint_names, joints),
                ("default_dof_pos", self.default_dof_pos, joints),
                ("stats.motion_mean", self.stats.motion_mean, motion),
                ("stats.motion_std", self.stats.motion_std, motion),
                ("stats.command_min", self.stats.command_min, command),
                ("stats.command_max", self.stats.command_max, command),
                ("command_range.min", self.command_range.min, command),
                ("command_range.max", self.command_range.max, command),
            ]
        )
        require(len(set(self.joint_names)) == joints, "joint_names has the same name twice")
        names = [artifact.name for artifact in self.artifacts]
        require(len(set(names)) == len(names), "artifacts has the same name twice")
        if self.robot is not None:
            _check_robot(self.robot, joints)

    def to_json(self) -> str:
        """The file's text: keys in a fixed order, no times or paths, so equal content is equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Parse the file's text.

        Raises:
            EngineError: not JSON, another schema version, or fields missing, unknown, of the wrong kind or
                in disagreement with each other.
        """
        try:
            data = typed_json.loads(text)
            version = data.get("schema_version") if isinstance(data, dict) else None
            if version != SCHEMA_VERSION:
                raise EngineError(
                    f"manifest has schema version {short(version)}, this runtime reads {SCHEMA_VERSION}; "
                    "rebuild the engine folder with this version"
                )
            return typed_json.parse(Manifest, data, "manifest")
        except ValueError as error:
            raise EngineError(f"manifest is malformed ({error}); rebuild the engine folder") from None


def _check_file(file: Any, sha256: Any) -> None:
    plain = isinstance(file, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", file)
    require(bool(plain), f"file name {short(file)}; expected a plain name inside the folder")
    hexadecimal = isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)
    require(bool(hexadecimal), f"sha256 of {file} is {short(sha256)}; expected 64 hex digits")


def _check_lengths(fields: list[tuple[str, Sequence[Any] | None, int]]) -> None:
    for name, values, length in fields:
        if values is not None:
            require(len(values) == length, f"{name} has {len(values)} entries; expected {length}")


def _check_robot(robot: KinematicChain, num_joints: int) -> None:
    bodies, soles = len(robot.body_names), len(robot.sole_bodies)
    require(bodies > 0, "robot has no bodies")
    per_body = ("body_parents", "body_pos", "body_quat", "body_joints", "joint_axes", "joint_anchors")
    _check_lengths(
        [("robot." + name, getattr(robot, name), bodies) for name in per_body]
        + [("robot.joint_lower", robot.joint_lower, num_joints), ("robot.joint_upper", robot.joint_upper, num_joints)]
        + [("robot.sole_points", robot.sole_points, soles), ("robot.sole_radii", robot.sole_radii, soles)]
    )
    widths = (("body_pos", 3), ("body_quat", 4), ("joint_axes", 3), ("joint_anchors", 3), ("sole_points", 3))
    for name, width in widths:
        _check_lengths([(f"an entry of robot.{name}", row, width) for row in getattr(robot, name)])
    ordered = robot.body_parents[0] == -1 and all(0 <= p < b for b, p in enumerate(robot.body_parents) if b > 0)
    require(ordered, "robot.body_parents is not a tree; expected -1, then bodies that come before")
    require(all(-1 <= j < num_joints for j in robot.body_joints), "robot.body_joints names a joint that is not there")
    require(all(0 <= b < bodies for b in robot.sole_bodies), "robot.sole_bodies names a body that is not there")
    require(all(any(quat) for quat in robot.body_quat), "robot.body_quat has a zero quaternion")
    require(
        all(low <= high for low, high in zip(robot.joint_lower, robot.joint_upper)),
        "robot.joint_lower is above robot.joint_upper",
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: str | Path) -> Manifest:
    """Read ``folder/manifest.json``.

    Raises:
        EngineError: no such folder or file, or a malformed manifest.
    """
    path = Path(folder) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise EngineError(
            f"cannot read {path} ({reason}); expected an engine folder, build one with `make engine`"
        ) from None
    return Manifest.from_json(text)


def read_verified(folder: Path, entry: Artifact | FileEntry) -> bytes:
    """The bytes of a manifest's file, read once, so that what was hashed is what is used.

    Raises:
        EngineError: the file was withheld, cannot be read, or differs from the manifest's hash.
    """
    if entry.file is None:
        raise EngineError("an artifact that failed parity has no file; rebuild the engine folder or choose another")
    path = Path(folder) / entry.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"cannot read {path} ({error.strerror}); the manifest lists it, rebuild the engine folder"
        ) from None
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise EngineError(f"{path} does not match the hash in its manifest; rebuild the engine folder")
    return content
