"""Weights and parameters of terms, which a curriculum may change: a graph has those of its capture."""

from __future__ import annotations

from typing import Any

import torch
from mjlab.managers import SceneEntityCfg


class Settings:
    """Notices when a weight or a parameter of a term has changed.

    Args:
        cfgs: configurations of terms, with ``params`` and perhaps ``weight``.
    """

    def __init__(self, cfgs: list[Any]) -> None:
        self._cfgs = cfgs
        self._noted: list[tuple[Any, dict[str, Any]]] = []

    def note(self) -> None:
        """Take the present values for those that were captured."""
        self._noted = [self._of(cfg) for cfg in self._cfgs]

    def have_changed(self) -> bool:
        """Whether some value is another than noted."""
        return any(_differ(self._of(cfg), noted) for cfg, noted in zip(self._cfgs, self._noted, strict=True))

    @staticmethod
    def _of(cfg: Any) -> tuple[Any, dict[str, Any]]:
        return getattr(cfg, "weight", None), dict(cfg.params)


def _differ(now: tuple[Any, dict[str, Any]], noted: tuple[Any, dict[str, Any]]) -> bool:
    if now[0] != noted[0] or now[1].keys() != noted[1].keys():
        return True
    return any(value is not noted[1][name] and not _equal(value, noted[1][name]) for name, value in now[1].items())


def _equal(a: Any, b: Any) -> bool:
    """Of tensors and entities' ids, which are looked up once, only the same are equal; what is in them may change."""
    if isinstance(a, (torch.Tensor, SceneEntityCfg)) or isinstance(b, (torch.Tensor, SceneEntityCfg)):
        return False
    return bool(a == b)
