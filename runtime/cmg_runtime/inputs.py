"""What callers pass in - lists, numpy arrays, tensors - as checked tensors on the engine's device.

Data that is on the host already is checked there and refused with :class:`EngineError`. Tensors on a GPU are
checked for shape, type and device only: looking at their values would make the host wait.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Callable, List, Sequence, Tuple

import numpy as np
import torch

from cmg_runtime.errors import EngineError, first_line

SEEDS = range(-(1 << 63), 1 << 64)

MOST_BITS = 256
"""Of a count, whose bytes can then still be told in a message: Python makes no float and no digits of any integer."""

Check = Callable[[torch.Tensor, str], None]
"""Raises :class:`EngineError` for values that are wrong, by the name that they are given."""


@dataclass(frozen=True)
class EnvSelection:
    """The environments that a call is about, kept in a form that never needs a copy to the host.

    Attributes:
        num_rows: rows of data that go with the selection.
        ids: [num_rows] int64, or None.
        mask: [num_envs] bool, or None. With a mask there is one row per environment, chosen or not.
            Without ids and mask: every environment.
    """

    num_rows: int
    ids: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    @property
    def is_all(self) -> bool:
        """Whether this is every environment, by its form."""
        return self.ids is None and self.mask is None

    def chosen(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` [num_rows] bool, False where the row's environment is not among the chosen."""
        return rows if self.mask is None else rows & self.mask

    def read(self, state: torch.Tensor) -> torch.Tensor:
        """The rows [num_rows, ...] of ``state`` [num_envs, ...]."""
        return state if self.ids is None else state.index_select(0, self.ids)

    def write(self, state: torch.Tensor, rows: torch.Tensor) -> None:
        """Put ``rows`` [num_rows, ...] in their places of ``state`` [num_envs, ...]; the rest keeps its bits."""
        if self.ids is not None:
            state.index_copy_(0, self.ids, rows)
        elif self.mask is not None:
            state.copy_(torch.where(self.mask.view(-1, *[1] * (state.dim() - 1)), rows, state))
        else:
            state.copy_(rows)

    def narrowed(self, *rows: torch.Tensor) -> Tuple[EnvSelection, List[torch.Tensor]]:
        """The chosen of a mask by their ids, and of each of ``rows`` [num_rows, ...] theirs.

        What is no mask stays as it is, and so does a mask on a GPU: how many it chooses is not known to the host.
        """
        if self.mask is None or self.mask.device.type != "cpu":
            return self, list(rows)
        ids = self.mask.nonzero().squeeze(1)
        return EnvSelection(len(ids), ids=ids), [part.index_select(0, ids) for part in rows]

    def others(self, everyone: torch.Tensor) -> torch.Tensor:
        """Mask [num_envs] bool of the environments that are not chosen; ``everyone`` as in :meth:`columns`."""
        left = torch.ones_like(everyone, dtype=torch.bool)
        self.write(left, torch.zeros_like(self.read(left)))
        return left

    def columns(self, everyone: torch.Tensor) -> torch.Tensor:
        """The chosen environments as ids [n] int64, from ``everyone``, which is 0..num_envs-1.

        How many a mask chooses is not known to the host of a GPU: there n is num_envs, and the id num_envs, which is
        no environment's, stands for each that is not chosen.
        """
        if self.mask is None:
            return everyone if self.ids is None else self.ids
        if self.mask.device.type == "cpu":
            return everyone[self.mask]
        return torch.where(self.mask, everyone, len(everyone))


