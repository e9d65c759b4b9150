"""The one-product form of the generator: the graph that every artifact is made from.

The layer ``y = sum_e c_e (x W_e + b_e)`` is one matrix product, ``y = (c (x) x) vstack(W_e) + c b``:
no weight tensor per sample ever exists. Normalisation is part of the graph, so inputs and outputs
are in radians, rad/s, m/s.
"""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class OneProductNetwork(nn.Module):
    """Motion state + command -> next motion state, physical units in and out.

    Args:
        weights: the arrays of ``weights.npz`` (float32):
            ``gate.0.weight`` [in, H], ``gate.0.bias`` [H], ``gate.1.weight`` [H, E], ``gate.1.bias`` [E];
            for each layer l, ``layers.{l}.weight`` [E * in, out] (experts stacked, expert-major) and
            ``layers.{l}.bias`` [E, out]; ``motion_mean``, ``motion_std`` [motion_dim],
            ``command_min``, ``command_max`` [command_dim].
        precision: "fp32", or "fp16": products of half-precision operands, see ``fp16`` below.
    """

    def __init__(self, weights: Dict[str, np.ndarray], precision: str = "fp32") -> None:
        super().__init__()
        raise NotImplementedError
