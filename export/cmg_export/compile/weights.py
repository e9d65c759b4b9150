"""The graph rewrite: a checkpoint's experts, stacked so that each layer is one matrix product."""

from __future__ import annotations

import numpy as np
import torch

from cmg_export.read.checkpoint import Checkpoint


def one_product_weights(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The float32 arrays of ``weights.npz``, as :class:`cmg_runtime.backends.one_product.OneProductNetwork` lists them.

    A layer ``y = sum_e c_e (x W_e + b_e)`` equals ``(c (x) x) W + c b`` with ``(c (x) x)[e * in + i] = c_e x_i``,
    ``W = vstack(W_e)`` and ``b = stack(b_e)``: the same numbers, in another order of summation.
    """
    state, sizes, stats = checkpoint.state_dict, checkpoint.sizes, checkpoint.stats
    tensors = {
        "gate.0.weight": state["gating.gating_network.0.weight"].T,
        "gate.0.bias": state["gating.gating_network.0.bias"],
        "gate.1.weight": state["gating.gating_network.2.weight"].T,
        "gate.1.bias": state["gating.gating_network.2.bias"],
    }
    experts = range(sizes.num_experts)
    for layer in range(sizes.num_layers):
        tensors[f"layers.{layer}.weight"] = torch.cat([state[f"layers.{layer}.expert_weights.{e}"] for e in experts])
        tensors[f"layers.{layer}.bias"] = torch.stack([state[f"layers.{layer}.expert_biases.{e}"] for e in experts])
    weights = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    for name in ("motion_mean", "motion_std", "command_min", "command_max"):
        weights[name] = np.asarray(getattr(stats, name), dtype=np.float32)
    return weights
