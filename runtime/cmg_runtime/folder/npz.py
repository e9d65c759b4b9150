"""The ``.npz`` files of an engine folder: verified, never unpickled, and never larger than they say."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import BinaryIO, Dict

import numpy as np

from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.folder.manifest import Artifact, FileEntry, read_verified

UNPACKED_ALLOWED = 64 << 20
"""Bytes that any archive may unpack to. A larger one may have ``RATIO_ALLOWED`` times its own size."""

RATIO_ALLOWED = 100


def read_npz(folder: Path, entry: Artifact | FileEntry) -> dict[str, np.ndarray]:
    """Name -> array, from a file that the manifest lists.

    Raises:
        EngineError: the file is missing, differs from the manifest's hash, or is no archive of plain arrays.
    """
    content = read_verified(folder, entry)
    try:
        return load_arrays(io.BytesIO(content))
    except ValueError as error:
        raise EngineError(f"{entry.file} is no .npz file ({error}); rebuild the engine folder") from None


def load_arrays(stream: BinaryIO) -> dict[str, np.ndarray]:
    """Name -> array of a whole ``.npz`` file. Sizes are checked before memory is taken for them.

    Raises:
        ValueError: one line; no archive of plain arrays, or one that unpacks to far more than its size.
    """
    size = stream.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(UNPACKED_ALLOWED, RATIO_ALLOWED * size):
                raise ValueError(f"{size} bytes that unpack to {unpacked}")
            arrays: Dict[str, np.ndarray] = {}
            for member in members:
                name = member.filename[:-4] if member.filename.endswith(".npy") else member.filename
                if name in arrays:
                    raise ValueError("the same array twice")
                arrays[name] = _read_array(archive.read(member))
            return arrays
    except Exception as error:  # a damaged zip fails in many ways; every one of them means the same to the user
        raise ValueError(first_line(error)) from None


def _read_array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise ValueError(f"array format {version}")
    shape, _, dtype = headers[version](stream)
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"an array of {dtype} {shape} in {len(content)} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
