"""What a motion library has: which motions, how long they are, which bodies."""

from __future__ import annotations

from typing import Any, List, Sequence, Union

import numpy as np
import torch

from cmg_runtime.errors import EngineError
from cmg_runtime.inputs import as_integers
from cmg_runtime.motion_lib.robot_layout import LATER_BODIES
from cmg_runtime.motion_lib.slots import SlotSource
from cmg_runtime.motion_lib.trajectories import PoolSource


class MotionCatalogue:
    """The questions about motions that need no frame.

    Args:
        source: where frames come from.
        length: how long every motion lasts, s.
        body_names: bodies of ``local_body_pos``.
        known: indices in ``body_names`` of those that the engine's robot has.

    Attributes:
        body_names: as given.
        device: where ids are expected and answers are.
    """

    def __init__(
        self,
        source: Union[PoolSource, SlotSource],
        length: float,
        body_names: Sequence[str],
        known: Sequence[int],
        device: torch.device,
    ) -> None:
        self.body_names = tuple(body_names)
        self.device = device
        self._source = source
        self._length = length
        self._known = tuple(known)
        self._lengths = torch.full((source.num_motions,), length, dtype=torch.float32, device=device)
        self._names = [
            f"cmg_{index:04d}_vx{vx:+.2f}_vy{vy:+.2f}_yaw{yaw:+.2f}"
            for index, (vx, vy, yaw) in enumerate(source.commands.tolist())
        ]

    def num_motions(self) -> int:
        """Number of motions; ids are 0..num_motions-1."""
        return self._source.num_motions

    def get_motion_length(self, motion_ids: Any) -> torch.Tensor:
        """How long motions last, s: [n] float32 for ids [n]; for a single int [], on the host: cheap in a loop."""
        if isinstance(motion_ids, (int, np.integer)):
            if not 0 <= motion_ids < self._source.num_motions:
                raise EngineError(f"motion_ids has {motion_ids}; expected 0..{self._source.num_motions - 1}")
            return torch.tensor(self._length, dtype=torch.float32, device="cpu")
        return self._lengths[self._ids(motion_ids)]

    def get_total_length(self) -> float:
        """How long all motions together last, s."""
        return self.num_motions() * self._length

    def get_motion_names(self) -> List[str]:
        """One name a motion, by its command."""
        return list(self._names)

    def get_key_body_idx(self, key_body_names: Sequence[str]) -> List[int]:
        """Places of bodies in ``local_body_pos``.

        Raises:
            EngineError: not one of ``body_names``, or the engine's robot does not have it.
        """
        known = [self.body_names[index] for index in self._known]
        for name in key_body_names:
            if name in LATER_BODIES and name in self.body_names and name not in known:
                raise EngineError(f"this engine was built before {name!r} was one of its bodies; build it again")
            if name not in known:
                raise EngineError(f"body {name!r} is unknown here; expected some of {', '.join(known)}")
        return [self.body_names.index(name) for name in key_body_names]

    def get_motion_command(self, motion_ids: Any) -> torch.Tensor:
        """[n, 3] commands of motions: vx, vy (m/s), yaw rate (rad/s)."""
        return self._source.commands.index_select(0, self._ids(motion_ids))

    def _ids(self, motion_ids: Any) -> torch.Tensor:
        return as_integers(motion_ids, None, "motion_ids", self.device, self._source.num_motions)
