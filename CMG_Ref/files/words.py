"""What stands in a stranger's file, as a message may have it: short and on one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def shown(name: Any, longest: int = 100) -> str:
    """A key or a name."""
    text = str(name)[:longest]
    return text if text.isprintable() else ascii(text)[:longest]


def some(names: Iterable[Any], most: int = 3, longest: int = 60) -> str:
    """The first names, and how many more there are."""
    listed = [shown(name, longest) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
