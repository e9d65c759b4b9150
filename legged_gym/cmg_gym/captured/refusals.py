"""What cannot be captured, and how it runs all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Refusal:
    """A piece or term that runs between the graphs.

    Attributes:
        name: of it.
        reason: why.
        milliseconds: what it takes, the GPU's work included.
    """

    name: str
    reason: str
    milliseconds: float


class CounterRead(RuntimeError):
    """A term reads the environment's step counter, a number of the host's."""


class Hoisted:
    """A term that is evaluated just before its manager's graph, which finds the result in a buffer.

    Args:
        func: the term's function.
        env, params: what it is called with.
        piece: the piece of the step that asks for it.
        name: of the term.
    """

    def __init__(self, func: Any, env: Any, params: dict[str, Any], piece: str, name: str) -> None:
        self._func, self._env, self._params = func, env, params
        self.piece, self.name = piece, name
        self._value = func(env, **params).clone()

    def evaluate(self) -> None:
        """Evaluate it."""
        self._value.copy_(self._func(self._env, **self._params))

    def __call__(self, env: Any, **params: Any) -> torch.Tensor:
        return self._value

    def __getattr__(self, name: str) -> Any:  # reset, debug_vis, ...
        return getattr(self.__dict__["_func"], name)
