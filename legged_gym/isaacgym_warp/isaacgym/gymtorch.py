"""Tensors of the simulation as torch tensors: here they are torch tensors already, and stay where they are."""

import torch

from isaacgym.structs import GymError


def wrap_tensor(gym_tensor: torch.Tensor, offsets: object = None, counts: object = None) -> torch.Tensor:
    """The tensor that an ``acquire_..._tensor`` gave, over the same memory.

    Raises:
        GymError: a part of it is asked for.
    """
    if offsets is not None or counts is not None:
        raise GymError("wrap_tensor takes no offsets and counts here; slice the torch tensor that it returns")
    return gym_tensor


def unwrap_tensor(torch_tensor: torch.Tensor) -> torch.Tensor:
    """A torch tensor as the ``set_..._tensor`` methods take it.

    Raises:
        GymError: its elements do not lie in one row in memory.
    """
    if not torch_tensor.is_contiguous():
        raise GymError(
            f"a contiguous tensor was expected, not one of shape {tuple(torch_tensor.shape)} and strides "
            f"{torch_tensor.stride()}; call .contiguous() and keep the result while it is used"
        )
    return torch_tensor
