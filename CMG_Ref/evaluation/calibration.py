"""The velocity that the standing foot implies, and how it relates to the true one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.robot_g1.gait import StanceVelocity

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


# Medians over half overlapping windows of 2 s of fifteen clips (253 s) of a Unitree G1 retargeted from the Neutral and
# StartStop styles of the 100STYLE dataset, with the weights in robot_g1/gait.py.
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


class StandingFoot:
    """Reads the velocity off the foot that stands, calibrated.

    Args:
        calibration: of what the standing foot implies.
        device, dtype: of the joint angles that will come.
    """

    def __init__(
        self,
        calibration: Calibration = BUILT_IN,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._calibration = calibration
        self._stance = StanceVelocity(device, dtype)

    def mean(self, dof_pos: torch.Tensor) -> torch.Tensor:
        """Mean velocity over time: [T, ..., 29] -> [..., 3]."""
        return self._calibration(self._stance.mean(dof_pos, FPS))

    @property
    def source(self) -> str:
        """Where the figures come from, for the reports."""
        c = self._calibration
        factors = ", ".join(f"{name} {getattr(c, name):.3f}" for name in DIRECTIONS)
        scatter = ", ".join(f"{name} {value:.2f}" for name, value in c.scatter.items()) or "unknown"
        return (
            f"of the standing foot, divided by {factors}, yaw less {c.yaw_per_vy:.3f} vy ({c.source}); "
            f"over 2 s of a clip this leaves a scatter of {scatter} (m/s, rad/s)"
        )
