"""Checkpoint -> TorchScript, for programs that have torch and nothing else of this project."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.kept_files import naming


def export_torchscript(weights: dict[str, np.ndarray], precision: str, path: Path) -> None:
    """Write the one-product graph as TorchScript: ``torch.jit.load(path)(motion, command) -> next_motion``.

    The file holds a dozen plain operations (addmm, mm, elu, softmax, reshape, ...): torch 2.4 on Python 3.8 runs what
    2.13 wrote. Torch promises nothing of the kind: for another pair, export with the torch that will load it, or try.

    Args:
        weights: see ``OneProductNetwork``.
        precision: "fp32" or "fp16".
        path: the file to write.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        scripted = torch.jit.script(OneProductNetwork(weights, precision).eval())
        torch.jit.save(scripted, stream)
    _without_source_paths(stream, path)


def _without_source_paths(stream: io.BytesIO, path: Path) -> None:
    """Copy the archive less its debug records, which hold this machine's paths."""
    with naming(path), zipfile.ZipFile(stream) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as copy:
        for record in archive.infolist():
            if not record.filename.endswith(".debug_pkl"):
                copy.writestr(zipfile.ZipInfo(record.filename), archive.read(record))  # ZipInfo: a fixed time
