"""The ``.npz`` files of an engine folder: verified, and never unpickled."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.manifest import Artifact, FileEntry, read_verified


def read_npz(folder: Path, entry: Artifact | FileEntry) -> dict[str, np.ndarray]:
    """Name -> array, from a file that the manifest lists.

    Raises:
        EngineError: the file is missing, differs from the manifest's hash, or is no archive of plain arrays.
    """
    content = read_verified(folder, entry)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise EngineError(f"{entry.file} is no .npz file ({first_line(error)}); rebuild the engine folder") from None
