"""Whether an engine may be used: every environment was reset, and nothing failed half-way."""

from __future__ import annotations

from types import TracebackType
from typing import Optional, Type

import torch

from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.inputs import EnvSelection


class Readiness:
    """What an engine asks before it works, and a context in which it changes its state.

    An exception inside the context leaves the state half changed: it is turned into an :class:`EngineError` of one
    line, and so is every use of the engine afterwards. An interrupt from the keyboard passes as it is, with the same
    consequence.
    """

    def __init__(self, num_envs: int) -> None:
        self._never: Optional[torch.Tensor] = torch.ones(num_envs, dtype=torch.bool, device="cpu")  # None: all were
        self._failure: Optional[str] = None

    def __enter__(self) -> None:
        self.require_sound()

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is None:
            return
        self._failure = first_line(error)
        if isinstance(error, Exception):
            raise EngineError(self._failed()) from error

    def note(self, envs: EnvSelection) -> None:
        """``envs`` were reset. Until all were, ids and masks on a GPU are copied to the host, which waits for them."""
        never = self._never
        if never is None:
            return
        if envs.ids is not None:
            never[envs.ids.cpu()] = False
        elif envs.mask is not None:
            never &= ~envs.mask.cpu()
        else:
            never[:] = False
        if not bool(never.any()):
            self._never = None

    def require_sound(self) -> None:
        """Raise :class:`EngineError` where the engine has failed."""
        if self._failure is not None:
            raise EngineError(self._failed())

    def require(self, name: str) -> None:
        """Raise :class:`EngineError` where the engine has failed, or an environment was never reset, and ``name`` is
        called."""
        self.require_sound()
        if self._never is not None:
            count, num_envs = int(self._never.sum()), len(self._never)
            raise EngineError(f"{count} of {num_envs} environments were never reset; call reset() before {name}")

    def _failed(self) -> str:
        return f"this engine failed and its frames are not to be used: {self._failure}; load it again"
