"""The generator of one robot: its current frame and the frames ahead, by numpy and ONNX Runtime alone.

:class:`cmg_runtime.Engine` does the same for thousands of robots, with what that takes around each operation: here a
frame is one call of the network, some 0.07 ms of one core, and a new command as many calls as there are frames ahead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cmg_runtime import EngineError, read_manifest
from cmg_runtime.folder.manifest import Artifact, Manifest, read_verified


class Generator:
    """Frames of the engine's ONNX file, in float32, on one core.

    Args:
        engine: the engine folder.
        ahead: frames ahead of the current one.
        command_ramp_s: s in which a new command is approached, linearly.

    Attributes:
        manifest: what the folder says about itself.
        frames: [ahead + 1, motion_dim]: the current frame and those that follow if the command stays. A motion state is
            [joint positions (rad), joint velocities (rad/s)] in the order of the manifest's ``joint_names``.
        command: [3] the last one, clamped to the command range, m/s, m/s, rad/s.

    Raises:
        EngineError: the folder has no ONNX file in float32 that passed parity.
    """

    def __init__(self, engine: str | Path, ahead: int, command_ramp_s: float) -> None:
        self.manifest = read_manifest(engine)
        content = read_verified(Path(engine), _onnx_artifact(self.manifest, engine))
        self._network: Any = single_core_session(content)
        limits = self.manifest.command_range
        self._low, self._high = np.asarray(limits.min, dtype=np.float32), np.asarray(limits.max, dtype=np.float32)
        self._ramp_frames = command_ramp_s * self.manifest.fps
        self.frames = np.zeros((ahead + 1, self.manifest.sizes.motion_dim), dtype=np.float32)
        self.reset(self.frames[0], np.zeros(3))

    def reset(self, motion: Any, command: Any) -> None:
        """Begin anew from a motion state [motion_dim], under a command that is in force at once."""
        self.command = self._before = self._clamped(command)
        self._elapsed = 0
        self.frames[0] = motion
        self._generate(1)

    def set_command(self, command: Any) -> None:
        """Approach another command from the current frame on. The one that there is already changes nothing."""
        wanted = self._clamped(command)
        if (wanted != self.command).any():
            self._before, self.command, self._elapsed = self.command_at(0), wanted, 0
            self._generate(1)

    def step(self, command: Any) -> None:
        """One frame forward, and from there on under ``command``, finite, as :meth:`set_command` takes it."""
        self._elapsed += 1
        self.frames[:-1] = self.frames[1:]
        if (self._clamped(command) != self.command).any():
            self.set_command(command)
        else:
            self._generate(len(self.frames) - 1)

    def command_at(self, offset: int) -> np.ndarray:
        """[3] the command in force ``offset`` frames after the current one."""
        share = min((self._elapsed + offset) / self._ramp_frames, 1.0) if self._ramp_frames > 0 else 1.0
        return self.command if share == 1.0 else self._before + np.float32(share) * (self.command - self._before)

    def _generate(self, first: int) -> None:
        """The frames from offset ``first`` on, each from the one before it."""
        for offset in range(first, len(self.frames)):
            given = {"motion": self.frames[offset - 1 : offset], "command": self.command_at(offset)[None]}
            self.frames[offset] = self._network.run(None, given)[0][0]

    def _clamped(self, command: Any) -> np.ndarray:
        return np.clip(np.asarray(command, dtype=np.float32), self._low, self._high)


def single_core_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """An ONNX model, by its path or content, to be run on one core: there is nothing to share of one robot's work."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def _onnx_artifact(manifest: Manifest, engine: str | Path) -> Artifact:
    for artifact in manifest.artifacts:
        if (artifact.backend, artifact.precision, artifact.parity_status) == ("onnx", "fp32", "passed"):
            return artifact
    raise EngineError(
        f"{engine} has no ONNX file in fp32 that passed parity; `make engine PRECISION=all` writes and checks one"
    )
