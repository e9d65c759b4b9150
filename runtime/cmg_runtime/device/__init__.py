"""What every kind of device needs: graphs, kernels compiled at run time, precision, memory, forks, ends."""

from __future__ import annotations

import torch

from cmg_runtime.errors import EngineError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device with its index, so that it compares equal to the device of tensors that live on it.

    Raises:
        EngineError: neither a CPU nor a CUDA device that is there.
    """
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        raise EngineError(f"unknown device {device!r}; expected cpu, cuda or cuda:<index>") from None
    if target.type == "cpu":
        return torch.device("cpu")
    if target.type != "cuda":
        raise EngineError(f"device '{target}' is not supported; expected cpu, cuda or cuda:<index>")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (target.index or 0) >= count:
        raise EngineError(f"device '{target}' is not there, torch sees {count} CUDA devices; use device='cpu'")
    return torch.device("cuda", torch.cuda.current_device() if target.index is None else target.index)
