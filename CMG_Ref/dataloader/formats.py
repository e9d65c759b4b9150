"""The file layouts that motion clips come in. Each reader says what a file holds, in the layout's own conventions.

| suffix | layout | written by |
| --- | --- | --- |
| ``.npz`` | ``dof_names``, ``dof_positions``, ``body_positions``, ``body_rotations`` (w, x, y, z) | public AMASS sets |
| ``.npz`` | ``joint_pos``, ``body_pos_w``, ``body_quat_w`` (w, x, y, z) | mjlab, BeyondMimic (``csv_to_npz``) |
| ``.pkl`` | ``dof_pos``, ``root_pos``, ``root_rot`` (x, y, z, w) | GMR, TWIST |
| ``.pkl`` | ``dof``, ``root_trans_offset``, ``root_rot`` (x, y, z, w), in a dictionary of clips | PHC, ASAP |
| ``.csv`` | no header; x, y, z, quaternion (x, y, z, w), joints; 30 frames a second | Unitree's LAFAN1 |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from CMG_Ref.dataloader.clips import Recorded
from CMG_Ref.files.plain_pickle import load_plain
from cmg_runtime.folder.arrays import load_arrays

CSV_FPS = 30.0
_ROOT_NAMES = ("pelvis", "pelvis_link", "base_link", "base", "root")
_TIME_KEYS = ("time", "times", "timestamp", "timestamps", "t")
_MOST_NUMBERS = 5_000_000


@dataclass(frozen=True)
class Recording:
    """One motion as a file has it, in the file's own units and conventions. Shapes as in ``Clip``.

    Attributes:
        key: which of the file's clips it is; empty when there is one.
        fps: None when the file does not say.
        layout_fps: the layout's, for files that never say.
        quaternion: the layout's order of ``root_quat`` and of the bodies' quaternions.
        recorded: what the file says a second time; poses of bodies count where these have names or an order.
        bodies_ordered: the bodies stand in the order of the unnamed joints, root first.
    """

    key: str
    fps: float | None
    dof_pos: np.ndarray
    root_pos: np.ndarray
    root_quat: np.ndarray
    quaternion: Literal["wxyz", "xyzw"]
    joint_names: tuple[str, ...] = ()
    recorded: Recorded = field(default_factory=Recorded)
    bodies_ordered: bool = False
    layout_fps: float | None = None


def read_file(path: Path) -> list[Recording]:
    """The motions of one file, read without running code.

    Raises:
        Exception: of any kind; it is damaged, or of no known layout.
    """
    return READERS[path.suffix.lower()](path)


@dataclass(frozen=True)
class _NpzKeys:
    """What a layout of arrays in the world's axes calls what it holds."""

    joint_names: str
    dof_pos: str
    dof_vel: str
    body_pos: str
    body_quat: str
    body_lin_vel: str
    body_ang_vel: str


_AMASS = _NpzKeys(
    "dof_names", "dof_positions", "dof_velocities",
    "body_positions", "body_rotations", "body_linear_velocities", "body_angular_velocities",
)  # fmt: skip
_MJLAB = _NpzKeys(
    "joint_names", "joint_pos", "joint_vel", "body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w"
)


def _read_npz(path: Path) -> list[Recording]:
    """Of mjlab's layout joints and bodies have no names: they stand in the order of the simulator that wrote it."""
    with open(path, "rb") as stream:
        data = load_arrays(stream)
    mjlab = _MJLAB.dof_pos in data
    keys = _MJLAB if mjlab else _AMASS
    _need(data, *(() if mjlab else (keys.joint_names,)), keys.dof_pos, keys.body_pos, keys.body_quat)
    positions, rotations = _numbers(data[keys.body_pos]), _numbers(data[keys.body_quat])
    dof_pos, bodies = _numbers(data[keys.dof_pos]), _names(data, "body_names")
    root = _root_index(bodies, positions)
    return [
        Recording(
            key="",
            fps=_fps(data),
            dof_pos=dof_pos,
            root_pos=_of_body(positions, root),
            root_quat=_of_body(rotations, root),
            quaternion="wxyz",
            joint_names=_names(data, keys.joint_names),
            recorded=Recorded(
                dof_vel=_optional(data, keys.dof_vel),
                root_lin_vel=_of_body(_optional(data, keys.body_lin_vel), root),
                root_ang_vel=_of_body(_optional(data, keys.body_ang_vel), root),
                times=_times(data),
                body_names=bodies,
                body_pos=positions,
                body_quat=rotations,
            ),
            bodies_ordered=mjlab and not bodies and positions.shape[1] == dof_pos.shape[-1] + 1,
        )
    ]


