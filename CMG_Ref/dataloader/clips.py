"""Motion clips from files: ``.npz`` sets and the pickles that retargeting tools write."""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from CMG_Ref.plain_arrays import STAND_INS
from cmg_runtime.errors import first_line
from cmg_runtime.npz import load_arrays

FPS = 50.0


@dataclass(frozen=True)
class Clip:
    """One recorded motion.

    Attributes:
        name: where it came from, for messages.
        fps: frames a second.
        joint_names: order of the joints; empty when the file does not say.
        dof_pos: [T, J] float64, rad.
        root_pos: [T, 3] float64, m, world, z up.
        root_quat: [T, 4] float64, world, (w, x, y, z).
    """

    name: str
    fps: float
    joint_names: tuple[str, ...]
    dof_pos: np.ndarray
    root_pos: np.ndarray
    root_quat: np.ndarray

    def __post_init__(self) -> None:
        if self.dof_pos.ndim != 2 or len(self.dof_pos) < 4:
            raise ValueError(f"{self.name}: dof_pos is {self.dof_pos.shape}, expected (T, J) with at least 4 frames")
        frames = len(self.dof_pos)
        for field, shape in (("dof_pos", self.dof_pos.shape), ("root_pos", (frames, 3)), ("root_quat", (frames, 4))):
            value = getattr(self, field)
            if value.shape != shape:
                raise ValueError(f"{self.name}: {field} is {value.shape}, expected {shape} as dof_pos has it")
            if not np.isfinite(value).all():
                raise ValueError(f"{self.name}: {field} holds NaN or infinity; clean the clip")
        if np.linalg.norm(self.root_quat, axis=1).min() < 0.5:
            raise ValueError(f"{self.name}: root_quat is not a rotation everywhere, expected unit quaternions")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"{self.name}: fps is {self.fps}, expected a positive number")
        if self.joint_names and len(self.joint_names) != self.dof_pos.shape[1]:
            raise ValueError(
                f"{self.name}: {len(self.joint_names)} joint names for {self.dof_pos.shape[1]} joints; expected as many"
            )


def load_clip(path: str | Path, joint_names: tuple[str, ...] = ()) -> Clip:
    """Read one clip.

    Args:
        path: ``.npz`` with ``fps``, ``dof_names``, ``dof_positions``, ``body_positions`` [T, B, 3] and
            ``body_rotations`` [T, B, 4] (w, x, y, z), body 0 the root; or ``.pkl`` holding a dictionary with
            ``fps``, ``root_pos`` [T, 3], ``root_rot`` [T, 4] (x, y, z, w) and ``dof_pos`` [T, J]. Pickles are
            read without running code: one that asks for more than numpy arrays is refused.
        joint_names: joints to pick, in this order; empty keeps the file's. A pickle has no names: its
            joints must already be these.

    Raises:
        ValueError: unreadable, not of one of the two layouts, joints missing, or values not finite.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".pkl": _read_pickle, ".pickle": _read_pickle}
    if path.suffix not in readers:
        raise ValueError(f"{path}: unknown clip type {path.suffix!r}; expected .npz or .pkl")
    try:
        fields = readers[path.suffix](path)
    except Exception as error:  # a damaged file can fail in any way; every one of them means the same to the user
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{path}: not a readable motion clip ({reason}); see load_clip for the layouts") from None
    clip = Clip(path.stem, **fields)
    return select_joints(clip, joint_names) if joint_names else clip


def select_joints(clip: Clip, joint_names: tuple[str, ...]) -> Clip:
    """The clip with its joints picked and ordered by name."""
    if not clip.joint_names:
        if clip.dof_pos.shape[1] != len(joint_names):
            raise ValueError(f"{clip.name}: {clip.dof_pos.shape[1]} unnamed joints, expected {len(joint_names)}")
        return Clip(clip.name, clip.fps, joint_names, clip.dof_pos, clip.root_pos, clip.root_quat)
    missing = [name for name in joint_names if name not in clip.joint_names]
    if missing:
        raise ValueError(f"{clip.name}: joints {', '.join(missing)} are missing; it has {', '.join(clip.joint_names)}")
    columns = [clip.joint_names.index(name) for name in joint_names]
    return Clip(clip.name, clip.fps, joint_names, clip.dof_pos[:, columns], clip.root_pos, clip.root_quat)


def resample(clip: Clip, fps: float = FPS) -> Clip:
    """The clip at another frame rate: cubic splines for joints and root, slerp for the root's rotation."""
    times = np.arange(len(clip.dof_pos)) / clip.fps
    wanted = np.arange(int(np.floor(times[-1] * fps + 1e-9)) + 1) / fps
    wanted = np.minimum(wanted, times[-1])  # the last may lie a rounding error beyond the clip
    rotation = Slerp(times, Rotation.from_quat(clip.root_quat[:, [1, 2, 3, 0]]))(wanted)
    return Clip(
        clip.name,
        fps,
        clip.joint_names,
        CubicSpline(times, clip.dof_pos)(wanted),
        CubicSpline(times, clip.root_pos)(wanted),
        rotation.as_quat()[:, [3, 0, 1, 2]],
    )


def _read_npz(path: Path) -> dict[str, Any]:
    """The fields of :class:`Clip` but its name."""
    with open(path, "rb") as stream:
        data = load_arrays(stream)
    return {
        "fps": float(np.asarray(data["fps"]).reshape(-1)[0]),
        "joint_names": tuple(str(name) for name in data["dof_names"]),
        "dof_pos": np.asarray(data["dof_positions"], dtype=np.float64),
        "root_pos": np.asarray(data["body_positions"][:, 0], dtype=np.float64),
        "root_quat": np.asarray(data["body_rotations"][:, 0], dtype=np.float64),
    }


def _read_pickle(path: Path) -> dict[str, Any]:
    """The fields of :class:`Clip` but its name."""
    content = path.read_bytes()
    _check_sizes(content)
    data = _ArrayUnpickler(io.BytesIO(content)).load()
    return {
        "fps": float(np.asarray(data["fps"]).reshape(-1)[0]),
        "joint_names": (),
        "dof_pos": np.asarray(data["dof_pos"], dtype=np.float64),
        "root_pos": np.asarray(data["root_pos"], dtype=np.float64),
        "root_quat": np.asarray(data["root_rot"], dtype=np.float64)[:, [3, 0, 1, 2]],
    }


def _check_sizes(content: bytes) -> None:
    """Refuse a pickle that claims more than it holds, without building anything of it."""
    for opcode, argument, _ in pickletools.genops(content):  # reads every text and every run of bytes
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError("it numbers more objects than it has bytes")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and numpy arrays; refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, only numpy arrays are read")
        return STAND_INS[module, name]


def _encode(text: str, codec: str) -> bytes:
    """How old pickles hold bytes. The codec is always latin-1; some others take ages."""
    return text.encode("latin-1")