def select_envs(env_ids: Any, num_envs: int, device: torch.device, name: str = "env_ids") -> EnvSelection:
    """``env_ids`` as a selection.

    Args:
        env_ids: None for every environment; distinct integers in 0..num_envs-1 [n]; or a bool mask [num_envs].
            Integers in a CUDA tensor are not range-checked here: one out of range fails torch's device-side assert.
        name: what to call them in messages.

    Raises:
        EngineError: of another shape, type or device; on the host also: out of range, or the same id twice.
    """
    if env_ids is None:
        return EnvSelection(num_envs)
    if _is_ready(env_ids, torch.int64, device) and env_ids.dim() == 1 and env_ids.shape[0] <= num_envs:
        return EnvSelection(env_ids.shape[0], ids=env_ids)
    ids = _tensor(env_ids, name, device)
    if ids.dim() != 1:
        raise EngineError(f"{name} has shape {_text(ids.shape)}; expected [n] integers or [{num_envs}] bool")
    if ids.dtype == torch.bool:
        if len(ids) != num_envs:
            raise EngineError(f"{name} is a mask of {len(ids)}; expected one entry for each, {num_envs}")
        return EnvSelection(num_envs, mask=_to(ids, device))
    if ids.numel() == 0:
        ids = ids.long()  # an empty list has no type of its own
    if ids.is_floating_point() or ids.is_complex():
        raise EngineError(f"{name} has type {ids.dtype}; expected integers or bool")
    ids = ids.long()
    if ids.device.type == "cpu":
        _require_in_range(ids, num_envs, name)
        if len(ids.unique()) != len(ids):
            raise EngineError(f"{name} has the same id twice; expected each at most once")
    elif len(ids) > num_envs:
        raise EngineError(f"{name} has {len(ids)} ids of {num_envs}; expected each at most once")
    return EnvSelection(len(ids), ids=_to(ids, device))


def as_floats(
    values: Any,
    shapes: Sequence[Sequence[int | None]],
    name: str,
    device: torch.device,
    check: Check | None = None,
) -> torch.Tensor:
    """``values`` as a float32 tensor on ``device``, without gradient.

    Args:
        shapes: the shapes that are right; None stands for any length.
        name: what to call it in messages.
        check: what raises for values on the host that are wrong. None: :func:`require_finite`.

    Raises:
        EngineError: of another shape, type or device; on the host also what ``check`` finds.
    """
    tensor = _tensor(values, name, device)
    if not any(_matches(tensor.shape, shape) for shape in shapes):
        expected = " or ".join(_text(shape) for shape in shapes)
        raise EngineError(f"{name} has shape {_text(tensor.shape)}; expected {expected}")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise EngineError(f"{name} has type {tensor.dtype}; expected real numbers")
    tensor = tensor.float()
    if tensor.device.type == "cpu":
        (check or require_finite)(tensor, name)
    return _to(tensor, device)


def as_rows(
    values: Any, envs: EnvSelection, width: int, name: str, device: torch.device, check: Check | None = None
) -> torch.Tensor:
    """``values``, [envs.num_rows, width] or [width] for all of them, as [envs.num_rows, width]: see :func:`as_floats`.

    Of rows with a mask only the chosen are checked; which these are, a mask on a GPU does not tell the host, and none
    is.
    """
    if _is_ready(values, torch.float32, device) and values.shape == (envs.num_rows, width):
        return values.detach()

    def check_used(rows: torch.Tensor, name: str) -> None:
        if rows.dim() == 1 or envs.mask is None:
            (check or require_finite)(rows, name)
        elif envs.mask.device.type == "cpu":
            (check or require_finite)(rows[envs.mask], name)

    rows = as_floats(values, [(envs.num_rows, width), (width,)], name, device, check_used)
    return rows.expand(envs.num_rows, width)


