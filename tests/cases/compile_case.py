"""Networks of odd sizes and their ONNX graphs, each made once for all tests of a process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from cmg_export.compile.onnx import export_onnx, trace
from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.folder.manifest import Manifest
from engine_folder import SEED, bare_manifest
from make_checkpoint import MadeCheckpoint, make_checkpoint

SIZES: dict[str, dict[str, Any]] = {
    "usual": {"num_joints": 29, "hidden_dim": 64},
    "deep": {"num_joints": 23, "hidden_dim": 96, "num_experts": 6, "num_layers": 4},
    "wide gate": {"num_joints": 29, "hidden_dim": 33, "num_experts": 3, "num_layers": 2, "gating_hidden_dim": 70},
    "least": {"num_joints": 4, "hidden_dim": 9, "num_experts": 1, "num_layers": 1, "command_dim": 1},
    "trained": {"num_joints": 29, "hidden_dim": 512, "num_experts": 4, "num_layers": 3},
}

_kept: list[tempfile.TemporaryDirectory[str]] = []


class Network(NamedTuple):
    """A checkpoint, its one-product weights, and what a manifest says of it."""

    made: MadeCheckpoint
    weights: dict[str, np.ndarray]
    about: Manifest


def _folder() -> Path:
    _kept.append(tempfile.TemporaryDirectory())
    return Path(_kept[-1].name)


@functools.cache
def network(size: str) -> Network:
    made = make_checkpoint(_folder(), seed=SEED, **SIZES[size])
    checkpoint = load_checkpoint(made.path)
    source = {"sha256": "ab" * 32, "license": "CC-BY-4.0"}
    about = bare_manifest(checkpoint.sizes, checkpoint.stats, name="test engine", source=source)
    return Network(made, one_product_weights(checkpoint), about)


@functools.cache
def _traced(size: str) -> onnx.ModelProto:
    return trace(network(size).weights)


@functools.cache
def graph(size: str, precision: str) -> Path:
    """``cmg_<precision>.onnx``, alone in its folder."""
    path = _folder() / f"cmg_{precision}.onnx"
    export_onnx(network(size).weights, precision, network(size).about, path, _traced(size))
    return path
