"""``policy.json``: what the control loop has to know of an exported policy beside its network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmg_runtime import EngineError

PER_JOINT = (
    "default_dof_pos", "dof_lower", "dof_upper", "action_scale", "lead_s", "kp", "kd", "effort_limit", "armature",
)  # fmt: skip
"""Fields with a number for each joint."""


@dataclass(frozen=True)
class ObservationTerm:
    """A part of the policy's input: its name, its width, and the reference's offsets if it has some."""

    name: str
    width: int
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class PolicyCard:
    """``policy.json``. Lists are in the order of ``joint_names``.

    Attributes:
        iterations: of learning behind the policy.
        engine, engine_sha256: name of the engine it was trained with, hash of its checkpoint.
        fps: control steps a second.
        command_ramp_s: s in which a command is approached.
        default_dof_pos: rad; positions are observed less these.
        dof_lower, dof_upper: rad; targets are clipped to these.
        action_scale: rad per unit of action.
        lead_s: s; times the reference's joint velocities this is fed forward.
        kp, kd: N m/rad and N m s/rad of the joints' position controllers, as trained with.
        effort_limit: N m; torques are clipped to +- these.
        armature: kg m^2, inertia of the rotors at the joints; for simulations.
        observation: the policy's input, in order.
    """

    iterations: int
    engine: str
    engine_sha256: str
    fps: float
    command_ramp_s: float
    joint_names: tuple[str, ...]
    default_dof_pos: tuple[float, ...]
    dof_lower: tuple[float, ...]
    dof_upper: tuple[float, ...]
    action_scale: tuple[float, ...]
    lead_s: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    effort_limit: tuple[float, ...]
    armature: tuple[float, ...]
    observation: tuple[ObservationTerm, ...]


def read_card(folder: str | Path) -> PolicyCard:
    """``policy.json`` of an exported policy.

    Raises:
        EngineError: there is none, or it is of an older version or another format.
    """
    try:
        fields: dict[str, Any] = json.loads((Path(folder) / "policy.json").read_text())
        terms = tuple(ObservationTerm(t["name"], t["width"], tuple(t["offsets"])) for t in fields.pop("observation"))
        missing = [name for name in PER_JOINT if name not in fields]
        if missing:
            raise ValueError(f"no {', '.join(missing)}: it is older")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        card = PolicyCard(**lists, observation=terms)
        _require_sound(card)
        return card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{folder} is no exported policy of this version ({error}); `make train` writes one into its run's folder, "
            "and `python -m cmg_gym.export_checkpoint --policy RUN` another one"
        ) from None


def _require_sound(card: PolicyCard) -> None:
    """What was edited by hand may lack a joint, or be no number."""
    if not isinstance(card.engine_sha256, str):
        raise ValueError(f"engine_sha256 is {card.engine_sha256}")
    for name in PER_JOINT:
        values = np.asarray(getattr(card, name), dtype=float)
        if values.shape != (len(card.joint_names),) or not np.isfinite(values).all():
            raise ValueError(f"{name} is not a finite number for each of {len(card.joint_names)} joints")
    if not (0 < card.fps < np.inf and 0 <= card.command_ramp_s < np.inf):
        raise ValueError(f"fps is {card.fps}, command_ramp_s {card.command_ramp_s}")
