"""``weights.npz``: the arrays that the ``torch`` and the ``fused`` backend compute with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import Artifact, Manifest, Sizes
from cmg_runtime.folder.npz import read_npz


def read_weights(folder: Path, artifact: Artifact, manifest: Manifest) -> dict[str, np.ndarray]:
    """Name -> float32 array, as :class:`cmg_runtime.backends.one_product.OneProductNetwork` takes them.

    Raises:
        EngineError: the file is missing or differs from its hash, or its arrays are not those of a network of the
            manifest's sizes. A kernel would read beyond them.
    """
    weights = read_npz(folder, artifact)
    problem = _difference(weights, manifest.sizes)
    if problem:
        raise EngineError(
            f"{artifact.file} holds other weights than this network's ({problem}); rebuild the engine folder"
        )
    return weights


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