def as_integers(
    values: Any,
    length: int | None,
    name: str,
    device: torch.device,
    limit: int | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """``values`` as an int64 tensor [length] on ``device``; a length of None stands for any.

    Args:
        mask: [length] bool on ``device``: only the values that it chooses are used; 0 stands for the others.

    Raises:
        EngineError: of another shape, type or device; on the host also, given a ``limit``: outside 0..limit-1. Which
            values are used, a mask on a GPU does not tell the host, and none is refused.
    """
    if mask is None and _is_ready(values, torch.int64, device) and _matches(values.shape, (length,)):
        return values
    tensor = _tensor(values, name, device)
    if not _matches(tensor.shape, (length,)):
        raise EngineError(f"{name} has shape {_text(tensor.shape)}; expected {_text((length,))}")
    if tensor.numel() > 0 and (tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex()):
        raise EngineError(f"{name} has type {tensor.dtype}; expected integers")
    tensor = tensor.long()
    if mask is not None:
        tensor = _to(tensor, device).masked_fill(~mask, 0)
    if limit is not None and tensor.device.type == "cpu":
        _require_in_range(tensor, limit, name)
    return _to(tensor, device)


def as_mask(values: Any, length: int, name: str, device: torch.device) -> torch.Tensor:
    """``values`` as a bool tensor [length] on ``device``. Raises :class:`EngineError` where they are of another shape,
    type or device."""
    mask = _tensor(values, name, device)
    if mask.shape != (length,) or mask.dtype != torch.bool:
        raise EngineError(
            f"{name} has shape {_text(mask.shape)} and type {mask.dtype}; expected {_text((length,))} bool"
        )
    return _to(mask, device)


def require_choice(value: str, name: str, choices: Sequence[str]) -> None:
    """Raise :class:`EngineError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise EngineError(f"unknown {name} {value!r}; expected {' or '.join(choices)}")


def as_integer(value: Any) -> int:
    """An integer of Python's, numpy's or torch's. Raises ``TypeError`` for another, and for booleans."""
    if isinstance(value, bool) or getattr(value, "dtype", None) in (torch.bool, np.bool_):
        raise TypeError
    return operator.index(value)


def as_count(value: Any, name: str, least: int = 1) -> int:
    """``value``, of any integral type, as an int. Raises :class:`EngineError` where it is none, is below ``least``, or
    has more than :data:`MOST_BITS`."""
    try:
        count = as_integer(value)
    except TypeError:
        count = least - 1
    if count < least or count.bit_length() > MOST_BITS:
        raise EngineError(f"{name} is {_said(value)}; expected an integer of at least {least}")
    return count


def as_seed(value: Any) -> int:
    """``value``, of any integral type, as an int. Raises :class:`EngineError` unless torch's generators take it."""
    try:
        seed = as_integer(value)
    except TypeError:
        seed = SEEDS.stop
    if seed not in SEEDS:
        raise EngineError(f"seed is {_said(value)}; expected an integer, {SEEDS.start} to {SEEDS.stop - 1}")
    return seed


def require_finite(tensor: torch.Tensor, name: str) -> None:
    """Raise :class:`EngineError` unless every entry is finite. On CUDA the host waits for the answer."""
    if not bool(torch.isfinite(tensor).all()):
        raise EngineError(f"{name} has entries that are NaN or infinite; expected finite float32 numbers")


def _said(value: Any) -> str:
    """``value`` in a message."""
    long = isinstance(value, int) and value.bit_length() > MOST_BITS
    return f"an integer of {value.bit_length()} bits" if long else repr(value)


def _require_in_range(ids: torch.Tensor, limit: int, name: str) -> None:
    if ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limit:
        raise EngineError(f"{name} has {low if low < 0 else high}; expected 0..{limit - 1}")


def _is_ready(values: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``values`` can be used as they are, if their shape is right: a tensor on a GPU, whose values are not
    looked at. The checks of everything else take the host some 10 us, for what many callers give in every step."""
    return type(values) is torch.Tensor and values.dtype == dtype and values.device == device and not values.is_cpu


def _tensor(values: Any, name: str, device: torch.device) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        if values.device.type != "cpu" and values.device != device:
            raise EngineError(f"{name} is on {values.device}; expected {device}, where the engine is, or the host")
        return values.detach()
    try:
        return torch.as_tensor(np.array(values), device="cpu")  # whatever the caller's default device is
    except (TypeError, ValueError, RuntimeError) as error:
        raise EngineError(f"{name} is not an array of numbers ({first_line(error)})") from None


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.device == device:
        return tensor
    # Of pageable memory the driver keeps its own copy, so there is nothing to wait for. Pinned memory it reads later.
    return tensor.to(device, non_blocking=not (device.type == "cuda" and tensor.is_pinned()))


def _matches(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected))


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("n" if d is None else str(d) for d in shape) + "]"
