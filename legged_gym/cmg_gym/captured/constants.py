"""Numbers and lists that code gives to the device at every use: in a graph they are there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode


class HostConstants(TorchFunctionMode):
    """A context in which constants of the host are copied to the device at their first use only.

    What a graph cannot hold is a copy from the host: ``x[:, [3, 5]]``, ``x[ids] = 0.0`` and ``torch.tensor([0, 0, 1],
    device=x.device)`` are such. A graph has the values of its capture in any case.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._kept: dict[Any, torch.Tensor] = {}
        self._missing: dict[Any, tuple[Any, torch.dtype | None]] = {}
        self._capturing = False

    @contextmanager
    def while_captured(self) -> Iterator[None]:
        """The context around code that is being captured, where nothing can be copied: what is missing is noted."""
        self._capturing = True
        try:
            with self:
                yield
        finally:
            self._capturing = False

    def bring_missing(self) -> bool:
        """Copy what was noted while code was captured. True: there was some, and what was captured is without it."""
        missing, self._missing = self._missing, {}
        for value, dtype in missing.values():
            self._constant(value, dtype)
        return bool(missing)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.__getitem__ and args[0].device == self._device:
            return func(args[0], self._index(args[1]))
        if func is torch.Tensor.__setitem__ and args[0].device == self._device:
            return func(args[0], self._index(args[1]), self._value(args[2], args[0], args[1]))
        if func in (torch.tensor, torch.as_tensor) and _is_plain(args[0]) and self._is_here(kwargs.get("device")):
            return self._constant(args[0], kwargs.get("dtype")).clone()
        return func(*args, **kwargs)

    def _index(self, index: Any) -> Any:
        if isinstance(index, list) and index and _is_plain(index):
            return self._constant(index, None)
        if isinstance(index, tuple):
            return tuple(self._index(part) for part in index)
        return index

    def _value(self, value: Any, target: torch.Tensor, index: Any) -> Any:
        if isinstance(value, (bool, int, float)) and not isinstance(index, slice):
            return self._constant(value, target.dtype)
        return value

    def _constant(self, value: Any, dtype: torch.dtype | None) -> torch.Tensor:
        key = (repr(value), dtype)
        if key in self._kept:
            return self._kept[key]
        if self._capturing:
            self._missing[key] = value, dtype
            return torch.empty(np.shape(value), dtype=dtype or _dtype_of(value), device=self._device)
        self._kept[key] = torch.tensor(value, dtype=dtype).to(self._device)
        return self._kept[key]

    def _is_here(self, device: Any) -> bool:
        if device is None:
            return False
        named = torch.device(device)
        return named.type == self._device.type and named.index in (None, self._device.index)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return isinstance(value, (bool, int, float))


def _dtype_of(value: Any) -> torch.dtype:
    """That of ``torch.tensor(value)``."""
    return {"b": torch.bool, "i": torch.int64}.get(np.asarray(value).dtype.kind, torch.get_default_dtype())
