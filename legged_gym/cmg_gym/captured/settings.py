"""Configurations of terms, which a curriculum may change: a graph has the values of its capture."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from mjlab.managers import SceneEntityCfg

from cmg_gym.captured.state import PLAIN


class Settings:
    """Notices when a weight, a parameter, a noise or a range of a term has changed, deep inside of it too.

    Of tensors, entities' ids and other objects only the same are equal; what is in them may change.

    Args:
        cfgs: configurations of terms.
    """

    def __init__(self, cfgs: list[Any]) -> None:
        self._cfgs = cfgs
        self._noted: Any = []

    def note(self) -> None:
        """Take the present values for those that were captured."""
        self._noted = _copied(self._cfgs)

    def have_changed(self) -> bool:
        """Whether some value is another than noted."""
        return not _same(self._cfgs, self._noted)


def _copied(value: Any) -> Any:
    """What may change in place, as new dicts and lists."""
    inner = _inner(value)
    if isinstance(inner, dict):
        return {key: _copied(part) for key, part in inner.items()}
    return inner if inner is value else [_copied(part) for part in inner]


def _same(now: Any, noted: Any) -> bool:
    inner = _inner(now)
    if isinstance(inner, dict):
        return (
            isinstance(noted, dict)
            and inner.keys() == noted.keys()
            and all(_same(part, noted[key]) for key, part in inner.items())
        )
    if inner is not now:
        return isinstance(noted, list) and len(inner) == len(noted) and all(map(_same, inner, noted))
    return now is noted or (isinstance(now, PLAIN) and isinstance(noted, PLAIN) and now == noted)


def _inner(value: Any) -> Any:
    """The fields of a configuration as a dict, the items of a list as a new list; else ``value`` itself."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if is_dataclass(value) and not isinstance(value, (type, SceneEntityCfg)) and hasattr(value, "__dict__"):
        return vars(value)
    return value
