"""Where an engine is built and how it gets to its place: in a folder beside it, and by one rename.

Whoever looks at OUT sees the old engine or the new one, never part of either. Whatever ends a build early leaves
OUT as it was and nothing beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cmg_export.errors import ExportError
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.manifest import FILE_NAME

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_out(out: Path, inputs: list[Path]) -> None:
    """Refuse a place that cannot be built in, or that holds anything but an engine.

    Args:
        out: the engine folder to be, absolute.
        inputs: files that the build reads; they must not be in it, because an old engine is replaced as a whole.

    Raises:
        ExportError: one line.
    """
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not nearest.is_dir():
        raise ExportError(f"{nearest} is a file, so {out} cannot be a folder; choose another --out")
    if not os.access(nearest, os.W_OK):
        raise ExportError(f"{nearest} is not writable; choose another --out")
    if out.exists() and any(out.iterdir()) and not _holds_engine(out):
        raise ExportError(f"{out} is not empty and holds no engine; choose another --out or empty it")
    for path in inputs:
        if out in path.resolve().parents:
            raise ExportError(f"{path} lies in {out}, which the new engine would replace; choose another --out")


def _holds_engine(folder: Path) -> bool:
    try:
        manifest = typed_json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "artifacts"} <= manifest.keys()


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A new, empty folder beside ``out`` to build in; :func:`publish` it inside the ``with`` block.

    On the way out it is removed, and so are the parents of ``out`` that had to be made, if nothing was published.

    Raises:
        ExportError: the folder cannot be made.
    """
    missing = [path for path in out.parents if not path.exists()]
    folder = out.with_name(f".{out.name}.building-{os.getpid()}")
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(out)
            folder.mkdir()
        except OSError as error:
            raise ExportError(f"cannot write in {out.parent} ({error.strerror}); choose another --out") from None
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):  # not empty: the engine is in it
                path.rmdir()


def publish(folder: Path, out: Path) -> None:
    """Put a staged folder in ``out``'s place.

    With Linux's exchange the two change places in one step. Where a file system cannot do that, ``out`` is absent for
    the moment between two renames.
    """
    if not out.exists():
        try:
            folder.rename(out)
            return
        except OSError:
            if not out.exists():  # otherwise another build has just published there
                raise
    if _exchange(folder, out):
        return  # the old engine is now where the new one was built, and goes with it
    old = folder.with_name(folder.name + ".old")
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0


def _remove_abandoned(out: Path) -> None:
    """Remove what builds of ``out`` left behind that were killed; put back an engine that one had taken away."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.building-(\d+)(\.old)?")
    for path in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or _is_running(int(match[1])):
            continue
        if match[2] and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # of an earlier process that had this number
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
