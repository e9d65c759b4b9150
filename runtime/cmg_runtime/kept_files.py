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
    """Replace the file in one step: a reader sees the old bytes or the new ones."""
    try:
        with tempfile.NamedTemporaryFile(dir=str(path.parent), prefix=f".{path.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(content)
        try:
            temporary.chmod(0o644)
            os.replace(str(temporary), str(path))
        finally:
            if temporary.exists():
                temporary.unlink()
    except OSError as error:
        logger.info("%s is not kept (%s)", path, error)
