"""Whether an engine may be used: every environment was reset, and nothing failed half-way."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any, Callable, Optional, Type, TypeVar, cast

import torch

from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.inputs import EnvSelection

LOSSES = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "global/shared address space",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "uncorrectable",
    "context is destroyed",
)
"""In what CUDA says of errors after which no call works any more in the process."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Readiness:
    """What an engine asks before it works, and a context in which it changes its state.

    An exception inside the context leaves the state half changed: it is turned into an :class:`EngineError` of one
    line, and so is every use of the engine afterwards. An interrupt from the keyboard passes as it is, with the same
    consequence.
    """

    def __init__(self, num_envs: int) -> None:
        self._never: Optional[torch.Tensor] = torch.ones(num_envs, dtype=torch.bool, device="cpu")  # None: all were
        self._ended: Optional[str] = None  # why it is of no use any more, in one line

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is None:
            return
        self._fail(first_line(error))
        if isinstance(error, Exception):
            raise EngineError(self._ended) from error

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
        """Raise :class:`EngineError` where the engine has failed or ended."""
        if self._ended is not None:
            raise EngineError(self._ended)

    def note_error(self, error: RuntimeError) -> None:
        """Raise :class:`EngineError` where ``error`` says that the device is lost, by whatever work before: then the
        engine has failed. Others, a lack of memory or a call that a capture forbids, leave all as it was."""
        text = first_line(error)
        if any(loss in text for loss in LOSSES):
            self._fail(text)
            raise EngineError(self._ended) from error

    def require_reset(self, name: str) -> None:
        """Raise :class:`EngineError` where an environment was never reset, and ``name`` is called."""
        if self._never is not None:
            count, num_envs = int(self._never.sum()), len(self._never)
            raise EngineError(f"{count} of {num_envs} environments were never reset; call reset() before {name}")

    def end(self, why: str) -> None:
        """The engine is of no use any more, and ``why`` is the answer to every use."""
        self._ended = why

    def _fail(self, text: str) -> None:
        self.end(f"this engine failed and its frames are not to be used: {text}; load it again")


def of_a_sound_engine(method: Method) -> Method:
    """For methods of what has a :class:`Readiness` as ``_ready``: once the engine has failed nothing is done, nothing
    copied to a device that may be lost; and it has failed when an error of the device comes up in any of them. Nothing
    that they do is recorded for a gradient.
    """

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        ready: Readiness = self._ready
        ready.require_sound()
        recording = torch.is_grad_enabled()
        if recording:  # as torch.no_grad() does, for half the time or none
            torch.set_grad_enabled(False)
        try:
            return method(self, *arguments, **named)
        except EngineError:
            raise
        except RuntimeError as error:
            ready.note_error(error)
            raise
        finally:
            if recording:
                torch.set_grad_enabled(True)

    return cast(Method, call)