def _read_pickle(path: Path) -> list[Recording]:
    data = load_plain(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, expected a dictionary")
    clips = {"": data}
    if data and not _is_motion(data) and all(isinstance(clip, dict) for clip in data.values()):
        clips = {str(key): clip for key, clip in data.items()}
    return [_pickled(key, clip) for key, clip in clips.items()]


def _is_motion(data: dict[Any, Any]) -> bool:
    return "dof_pos" in data or "dof" in data


def _pickled(key: str, data: dict[str, Any]) -> Recording:
    dof, root = ("dof", "root_trans_offset") if "dof" in data and "dof_pos" not in data else ("dof_pos", "root_pos")
    _need(data, dof, root, "root_rot")
    dof_pos = _numbers(data[dof])
    bodies, local = _names(data, "link_body_list"), _optional(data, "local_body_pos")
    return Recording(
        key=key,
        fps=_fps(data),
        dof_pos=dof_pos[..., 0] if dof_pos.ndim == 3 and dof_pos.shape[2] == 1 else dof_pos,  # some keep an axis
        root_pos=_numbers(data[root]),
        root_quat=_numbers(data["root_rot"]),
        quaternion="xyzw",
        joint_names=_names(data, "dof_names") or _names(data, "joint_names"),
        recorded=Recorded(
            dof_vel=_optional(data, "dof_vel"),
            root_lin_vel=_optional(data, "root_vel"),
            root_ang_vel=_optional(data, "root_ang_vel"),
            times=_times(data),
            body_names=bodies if local is not None else (),
            local_body_pos=local if bodies else None,
        ),
    )


def _read_csv(path: Path) -> list[Recording]:
    with open(path, encoding="utf-8-sig") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file; what it lacks is said below
        values = np.loadtxt(stream, delimiter=",", ndmin=2, dtype=np.float64)
    if values.shape[1] not in (36, 30):
        raise ValueError(f"{values.shape[1]} columns, expected 36 or 30: x, y, z, quaternion x, y, z, w, joints")
    root_pos, root_quat, dof_pos = values[:, :3], values[:, 3:7], values[:, 7:]
    return [Recording("", None, dof_pos, root_pos, root_quat, "xyzw", layout_fps=CSV_FPS)]


READERS: dict[str, Callable[[Path], list[Recording]]] = {
    ".npz": _read_npz,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".csv": _read_csv,
}
"""Suffix -> reader."""


def _need(data: dict[str, Any], *keys: str) -> None:
    missing = [key for key in keys if key not in data]
    if missing:
        held = ", ".join(str(key)[:40] for key in list(data)[:12])
        raise ValueError(f"it lacks {', '.join(missing)}; it holds {held or 'nothing'}")


def _numbers(value: Any) -> np.ndarray:
    """As float64."""
    array = _array(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an array of {array.dtype}, expected numbers")
    return np.array(array, dtype=np.float64)


def _array(value: Any) -> np.ndarray:
    """Lists are counted first: shared ones can stand for more values than there is memory."""
    _count(value, _MOST_NUMBERS)
    return np.asarray(value)


def _count(value: Any, left: int) -> int:
    """How many of the ``left`` values remain. Raises when there are more."""
    if not isinstance(value, (list, tuple)):
        return left
    for item in value:
        left = _count(item, left - (1 if isinstance(item, (list, tuple)) else getattr(item, "size", 1)))
        if left < 0:
            raise ValueError(f"more than {_MOST_NUMBERS} values in lists")
    return left


def _optional(data: dict[str, Any], key: str) -> np.ndarray | None:
    return None if data.get(key) is None else _numbers(data[key])


def _names(data: dict[str, Any], key: str) -> tuple[str, ...]:
    if data.get(key) is None:
        return ()
    names = _array(data[key]).reshape(-1)
    if names.dtype.kind not in "US":
        raise ValueError(f"{key} is an array of {names.dtype}, expected names")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def _times(data: dict[str, Any]) -> np.ndarray | None:
    return next((_numbers(data[key]).reshape(-1) for key in _TIME_KEYS if data.get(key) is not None), None)


def _fps(data: dict[str, Any]) -> float | None:
    """One number, in whatever it is wrapped: an array, a tensor, a text."""
    if data.get("fps") is None:
        return None
    values = np.unique(_array(data["fps"]).reshape(-1))
    if len(values) != 1:
        raise ValueError(f"fps holds {len(values)} different values, expected one")
    return float(values[0])


def _root_index(names: tuple[str, ...], positions: np.ndarray) -> int:
    """Which body is the root: the pelvis by name; the first where bodies have no names."""
    if not names:
        return 0
    if positions.ndim != 3 or positions.shape[1] != len(names):
        raise ValueError(f"body_names has {len(names)} names for bodies of shape {positions.shape}")
    for root in _ROOT_NAMES:
        if root in names:
            return names.index(root)
    raise ValueError(f"body_names has no pelvis; it has {', '.join(names[:6])}{' ...' if names[6:] else ''}")


def _of_body(values: np.ndarray | None, body: int) -> Any:
    return None if values is None else values[:, body]
