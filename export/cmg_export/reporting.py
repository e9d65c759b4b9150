"""What reports have in common: text tables, and files that are replaced in one step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from cmg_export.errors import ExportError
from cmg_runtime.folder.kept_files import replace_file

WIDTH = 120
"""Columns of a report."""

_CELL = 9


def row(cells: Sequence[str]) -> str:
    """Cells of equal width, to the right."""
    return "".join(cell.rjust(_CELL) for cell in cells)


def centred(title: str, columns: int) -> str:
    """A title over so many cells of a :func:`row`."""
    return "  " + f" {title} ".center(columns * _CELL - 2, "-")


def wrapped(text: str) -> list[str]:
    """Lines of at most :data:`WIDTH` columns."""
    return textwrap.wrap(text, WIDTH)


def number(value: float | None, form: str) -> str:
    """A number, or "-" where there is none."""
    return "-" if value is None else format(value, form)


def widest(names: Sequence[str], title: str) -> int:
    """Columns of the first column of a table."""
    return max(map(len, (title, *names)))


def write_file(path: Path, content: bytes, otherwise: str = "choose another --out") -> None:
    """Replace a file, and keep the permissions of the one that was there; its folder is made.

    Raises:
        ExportError: it cannot be written; the line ends with what to do ``otherwise``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, path.stat().st_mode if path.exists() else 0o644)
    except OSError as error:
        raise ExportError(f"cannot write {path} ({error.strerror}); {otherwise}") from None
