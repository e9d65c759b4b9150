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
from cmg_runtime.errors import first_line
from cmg_runtime.folder.manifest import Artifact, Manifest, read_verified

NOTHING_LOGGED = 4
"""Severity of ONNX Runtime's log. What goes wrong is raised."""


class Generator:
    """Frames of the engine's ONNX file, in float32, on one core.

    Args:
        engine: the engine folder.
        ahead: frames ahead of the current one.
        command_ramp_s: s in which a new command is approached, linearly.

    Attributes:
        manifest: what the folder says about itself.
        command_range: (min, max) of commands, m/s, m/s, rad/s.
        frames: [ahead + 1, motion_dim]: the current frame and those that follow if the command stays. A motion state is
            [joint positions (rad), joint velocities (rad/s)] in the order of the manifest's ``joint_names``.
        command: [3] the last one, clamped to the command range, m/s, m/s, rad/s.

    Raises:
        EngineError: the folder has no ONNX file in float32 that passed parity, or it does not run here.
    """

    def __init__(self, engine: str | Path, ahead: int, command_ramp_s: float) -> None:
        self.manifest = read_manifest(engine)
        artifact = _onnx_artifact(self.manifest, engine)
        self._network: Any = single_core_session(read_verified(Path(engine), artifact), f"{engine}/{artifact.file}")
        limits, sizes = self.manifest.command_range, self.manifest.sizes
        self.command_range = tuple(limits.min), tuple(limits.max)
        self._low, self._high = np.asarray(limits.min, dtype=np.float32), np.asarray(limits.max, dtype=np.float32)
        self._ramp_frames = command_ramp_s * self.manifest.fps
        self.frames = np.zeros((ahead + 1, sizes.motion_dim), dtype=np.float32)
        self._commands = np.zeros((ahead + 1, sizes.command_dim), dtype=np.float32)
        self._calls = [self._call(offset) for offset in range(1, ahead + 1)]
        self.reset(self.frames[0], np.zeros(sizes.command_dim))

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
            self._commands[offset] = self.command_at(offset)
            self._network.run_with_iobinding(self._calls[offset - 1])

    def _call(self, offset: int) -> Any:
        """What the network reads and writes for the frame at an offset, in place: nothing is copied or allocated."""
        binding = self._network.io_binding()
        for name, rows in (("motion", self.frames[offset - 1]), ("command", self._commands[offset])):
            binding.bind_input(name, "cpu", 0, np.float32, (1, len(rows)), rows.ctypes.data)
        frame = self.frames[offset]
        output = self._network.get_outputs()[0].name
        binding.bind_output(output, "cpu", 0, np.float32, (1, len(frame)), frame.ctypes.data)
        return binding

    def _clamped(self, command: Any) -> np.ndarray:
        return np.clip(np.asarray(command, dtype=np.float32), self._low, self._high)


def single_core_session(content: bytes, name: str) -> onnxruntime.InferenceSession:
    """An ONNX model to be run on one core: there is nothing to share of one robot's work.

    Args:
        content: of its file.
        name: of it, for the error.

    Raises:
        EngineError: ONNX Runtime cannot run it here.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = NOTHING_LOGGED
    try:
        return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # it has a class for each of its error codes, without a name in common
        raise EngineError(f"{name} cannot be run by onnxruntime ({first_line(error)}); make it again") from None


def _onnx_artifact(manifest: Manifest, engine: str | Path) -> Artifact:
    for artifact in manifest.artifacts:
        if (artifact.backend, artifact.precision, artifact.parity_status) == ("onnx", "fp32", "passed"):
            return artifact
    raise EngineError(
        f"{engine} has no ONNX file in fp32 that passed parity; `make engine PRECISION=all` writes and checks one"
    )
