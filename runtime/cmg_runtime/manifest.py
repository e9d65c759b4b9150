"""``manifest.json``: what an engine folder holds, and what it was made from.

Written by ``cmg_export``, read and verified here. Every field is described in ``engines/README.md``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from cmg_runtime.errors import EngineError
from cmg_runtime.kinematics import KinematicChain

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


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


@dataclass(frozen=True)
class Stats:
    """Normalisation: motion ``(m - mean) / std``, command min-max to [-1, 1]. rad, rad/s; m/s, m/s, rad/s."""

    motion_mean: Tuple[float, ...]
    motion_std: Tuple[float, ...]
    command_min: Tuple[float, ...]
    command_max: Tuple[float, ...]


@dataclass(frozen=True)
class CommandRange:
    """Commands are clamped to [min, max]. ``source`` is "stats" or "card"."""

    min: Tuple[float, ...]
    max: Tuple[float, ...]
    source: str


@dataclass(frozen=True)
class FileEntry:
    """A file of the folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """One compiled form of the network.

    Attributes:
        name: unique in the folder, "<backend>_<precision>".
        backend: the runtime backend that runs it ("torch", "torchscript", "onnx", "trt").
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

    @property
    def usable(self) -> bool:
        """Whether the artifact is there and did not fail parity."""
        return self.file is not None and self.parity.get("status") != "failed"


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime needs to know about an engine folder."""

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

    def to_json(self) -> str:
        """The file's text: keys in a fixed order, no times or paths, so equal content is equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Parse the file's text.

        Raises:
            EngineError: not JSON, another schema version, or fields missing, unknown or of the wrong kind.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise EngineError("manifest is not JSON (%s); rebuild the engine folder" % error) from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise EngineError(
                "manifest has schema version %s, this runtime reads %d; rebuild the engine folder with this version"
                % (version, SCHEMA_VERSION)
            )
        try:
            return _build(Manifest, data)
        except (TypeError, KeyError, ValueError) as error:
            raise EngineError("manifest is malformed (%s); rebuild the engine folder" % error) from None


_NESTED = {
    ("Manifest", "sizes"): Sizes,
    ("Manifest", "stats"): Stats,
    ("Manifest", "command_range"): CommandRange,
    ("Manifest", "robot"): KinematicChain,
    ("Manifest", "bank"): FileEntry,
}


def _build(cls: Any, data: Dict[str, Any]) -> Any:
    """A frozen dataclass from parsed JSON; lists become tuples. Missing or unknown fields raise ``TypeError``."""
    values = {}
    for key, value in data.items():
        nested = _NESTED.get((cls.__name__, key))
        if nested is not None and value is not None:
            value = _build(nested, value)
        elif cls is Manifest and key == "artifacts":
            value = tuple(_build(Artifact, item) for item in value)
        elif isinstance(value, list):
            value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        values[key] = value
    return cls(**values)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read ``folder/manifest.json``.

    Raises:
        EngineError: no such folder or file, or a malformed manifest.
    """
    path = Path(folder) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(
            "cannot read %s (%s); expected an engine folder, build one with `make engine`"
            % (path, error.strerror if isinstance(error, OSError) else "not UTF-8 text")
        ) from None
    return Manifest.from_json(text)


def verify_file(folder: Path, file: str, sha256: str) -> Path:
    """The path of a manifest's file, after checking its hash.

    Raises:
        EngineError: the name leaves the folder, or the file is missing or differs from the manifest's hash.
    """
    if Path(file).name != file or file in ("", ".", ".."):
        raise EngineError("manifest names the file %r; expected a plain file name, rebuild the engine folder" % file)
    path = Path(folder) / file
    if not path.is_file():
        raise EngineError("%s is missing; the manifest lists it, rebuild the engine folder" % path)
    if file_sha256(path) != sha256:
        raise EngineError("%s does not match the hash in its manifest; rebuild the engine folder" % path)
    return path
