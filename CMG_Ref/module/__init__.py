"""The PyTorch model that every compiled artifact is compared with.

Its imports are relative: existing code puts ``CMG_Ref`` itself on the path and imports ``module.cmg``.
"""

from .cmg import CMG
from .gating_network import GatingNetwork
from .moe_layer import MoELayer

__all__ = ["CMG", "GatingNetwork", "MoELayer"]
