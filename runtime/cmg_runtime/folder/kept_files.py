"""Files that an engine folder collects where it is used, and those in the user's cache. No manifest lists them.

All is as good without them, so one that cannot be read or written is no error.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from pathlib import Path
from typing import Iterator, Optional, Union

logger = logging.getLogger(__name__)


def user_cache() -> Optional[Path]:
    """``$XDG_CACHE_HOME``, else ``~/.cache``; None for a user without a home folder, as containers have them."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser("~")  # as it is, where it is not known
    return None if home == "~" else Path(home) / ".cache"


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


@contextlib.contextmanager
def naming(path: Union[str, Path]) -> Iterator[None]:
    """Writing the file in the ``with`` block fails with an ``OSError`` that names it.

    Opening a file does that; writing to it does not: "No space left on device" and "File too large" come without a
    name, and from ``torch.save`` as a ``RuntimeError`` about positions in the file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except RuntimeError as error:
        if "inline_container" not in str(error):  # torch's writer of archives
            raise
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        if "iostream error" in str(cause):  # torch's own stream does not say more
            raise OSError(errno.EIO, "torch could not write all of it, the disk may be full", str(path)) from None
        raise


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file in one step: a reader sees the old bytes or the new ones. Raises ``OSError``, which names it."""
    try:
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
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # and not the temporary one
