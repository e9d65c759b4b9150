"""BVH files: a skeleton, and for each frame the angles of its joints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

_CHANNEL = re.compile(r"[XYZ](position|rotation)", re.IGNORECASE)
_LARGEST = 1e6  # of any number, in whatever unit
_HEAD = re.compile(r"\s*Frames:\s*(\d+)\s+Frame\s+Time:\s*(\S+)")


@dataclass(frozen=True)
class Bvh:
    """One recording, in the file's own unit of length and axes.

    Attributes:
        names: of the joints, parents before children; an end site is called after its joint, with ``_end``.
        parents: index of each joint's parent, -1 for the root.
        offsets: [J, 3], from the parent with all angles at 0.
        fps: frames a second.
        positions: [T, J, 3], of each joint in its parent's frame.
        rotations: [T, J, 3, 3], from each joint's frame to its parent's.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    fps: float
    positions: np.ndarray
    rotations: np.ndarray

    def in_world(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions [T, J, 3] and rotations [T, J, 3, 3] of all joints in the world."""
        pos, rot = self.positions.copy(), self.rotations.copy()
        for joint, parent in enumerate(self.parents[1:], start=1):
            pos[:, joint] = pos[:, parent] + (rot[:, parent] @ self.positions[:, joint, :, None])[..., 0]
            rot[:, joint] = rot[:, parent] @ self.rotations[:, joint]
        return pos, rot


def read_bvh(path: Path) -> Bvh:
    """Read a BVH file. Lines may end in any way, words stand apart by spaces or tabs, angles come in any order.

    Raises:
        ValueError: one line; it is no BVH file, or a damaged one.
        OSError: it cannot be read.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    parts = re.split(r"^\s*MOTION\s*$", text, maxsplit=1, flags=re.MULTILINE)
    try:
        if len(parts) != 2:
            raise ValueError("no line MOTION; expected a BVH file: HIERARCHY and a skeleton, then MOTION and frames")
        names, parents, offsets, channels = _skeleton(parts[0])
        fps, values = _motion(parts[1], sum(map(len, channels)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    positions = np.tile(offsets, (len(values), 1, 1))
    rotations = np.tile(np.eye(3), (*positions.shape[:2], 1, 1))
    first = 0
    for joint, of_joint in enumerate(channels):
        columns = [(name, values[:, column]) for column, name in enumerate(of_joint, start=first)]
        first += len(columns)
        for name, column in columns:
            if name.endswith("POSITION"):
                positions[:, joint, "XYZ".index(name[0])] = column
        angles = [(name[0], column) for name, column in columns if name.endswith("ROTATION")]
        if angles:  # axes in capitals: each rotation is about the axes as turned by those before it
            order, degrees = "".join(axis for axis, _ in angles), np.stack([column for _, column in angles], axis=1)
            rotations[:, joint] = Rotation.from_euler(order, degrees, degrees=True).as_matrix()
    return Bvh(tuple(names), tuple(parents), np.array(offsets), fps, positions, rotations)


def _skeleton(text: str) -> tuple[list[str], list[int], list[list[float]], list[list[str]]]:
    """Names, parents, offsets, and each joint's channels in capitals, of the part before MOTION."""
    names, parents, offsets, channels, inside = [], [], [], [], []
    for line in re.sub(r"([{}])", r"\n\1\n", text).splitlines():
        match line.split():
            case [] | ["HIERARCHY"]:
                pass
            case ["ROOT" | "JOINT" | "End" as kind, name] if bool(inside) == (kind != "ROOT") == bool(names):
                names.append(f"{names[inside[-1]]}_end" if kind == "End" else name)
                parents.append(inside[-1] if inside else -1)
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
            case ["{"] if names:
                inside.append(len(names) - 1)
            case ["}"] if inside:
                inside.pop()
            case ["OFFSET", x, y, z] if inside:
                offsets[inside[-1]] = [float(x), float(y), float(z)]
            case ["CHANNELS", count, *kinds] if inside and count == str(len(kinds)):
                channels[inside[-1]] = [kind.upper() for kind in kinds]
                if not all(map(_CHANNEL.fullmatch, kinds)) or len(set(channels[inside[-1]])) < len(kinds):
                    raise ValueError(f"{line.strip()!r}; expected channels such as Xposition and Zrotation, each once")
            case _:
                expected = "one ROOT, JOINTs in it, { and }, OFFSET and 3 numbers, CHANNELS, how many, and their names"
                raise ValueError(f"{line.strip()[:60]!r} in the skeleton; expected {expected}")
    if inside or not names:
        raise ValueError("the skeleton does not end before MOTION; expected a } for every {: it is cut off")
    if not (np.abs(offsets) < _LARGEST).all():
        raise ValueError(f"offsets of its skeleton hold NaN or infinity, or {_LARGEST:g} and more; expected lengths")
    if len(set(names)) < len(names):
        raise ValueError("two joints have one name; expected each once: rename them")
    return names, parents, offsets, channels


def _motion(text: str, width: int) -> tuple[float, np.ndarray]:
    """Frames a second and the numbers [T, width] of the part after MOTION."""
    head = _HEAD.match(text)
    if head is None:
        raise ValueError(
            f"{text.strip()[:40]!r} follows MOTION; expected Frames: and how many, Frame Time: and seconds"
        )
    count, seconds = int(head[1]), float(head[2])
    if not 0.001 <= seconds <= 0.2:
        raise ValueError(f"its frame time is {head[2]}; expected 0.001 to 0.2 s")
    rows = [line.split() for line in text[head.end() :].splitlines() if line.strip()]
    if len(rows) != count or count == 0 or width == 0:
        raise ValueError(f"it has {len(rows)} frames of {width} channels, and says {count}; expected as many, and some")
    for number, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"frame {number} has {len(row)} numbers; expected {width}, one for each channel")
    values = np.array(rows, dtype=np.float64)
    sound = (np.abs(values) < _LARGEST).all(axis=1)
    if not sound.all():
        broken = f"frame {int(sound.argmin())} holds NaN or infinity, or {_LARGEST:g} and more"
        raise ValueError(f"{broken}; leave it out of the file, or clean the recording")
    return 1 / seconds, values
