"""How the velocity that the standing foot implies relates to the true one, measured on motion clips."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.dataloader.clips import FPS, resample
from CMG_Ref.dataloader.commands import heading_velocity
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.robot_g1.gait import StanceVelocity

WINDOW = 2.0  # s; a stride or more of any gait
DIRECTIONS = ("vx_forward", "vx_backward", "vy", "yaw")


@dataclass(frozen=True)
class Calibration:
    """Factors by which the standing foot reads low, one per direction; and how well they hold.

    Attributes:
        vx_forward, vx_backward, vy, yaw: implied over true velocity.
        yaw_per_vy: yaw rate that appears to go with sideways steps, rad/s per m/s: the leading and the
            following foot stand for different times and turn differently against the pelvis.
        scatter: direction -> standard deviation of the calibrated less the true velocity over 2 s windows
            (m/s, rad/s), from its median absolute deviation. Empty when unknown.
        windows: direction -> number of windows. Empty when unknown.
        source: where the factors come from.
    """

    vx_forward: float
    vx_backward: float
    vy: float
    yaw: float
    yaw_per_vy: float = 0.0
    scatter: dict[str, float] = field(default_factory=dict)
    windows: dict[str, int] = field(default_factory=dict)
    source: str = "given"

    def __post_init__(self) -> None:
        for name in DIRECTIONS:
            value = getattr(self, name)
            if not 0.05 < value < 20:
                raise ValueError(f"calibration factor {name} is {value}; expected about 0.5 to 1.2, measure it anew")

    def __call__(self, implied: torch.Tensor) -> torch.Tensor:
        """Implied velocity [..., 3] to calibrated velocity [..., 3]."""
        vx, vy, yaw = implied.unbind(-1)
        vx = torch.where(vx > 0, vx / self.vx_forward, vx / self.vx_backward)
        vy = vy / self.vy
        return torch.stack([vx, vy, yaw / self.yaw - self.yaw_per_vy * vy], dim=-1)


# Measured by ``calibrate`` on fifteen clips (253 s) of a Unitree G1 retargeted from the Neutral and StartStop
# styles of the 100STYLE dataset, with the weights in robot_g1/gait.py.
BUILT_IN = Calibration(
    vx_forward=0.858,
    vx_backward=0.862,
    vy=0.546,
    yaw=0.801,
    yaw_per_vy=0.586,
    scatter={"vx_forward": 0.053, "vx_backward": 0.043, "vy": 0.188, "yaw": 0.255},
    windows={"vx_forward": 57, "vx_backward": 62, "vy": 18, "yaw": 143},
    source="built in, measured on 15 clips from 100STYLE",
)


def calibration_from_dict(values: dict[str, Any], source: str) -> Calibration:
    """From a checkpoint's ``calibration`` entry. Raises ``ValueError`` when a direction is missing."""
    missing = [name for name in DIRECTIONS if name not in values]
    if missing:
        raise ValueError(f"{source}: calibration lacks {', '.join(missing)}; expected {', '.join(DIRECTIONS)}")
    known = {name: float(values[name]) for name in DIRECTIONS}
    bias = float(values.get("yaw_per_vy", 0.0))
    return Calibration(
        **known, yaw_per_vy=bias, scatter=values.get("scatter", {}), windows=values.get("windows", {}), source=source
    )


def calibrate(clips_dir: str | Path) -> Calibration:
    """Measure the factors on a folder of clips.

    Each is the median of implied over true velocity over half overlapping 2 s windows that move along the
    direction. Sideways the factor falls with speed, from 0.8 at 0.25 m/s to 0.5 at 0.45, because the pelvis leans
    more; it is measured from 0.3 to 0.6 m/s, where generators are judged. Above that clips run, with much flight,
    and the standing foot, which tells the speed of walking, reads near zero.

    Raises:
        ValueError: no clips, or none that move in one of the directions.
    """
    implied, true = clip_windows(clips_dir)
    chosen = {
        "vx_forward": (0, (true[:, 0] > 0.2) & (np.abs(true[:, 1]) < 0.3)),
        "vx_backward": (0, (true[:, 0] < -0.15) & (np.abs(true[:, 1]) < 0.3)),
        "vy": (1, (np.abs(true[:, 1]) > 0.3) & (np.abs(true[:, 1]) < 0.6)),
        "yaw": (2, (np.abs(true[:, 2]) > 0.1) & (np.abs(true[:, 2]) < 1.2)),
    }
    factors, scatter, windows = {}, {}, {}
    for name, (axis, rows) in chosen.items():
        if rows.sum() < 4:
            raise ValueError(f"{clips_dir}: {rows.sum()} windows of 2 s move along {name}, expected 4; add clips")
        factors[name] = float(np.median(implied[rows, axis] / true[rows, axis]))
        residual = implied[rows, axis] / factors[name] - true[rows, axis]
        scatter[name] = float(1.4826 * np.median(np.abs(residual - np.median(residual))))
        windows[name] = int(rows.sum())
    # Sideways and nearly straight, so that what is read as turning is not turning. Least squares: a ratio of
    # single windows says little, their turning scatters by more than the bias.
    sideways = (np.abs(true[:, 1]) > 0.2) & (np.abs(true[:, 1]) < 0.6)
    rows = sideways & (np.abs(true[:, 0]) < 0.25) & (np.abs(true[:, 2]) < 0.3)
    turning, speed = implied[rows, 2] / factors["yaw"] - true[rows, 2], true[rows, 1]
    bias = float(turning @ speed / (speed @ speed)) if rows.sum() >= 4 else 0.0
    return Calibration(
        **factors, yaw_per_vy=bias, scatter=scatter, windows=windows, source=f"measured on {Path(clips_dir).name}"
    )


def clip_windows(clips_dir: str | Path, window: float = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Implied and true velocity, each [M, 3], over half overlapping windows of all clips of a folder."""
    found = read_folder(clips_dir, JOINT_NAMES)
    for skipped in found.skipped:
        print(f"calibration without {skipped.name}: {skipped.reason}", file=sys.stderr)
    estimator, length = StanceVelocity(dtype=torch.float64), round(window * FPS)
    implied, true = [], []
    for clip in map(resample, found.usable()):
        velocity = torch.from_numpy(heading_velocity(clip.root_pos, clip.root_quat, clip.fps))
        joints = torch.from_numpy(clip.dof_pos)
        if len(joints) <= length:
            continue
        pieces = joints.unfold(0, length + 1, length // 2).permute(2, 0, 1)  # [frames, M, 29]
        implied.append(estimator.mean(pieces, clip.fps).numpy())
        true.append(velocity.unfold(0, length + 1, length // 2).mean(-1).numpy())
    if not implied:
        raise ValueError(f"{clips_dir}: every clip is shorter than {window:g} s; longer ones are needed")
    return np.concatenate(implied), np.concatenate(true)
