"""Files that an engine folder collects where it is used: caches and records. The manifest does not list them.

The folder is as good without them, so one that cannot be read or written is no error.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Optional

logger = logging.getLogger(__name__)


def read_kept(path: Path) -> Optional[bytes]:
    """The file's bytes, or None."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep(path: Path, content: bytes) -> None:
    """Replace the file, or leave it where it cannot be written."""
    try:
        replace_file(path, content)
    except OSError as error:
        logger.info("%s is not kept (%s)", path, error)


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file in one step: a reader sees the old bytes or the new ones. Raises ``OSError``."""
    number, name = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with open(number, "wb") as stream:
            stream.write(content)
        temporary.chmod(mode)
        os.replace(str(temporary), str(path))
    finally:
        if temporary.exists():
            temporary.unlink()
