"""The PyTorch model that every compiled artifact is compared with."""

from CMG_Ref.module.cmg import CMG
from CMG_Ref.module.gating_network import GatingNetwork
from CMG_Ref.module.moe_layer import MoELayer

__all__ = ["CMG", "GatingNetwork", "MoELayer"]
