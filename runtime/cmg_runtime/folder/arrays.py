"""The ``.npz`` files of an engine folder: the weights, and the bank of motion states. Verified, never unpickled, and
never larger than they say."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import BinaryIO, Dict

import numpy as np
import torch

from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.folder.manifest import Artifact, FileEntry, Manifest, Sizes, read_verified

UNPACKED_ALLOWED = 64 << 20
"""Bytes that any archive may unpack to. A larger one may have ``RATIO_ALLOWED`` times its own size."""

RATIO_ALLOWED = 100


def read_weights(folder: Path, artifact: Artifact, manifest: Manifest) -> dict[str, np.ndarray]:
    """Name -> float32 array, as :class:`cmg_runtime.backends.one_product.OneProductNetwork` takes them.

    Raises:
        EngineError: the file is missing or differs from its hash, or its arrays are not those of a network of the
            manifest's sizes. A kernel would read beyond them.
    """
    weights = _read_npz(folder, artifact)
    problem = _difference(weights, manifest.sizes)
    if problem:
        raise EngineError(
            f"{artifact.file} holds other weights than this network's ({problem}); rebuild the engine folder"
        )
    return weights


def load_bank(folder: Path, manifest: Manifest, device: torch.device) -> torch.Tensor:
    """The bank [K, motion_dim] float32, rad and rad/s, on ``device``.

    Raises:
        EngineError: the file is missing, is not what the manifest says, or holds no such states.
    """
    motion = _read_npz(folder, manifest.bank).get("motion", np.empty(0))
    width = manifest.sizes.motion_dim
    states = motion.ndim == 2 and motion.shape[1] == width and len(motion) > 0 and motion.dtype == np.float32
    if not states or not np.isfinite(motion).all():
        raise EngineError(
            f"{manifest.bank.file} has {motion.dtype} of shape {list(motion.shape)} as motion; "
            f"expected finite float32 [K, {width}] with K at least 1; rebuild the engine folder"
        )
    return torch.from_numpy(motion).to(device)


def _read_npz(folder: Path, entry: Artifact | FileEntry) -> dict[str, np.ndarray]:
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


def _difference(weights: dict[str, np.ndarray], sizes: Sizes) -> str | None:
    if sizes.num_layers > len(weights):
        return f"{len(weights)} arrays for {sizes.num_layers} layers"
    expected = _shapes(sizes)
    for name in (*expected, *weights):
        found = weights[name].shape if name in weights else None
        if found != expected.get(name):
            return f"{name[:60]} is {found}, expected {expected.get(name)}"
        if weights[name].dtype != np.float32:
            return f"{name} is {weights[name].dtype}, expected float32"
    return None


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    width_in, experts = sizes.motion_dim + sizes.command_dim, sizes.num_experts
    shapes: dict[str, tuple[int, ...]] = {
        "gate.0.weight": (width_in, sizes.gating_hidden_dim),
        "gate.0.bias": (sizes.gating_hidden_dim,),
        "gate.1.weight": (sizes.gating_hidden_dim, experts),
        "gate.1.bias": (experts,),
        **{f"motion_{name}": (sizes.motion_dim,) for name in ("mean", "std")},
        **{f"command_{name}": (sizes.command_dim,) for name in ("min", "max")},
    }
    widths = [width_in] + [sizes.hidden_dim] * (sizes.num_layers - 1) + [sizes.motion_dim]
    for layer in range(sizes.num_layers):
        shapes[f"layers.{layer}.weight"] = (experts * widths[layer], widths[layer + 1])
        shapes[f"layers.{layer}.bias"] = (experts, widths[layer + 1])
    return shapes
